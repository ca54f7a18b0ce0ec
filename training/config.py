"""Settings of a training run; the field docs are the command line's help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sim.tasks import NOMINAL, TaskInfo, task_class
from training.agent.config import AgentConfig
from training.augment import Augmentation


@dataclass(frozen=True)
class Options:
    """Settings of one learning algorithm, in its own file."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a run; saved with it."""

    task: str
    """Name of the task."""
    algo: str = "ppo"
    """Learning algorithm; its own settings follow it."""
    options: Options = field(default_factory=Options)
    """Settings of the algorithm."""
    seed: int = 0
    """Seeds the simulations, the network and every draw."""
    start: str = ""
    """Folder of a run of the same task whose policy and critic to begin with; none if empty."""
    steps: int = 1_000_000
    """Environment steps in all."""
    worlds: tuple[str, ...] = ()
    """Worlds of the task in which the simulations run, in turn; every one but the nominal if empty."""
    num_envs: int = 64
    """Simulations that run in parallel."""
    workers: int = 2
    """Processes that share the simulations."""
    horizon: int = 64
    """Ticks per simulation between updates."""
    sequence: int = 16
    """Ticks of the sequences through which the model learns; divides the horizon."""
    model_learning_rate: float = 1e-3
    """Start of Adam's step size for the model, decayed to zero."""
    gamma: float = 0.98
    """Discount."""
    noise_decay: float = 0.0
    """How far a bound on the logarithm of a gaussian policy's standard deviation falls during the run, in a straight
    line from the agent's initial one: what is learned under noise is not best without. 0 is no bound."""
    model_epochs: int = 2
    """Passes of the model over each batch; 0 leaves it as it is."""
    model_only_steps: int = 20_000
    """Steps at the start during which only the model learns."""
    overshoot: int = 8
    """Ticks over which the model also predicts without looking; below `sequence`, 0 is none."""
    refine: tuple[int, ...] = (0, 1, 2, 4)
    """Refinement steps K; each sequence draws one, so that one set of weights works at every K."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Sensors that fail while training."""
    checkpoint_every: int = 20
    """Updates between checkpoints."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """The network."""

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
        elif value != known:
            yield f"{option} {' '.join(map(str, value)) if isinstance(value, list) else value}"
