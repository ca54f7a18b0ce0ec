"""The reach task of the simulated KUKA as a world to learn in and an arena to be judged in, with its sensor faults."""

from __future__ import annotations

import weakref
from itertools import combinations

import numpy as np

from benchmarks.refinement_study.faults import (
    MASKED,
    NOMINAL,
    UNDETECTED,
    Fault,
    Harmless,
    Linear,
    Lost,
    Noise,
    Stuck,
)
from benchmarks.refinement_study.kuka_expert import expert_action
from runtime.contract import Layout
from sim.env import RobotEnv
from sim.robots.kuka import KUKA
from sim.tasks.kuka_reach import KukaReach

LAYOUT = Layout(KukaReach.observations, KukaReach.action)
NOISE = np.concatenate([s.noise for s in KukaReach.sensors])
"""Standard deviation (D,) of every channel, SI; the target is exact."""
_TIED = ("joint_position", "joint_velocity", "target")
TIED = tuple(np.concatenate([LAYOUT.channel_indices(o) for o in _TIED]).tolist())
"""Channels that get a latent each; the end effector is explained by these."""
ELBOW = LAYOUT.channels.index("joint_position.lbr_iiwa_joint_4")
ELBOW_LATENT = TIED.index(ELBOW)
START = 10
"""First tick of every fault, when the pose has been seen."""

_ELBOW_JOINT = KUKA.joint_names.index("lbr_iiwa_joint_4")
_FALLIBLE = np.concatenate([LAYOUT.channel_indices(o.name) for o in LAYOUT.observations if not o.required])
_CM = 100.0
_idle: list[RobotEnv] = []


class Robots:
    """N simulated robots of the task, given back when the object goes.

    A simulation takes 60 ms to make and 36 MB to keep, so the next world or arena gets those that are idle. A reset
    with a seed does not depend on what came before.
    """

    def __init__(self, count: int) -> None:
        self.envs = [_idle.pop() if _idle else RobotEnv(KukaReach.name) for _ in range(count)]
        self.readings = np.zeros((count, LAYOUT.size))
        """Noisy readings (N, D) of this tick, SI."""
        self.executed = np.zeros((count, LAYOUT.joints))
        """Normalised actions (N, A) of the last tick, after limits."""
        self.error_m = np.zeros(count)
        """Distance (N,) of the end effector from the target after the last tick."""
        weakref.finalize(self, _idle.extend, self.envs)

    def reset(self, row: int, seed: int) -> None:
        """Start the episode of `seed` in one row."""
        self.readings[row], _ = self.envs[row].reset(seed=seed)

    def step(self, action: np.ndarray) -> None:
        """One tick with normalised actions (N, A)."""
        for row, (env, own) in enumerate(zip(self.envs, action, strict=True)):
            self.readings[row], _, _, _, info = env.step(own)
            self.executed[row], self.error_m[row] = env.executed, info["tracking_error_m"]

    def positions(self) -> np.ndarray:
        """Joint positions (N, 7) without noise, rad."""
        return np.array([env.sim.joint_states()[0] for env in self.envs])


class KukaWorld:
    """N robots whose episodes end at staggered times."""

    layout = LAYOUT

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.count, self._rng = count, rng
        self._robots = Robots(count)
        self._age = np.zeros(count, dtype=np.int64)
        self.reset(np.ones(count, dtype=bool))
        self._age[:] = rng.integers(0, KukaReach.episode_steps, count)

    def reset(self, which: np.ndarray) -> None:
        """New episodes where `which` (N,) is true."""
        for row in np.flatnonzero(which).tolist():
            self._robots.reset(row, int(self._rng.integers(2**31)))
        self._age[which] = 0

    def observe(self) -> np.ndarray:
        """Readings (N, D) SI."""
        return self._robots.readings.copy()

    def step(self, action: np.ndarray) -> np.ndarray:
        """Execute normalised actions (N, A); what was executed after limits (N, A)."""
        self._robots.step(action)
        self._age += 1
        return self._robots.executed.copy()

    def expert(self) -> np.ndarray:
        """Damped least squares (N, A) on the true joint positions."""
        return expert_action(self._robots.positions(), self._robots.readings[:, LAYOUT.slices["target"]])

    def over(self) -> np.ndarray:
        """Where the episode has ended (N,)."""
        ended: np.ndarray = self._age >= KukaReach.episode_steps
        return ended


