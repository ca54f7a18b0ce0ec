"""Settings of a training run; the field docs are the command line's help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import GanglionError
from sim.tasks import NOMINAL, TaskInfo, task_class
from training.agent.config import AgentConfig
from training.augment import Augmentation
from training.ranges import Count, Natural, NonNegative, OpenShare, Positive, check_ranges


@dataclass(frozen=True)
class Options:
    """Settings of one learning algorithm, in its own file; the types of their fields tell their ranges."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a run; saved with it."""

    task: str
    """Name of the task."""
    algo: str = "ppo"
    """Learning algorithm; its own settings follow it."""
    options: Options = field(default_factory=Options)
    """Settings of the algorithm."""
    seed: Natural = 0
    """Seeds the simulations, the network and every draw."""
    start: str = ""
    """Folder of a run of the same task whose policy and critic to begin with; none if empty."""
    steps: Count = 1_000_000
    """Environment steps in all."""
    worlds: tuple[str, ...] = ()
    """Worlds of the task in which the simulations run, in turn; every one but the nominal if empty."""
    num_envs: Count = 64
    """Simulations that run in parallel."""
    workers: Count = 2
    """Processes that share the simulations."""
    horizon: Count = 64
    """Ticks per simulation between updates."""
    sequence: Count = 16
    """Ticks of the sequences through which the model learns; divides the horizon."""
    model_learning_rate: Positive = 1e-3
    """Start of Adam's step size for the model, decayed to zero."""
    gamma: OpenShare = 0.98
    """Discount."""
    noise_decay: NonNegative = 0.0
    """How far a bound on the logarithm of a gaussian policy's standard deviation falls during the run, in a straight
    line from the agent's initial one: what is learned under noise is not best without. 0 is no bound."""
    model_epochs: Natural = 2
    """Passes of the model over each batch; 0 leaves it as it is."""
    model_batch: Count = 64
    """Sequences that the model waits for before it learns from them, where rollouts are short."""
    model_only_steps: Natural = 20_000
    """Steps at the start during which only the model learns."""
    overshoot: Natural = 8
    """Ticks over which the model also predicts without looking; below `sequence`, 0 is none."""
    refine: tuple[int, ...] = (0, 1, 2, 4)
    """Refinement steps K; each sequence draws one, so that one set of weights works at every K."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Sensors that fail while training."""
    eval_every: Natural = 50_000
    """Steps between evaluations of the deployed action in the nominal world; 0 is none. The best is kept as best.pt."""
    eval_episodes: Count = 10
    """Episodes of an evaluation, the same ones each time."""
    checkpoint_every: Count = 50_000
    """Steps between checkpoints."""
    log_every: Count = 1
    """Steps between lines of progress.jsonl and events of TensorBoard, each the mean of the updates since the last;
    with 1, every update is one."""
    device: str = "auto"
    """Where the agent computes and learns: cpu, cuda or mps; auto is a GPU where there is one."""
    cluster: str = ""
    """Ray cluster whose actors simulate: host:port of its head, auto for the one that this machine belongs to, or local
    to start one here; none if empty, and `workers` simulate."""
    actors: Count = 2
    """Actors on the cluster, which share the simulations."""
    learning_threads: Count = 1
    """Threads of torch while the agent learns on a CPU: more help large networks on cores that have nothing else to do,
    and round differently."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """The network."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.workers > self.num_envs:
            raise GanglionError(f"workers is {self.workers}, expected at most one for each of {self.num_envs} num_envs")
        if self.horizon % self.sequence:
            raise GanglionError(f"horizon {self.horizon} must be a multiple of sequence {self.sequence}")
        if self.overshoot >= self.sequence:
            raise GanglionError(f"overshoot {self.overshoot} must be below sequence {self.sequence}; 0 is none")
        most = self.agent.inference.max_steps
        if not (self.refine and all(0 <= k <= most for k in self.refine)):
            raise GanglionError(f"refine {self.refine} must lie between 0 and the agent's max_steps {most}")

    def info(self) -> type[TaskInfo]:
        """What there is to know of the task. Raises GanglionError for an unknown one."""
        return task_class(self.task)

    def simulated_worlds(self) -> tuple[str, ...]:
        """Names of the worlds in which the simulations run, in turn."""
        every = tuple(name for name in task_class(self.task).worlds() if name != NOMINAL)
        return self.worlds or every or (NOMINAL,)


def changed_options(given: dict[str, Any], usual: dict[str, Any], prefix: str = "--") -> Iterator[str]:
    """Words of the command line for every setting that is not the `usual` one."""
    for name, value in given.items():
        option, known = prefix + name.replace("_", "-"), usual[name]
        if isinstance(value, dict) and isinstance(known, dict):
            yield from changed_options(value, known, f"{option}.")
        elif value is True or value is False:
            if value != known:
                yield option if value else option.replace(prefix, f"{prefix}no-", 1)
        elif value != known:
            yield f"{option} {' '.join(map(str, value)) if isinstance(value, list) else value}"
