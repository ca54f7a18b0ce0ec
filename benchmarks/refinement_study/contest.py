"""Who competes, where, and how each is trained and judged: the table that the study runs through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.refinement_study import cartpole_arena, kuka_arena
from benchmarks.refinement_study.cartpole import LAYOUT as CARTPOLE
from benchmarks.refinement_study.cartpole import TICK_S
from benchmarks.refinement_study.cloning import Schedule, World
from benchmarks.refinement_study.judging import Arena
from benchmarks.refinement_study.oracle import OraclePilot
from benchmarks.refinement_study.pilots import GRU, HoldMLP, Pilot, Predictive, StackMLP
from runtime.contract import Layout, Node
from sim.tasks.kuka_reach import KukaReach
from training.agent.agent import Agent
from training.agent.config import AgentConfig, InferenceConfig
from training.augment import Augmentation
from training.kinematics import joint_kinematics


@dataclass(frozen=True)
class Task:
    """A world to learn in and an arena to be judged in."""

    layout: Layout
    period_s: float
    tied: tuple[int, ...]
    """Channels that get a latent each."""
    hidden: int
    make_world: Callable[[int, np.random.Generator], World]
    make_arena: Callable[[tuple[str, ...], int, int], Arena]
    """From faults, episodes per fault, and a seed."""
    faults: tuple[str, ...]
    masked: tuple[str, ...]
    """Those of `faults` of which the mask tells, and the nominal case."""
    swept: tuple[str, ...]
    """Those of `masked` under which the number of refinement steps is varied."""
    estimate: int
    """Latent whose error is judged."""
    estimate_scale: float
    """From normalised units to those of the table."""
    cost: str
    """What J is the mean of, in words."""
    estimated: str
    """What the estimate is of, and its unit in the table."""
    rows: int = 10_000
    """Largest number of episodes flown at once, for their memory."""


@dataclass(frozen=True)
class Variant:
    """One way of running a trained pilot."""

    name: str
    steps: int = 0
    checks: bool = False
    """Whether the sensor checks are on."""
    everywhere: bool = True
    """On every fault, or only on those that are swept."""


@dataclass(frozen=True)
class Contestant:
    """One kind of agent."""

    make: Callable[[Task], Pilot]
    schedule: Schedule | None
    """None if there is nothing to learn; then one seed is all seeds."""
    variants: tuple[Variant, ...] = (Variant("default"),)
    tasks: tuple[str, ...] = ("cartpole", "kuka_reach")


TASKS = {
    "cartpole": Task(
        layout=CARTPOLE,
        period_s=TICK_S,
        tied=cartpole_arena.TIED,
        hidden=48,
        make_world=cartpole_arena.CartPoleWorld,
        make_arena=cartpole_arena.CartPoleArena,
        faults=cartpole_arena.ALL_FAULTS,
        masked=cartpole_arena.MASKED_FAULTS,
        swept=cartpole_arena.MASKED_FAULTS,
        estimate=cartpole_arena.ANGLE_LATENT,
        estimate_scale=1e3 * float(CARTPOLE.scale[cartpole_arena.ANGLE]),
        cost="100 min(1, (x - r)² + 5 θ²), and 100 after a fall",
        estimated="the pole's angle, mrad",
    ),
    "kuka_reach": Task(
        layout=kuka_arena.LAYOUT,
        period_s=1 / KukaReach.rate_hz,
        tied=kuka_arena.TIED,
        hidden=64,
        make_world=kuka_arena.KukaWorld,
        make_arena=kuka_arena.KukaArena,
        faults=kuka_arena.ALL_FAULTS,
        masked=kuka_arena.MASKED_FAULTS,
        swept=("nominal", "dropout80", "dead_joint_4", "dead_joint_2+joint_4", "dead_end_effector"),
        estimate=kuka_arena.ELBOW_LATENT,
        estimate_scale=1e3 * float(kuka_arena.LAYOUT.scale[kuka_arena.ELBOW]),
        cost="the distance from the target, cm",
        estimated="the elbow's angle, mrad",
        rows=64,
    ),
}

AUGMENTATIONS = {
    "iid": Augmentation(burst_share=0.0, permanent_share=0.0),
    "full": Augmentation(),
}
"""What fails in training: independent dropout alone, so that every other fault is unseen; or everything declared."""


def _predictive(task: Task, inference: InferenceConfig, overshoot: int = 8) -> Predictive:
    config = AgentConfig(
        nodes=(Node("state", len(task.tied)),),
        tied=task.tied,
        hidden=task.hidden,
        inference=inference,
        kinematics=joint_kinematics(task.layout, task.tied, task.period_s),
    )
    return Predictive(Agent(config, task.layout.size, task.layout.joints), overshoot)


def _feedforward(kind: type[HoldMLP] | type[StackMLP] | type[GRU]) -> Callable[[Task], Pilot]:
    return lambda task: kind(task.layout.size, task.layout.joints)


_BASE = Schedule()
_PREDICTIVE = Schedule(updates=5000, ticks=16, worlds=128)
"""Of the project's agents, whose tick costs the same for 64 worlds as for 128."""
_SETTLING = 1000
"""Updates, of those whose answer depends on the latents' noise."""

CONTESTANTS = {
    "hold": Contestant(_feedforward(HoldMLP), replace(_BASE, updates=4000)),
    "stack": Contestant(_feedforward(StackMLP), replace(_BASE, updates=4000)),
    "gru": Contestant(_feedforward(GRU), replace(_BASE, updates=2000, ticks=64)),
    "amortized": Contestant(
        lambda task: _predictive(task, InferenceConfig("amortized", default_steps=0, max_steps=0)),
        _PREDICTIVE,
    ),
    "plain": Contestant(
        lambda task: _predictive(task, InferenceConfig("gradient")),
        replace(_PREDICTIVE, refine=(0, 1, 2, 4), settling=_SETTLING),
        (Variant("default", 4), *(Variant(f"K={k}", k, everywhere=False) for k in (0, 1, 2, 8))),
    ),
    "gauss_newton": Contestant(
        lambda task: _predictive(task, InferenceConfig("gauss_newton")),
        replace(_PREDICTIVE, refine=(0, 1, 1, 2), settling=_SETTLING),
        (
            Variant("default", 1),
            Variant("checks", 1, checks=True),
            *(Variant(f"K={k}", k, everywhere=False) for k in (0, 2, 4, 8)),
        ),
    ),
    "oracle": Contestant(lambda task: OraclePilot(), None, tasks=("cartpole",)),
}
