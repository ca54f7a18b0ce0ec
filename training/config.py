"""Settings of a training run; the field docs are the command line's help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.contract import Layout, Node
from runtime.schema import to_plain
from sim.robots.a1 import A1, ACROSS, DRIVE, FOOT_RADIUS, HIP_OFFSET, HIPS, LEGS, STANCE_HEIGHT, THIGH
from sim.tasks import NOMINAL, TaskInfo, task_class
from training.agent.config import AgentConfig
from training.agent.gait import Mirror, Reading, TrotConfig
from training.augment import Augmentation
from training.kinematics import joint_kinematics


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a run; saved with it."""

    task: str
    """Name of the task."""
    algorithm: str = "ppo"
    """Learning algorithm."""
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
    learning_rate: float = 1e-3
    """Start of Adam's step size, adapted to `target_kl` for the policy, decayed to zero for the model."""
    gamma: float = 0.98
    """Discount."""
    gae_lambda: float = 0.95
    """Trace of the generalised advantage estimate."""
    clip: float = 0.2
    """PPO's clipping range of the probability ratio."""
    epochs: int = 5
    """Passes of PPO over each batch."""
    minibatches: int = 4
    """Minibatches per pass."""
    target_kl: float = 0.02
    """KL divergence per update that the policy's step size aims at."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    noise_decay: float = 0.0
    """How far a bound on the logarithm of the policy's standard deviation falls during the run, in a straight line from
    the agent's initial one: what is learned under noise is not best without. 0 is no bound."""
    model_epochs: int = 2
    """Passes of the model over each batch."""
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


_TROTTING_WEIGHT = 68.0  # N: half of the A1 with a payload of 1.5 kg

_PRESETS = {
    "cartpole": TrainConfig(task="cartpole", steps=200_000, gamma=0.99, agent=AgentConfig(hidden=48)),
    "a1_walk": TrainConfig(
        task="a1_walk",
        horizon=32,
        gamma=0.99,
        model_epochs=1,
        refine=(0, 1, 1, 2),
        noise_decay=1.3,
        augmentation=Augmentation(burst_share=0.0, permanent_share=0.0),
        worlds=("randomised", "rough"),
        agent=AgentConfig(hidden=128, initial_log_std=-1.6),
    ),
    "a1_stand": TrainConfig(
        task="a1_stand",
        steps=400_000,
        horizon=32,
        gamma=0.99,
        model_epochs=1,
        noise_decay=1.0,
        agent=AgentConfig(hidden=128, initial_log_std=-1.5),
    ),
    "husky_goto": TrainConfig(task="husky_goto", steps=800_000, gamma=0.99, model_epochs=1, noise_decay=1.2),
    "kuka_reach": TrainConfig(task="kuka_reach", steps=1_500_000, horizon=128, model_epochs=1),
    "panda_reach": TrainConfig(task="panda_reach", steps=1_000_000, model_epochs=1),
}


def trot(task: type[TaskInfo], layout: Layout) -> TrotConfig:
    """Trot of the Unitree A1 in a task that observes a command."""

    def reading(name: str) -> Reading:
        where = layout.slices[name]
        mean, scale = layout.mean[where].tolist(), layout.scale[where].tolist()
        return Reading(tuple(range(where.start, where.stop)), tuple(mean), tuple(scale))

    joints = Mirror(ACROSS, tuple(-1.0 if "hip" in j else 1.0 for j in A1.joint_names))
    mirrors = {
        "joint_position": joints,
        "joint_velocity": joints,
        "gravity": Mirror((0, 1, 2), (1.0, -1.0, 1.0)),
        "angular_velocity": Mirror((0, 1, 2), (-1.0, 1.0, -1.0)),
        "command": Mirror((0, 1, 2), (1.0, -1.0, -1.0)),
    }
    latents = [(where.start + i, s) for n, where in layout.slices.items() for i, s in zip(*vars(mirrors[n]).values())]

    return TrotConfig(
        hips=tuple(HIPS[leg] for leg in LEGS),
        offsets=tuple(HIP_OFFSET * (1 if leg.endswith("L") else -1) for leg in LEGS),
        link=THIGH,
        height=STANCE_HEIGHT - FOOT_RADIUS,
        foot_radius=FOOT_RADIUS,
        phases=(0.0, 0.5, 0.5, 0.0),
        weight=_TROTTING_WEIGHT,
        stiffness=DRIVE.stiffness,
        period_s=1 / task.rate_hz,
        command=reading("command"),
        position=reading("joint_position"),
        velocity=reading("joint_velocity"),
        gyro=reading("angular_velocity"),
        latents=Mirror(*zip(*latents)),
        joints=joints,
        joint_offset=task.action.offset,
        joint_scale=task.action.scale,
    )


def preset(task: str) -> TrainConfig:
    """Settings that are known to solve `task`; the defaults for a task without its own.

    The latent node has one latent for every channel, tied to it: free latents, and channels that are explained by
    others, move while the model learns, and a policy that reads them learns more slowly. Joints move by their
    velocities from the start.

    Raises GanglionError for an unknown task.
    """
    known = task_class(task)
    layout = Layout(known.observations, known.action)
    tied = tuple(range(layout.size))
    config = _PRESETS.get(task, TrainConfig(task=task))
    kinematics = joint_kinematics(layout, tied, 1 / known.rate_hz)
    gait = trot(known, layout) if known.robot is A1 and "command" in layout.slices else None
    agent = replace(config.agent, nodes=(Node("state", len(tied)),), tied=tied, kinematics=kinematics, gait=gait)
    return replace(config, agent=agent)


def command_line(config: TrainConfig) -> str:
    """The command that trains so: seed, steps, and every setting that is not the task's own."""
    usual = to_plain(preset(config.task)) | {"seed": None, "steps": None}
    return " ".join(("ganglion train", config.task, *changed_options(to_plain(config), usual)))


def changed_options(given: dict[str, Any], usual: dict[str, Any], prefix: str = "--") -> Iterator[str]:
    """Words of the command line for every setting that is not the `usual` one."""
    for name, value in given.items():
        option, known = prefix + name.replace("_", "-"), usual[name]
        if isinstance(value, dict) and isinstance(known, dict):
            yield from changed_options(value, known, f"{option}.")
        elif value != known:
            yield f"{option} {' '.join(map(str, value)) if isinstance(value, list) else value}"
