"""Settings that are known to solve a task, and the command that gives them."""

from __future__ import annotations

from dataclasses import replace

from runtime.contract import Layout, Node
from runtime.schema import to_plain
from sim.robots.a1 import A1, ACROSS, DRIVE, FOOT_RADIUS, HIP_OFFSET, HIPS, LEGS, STANCE_HEIGHT, THIGH
from sim.tasks import TaskInfo, task_class
from training.agent.config import AgentConfig
from training.agent.gait import Mirror, Reading, TrotConfig
from training.algorithms import algorithm_class
from training.augment import Augmentation
from training.config import TrainConfig, changed_options
from training.kinematics import joint_kinematics

_TROTTING_WEIGHT = 68.0  # N: half of the A1 with a payload of 1.5 kg

_CARTPOLE = TrainConfig(task="cartpole", steps=200_000, horizon=32, gamma=0.99, agent=AgentConfig(hidden=48))

_PRESETS = {
    "cartpole": _CARTPOLE,
    "cartpole_push": replace(_CARTPOLE, task="cartpole_push"),
    "a1_walk": TrainConfig(
        task="a1_walk",
        horizon=32,
        gamma=0.99,
        model_epochs=1,
        refine=(0, 1, 1, 2),
        noise_decay=1.3,
        augmentation=Augmentation(burst_share=0.0, permanent_share=0.0),
        worlds=("randomised", "rough"),
        eval_every=200_000,
        agent=AgentConfig(hidden=128, initial_log_std=-1.6),
    ),
    "a1_stand": TrainConfig(
        task="a1_stand",
        steps=400_000,
        horizon=32,
        gamma=0.99,
        model_epochs=1,
        noise_decay=1.0,
        eval_every=200_000,
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


def preset(task: str, algo: str = "ppo") -> TrainConfig:
    """Settings that are known to solve `task`; the defaults for a task without its own.

    The latent node has one latent for every channel, tied to it: free latents, and channels that are explained by
    others, move while the model learns, and a policy that reads them learns more slowly. Joints move by their
    velocities from the start.

    Raises GanglionError for an unknown task or algorithm, or one that the task's action does not suit.
    """
    known = task_class(task)
    layout = Layout(known.observations, known.action)
    tied = tuple(range(layout.size))
    config = _PRESETS.get(task, TrainConfig(task=task))
    kinematics = joint_kinematics(layout, tied, 1 / known.rate_hz)
    gait = trot(known, layout) if known.robot is A1 and "command" in layout.slices else None
    agent = replace(config.agent, nodes=(Node("state", len(tied)),), tied=tied, kinematics=kinematics, gait=gait)
    return algorithm_class(algo).prepare(replace(config, agent=agent))


def command_line(config: TrainConfig) -> str:
    """The command that trains so: seed, steps, and every setting that is not the usual one of the task."""
    usual = to_plain(preset(config.task, config.algo)) | {"seed": None, "steps": None, "algo": "ppo"}
    given = to_plain(config)
    own = changed_options(given.pop("options"), usual.pop("options"))
    words = (*changed_options(given, usual), *own)
    return " ".join(("ganglion train", config.task, *words))