class KukaArena:
    """The same `episodes` under each of `faults`: episode e has the seed `seed` + e in all of them."""

    layout = LAYOUT
    ticks = KukaReach.episode_steps
    start = START

    def __init__(self, faults: tuple[str, ...], episodes: int, seed: int) -> None:
        self.faults, self.episodes = faults, episodes
        self._robots = Robots(len(faults) * episodes)
        for row in range(len(faults) * episodes):
            self._robots.reset(row, seed + row % episodes)
        self._effects = [FAULTS[f].start(np.random.default_rng([seed, 1])) for f in faults]
        self._tick = 0

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Readings (N, D) SI, NaN where lost, and mask (N, D)."""
        seen = np.ones((self.episodes, LAYOUT.size))
        clean = np.split(self._robots.readings, len(self.faults))
        pairs = [e.apply(r, seen, self._tick) for e, r in zip(self._effects, clean, strict=True)]
        self._tick += 1
        readings, mask = zip(*pairs, strict=True)
        return np.concatenate(readings), np.concatenate(mask)

    def step(self, action: np.ndarray) -> None:
        """Execute normalised actions (N, A)."""
        self._robots.step(action)

    def executed(self) -> np.ndarray:
        """Normalised actions (N, A) after limits."""
        return self._robots.executed.copy()

    def cost(self) -> np.ndarray:
        """Distance from the target (N,) after the tick that has passed, cm."""
        return _CM * self._robots.error_m

    def truth(self) -> np.ndarray:
        """Position of the elbow (N,), normalised."""
        elbow: np.ndarray = self._robots.positions()[:, _ELBOW_JOINT]
        return (elbow - LAYOUT.mean[ELBOW]) / LAYOUT.scale[ELBOW]

    def alive(self) -> np.ndarray:
        """(N,) bool; nothing ends an episode early."""
        return np.ones(len(self._robots.envs), dtype=bool)


def _lost(*targets: str, seconds: float = np.inf) -> Fault:
    channels = np.concatenate([LAYOUT.channel_indices(t) for t in targets])
    return Fault(MASKED, lambda rng: Lost(channels, (START,), rng, ticks=seconds * KukaReach.rate_hz))


def _biased(channel: str, offset: float) -> Fault:
    return Fault(UNDETECTED, lambda rng: Linear(LAYOUT.channel_indices(channel), START, offset=offset))


def _stuck(target: str) -> Fault:
    return Fault(UNDETECTED, lambda rng: Stuck(LAYOUT.channel_indices(target), START))


def _faults() -> dict[str, Fault]:
    joints = {f"joint_{i}": name for i, name in enumerate(KUKA.joint_names, 1)}
    return {
        "nominal": Fault(NOMINAL, lambda rng: Harmless()),
        "dropout80": Fault(MASKED, lambda rng: Lost(_FALLIBLE, (START,), rng, rate=0.8)),
        **{f"dead_{short}": _lost(name) for short, name in joints.items()},
        **{f"dead_{a}+{b}": _lost(joints[a], joints[b]) for a, b in combinations(joints, 2)},
        "dead_end_effector": _lost("end_effector"),
        "dead_velocities": _lost("joint_velocity"),
        **{f"encoders_out_{s:g}s": _lost("joint_position", "joint_velocity", seconds=s) for s in (0.2, 0.5, 2.0)},
        **{f"bias_{short}": _biased(f"joint_position.{name}", 0.1) for short, name in joints.items()},
        "bias_end_effector.x": _biased("end_effector.x", 0.05),
        **{f"stuck_{short}": _stuck(name) for short, name in joints.items()},
        "noise_x3": Fault(UNDETECTED, lambda rng: Noise(NOISE, 3.0, START, rng)),
    }


FAULTS = _faults()
ALL_FAULTS = tuple(FAULTS)
MASKED_FAULTS = tuple(n for n, f in FAULTS.items() if f.family in (NOMINAL, MASKED))
