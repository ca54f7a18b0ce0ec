"""The sensor-rich cart-pole as a world to learn in and an arena to be judged in."""

from __future__ import annotations

import numpy as np

from benchmarks.refinement_study.cartpole import EPISODE_TICKS, LAYOUT, SensorCartPole
from benchmarks.refinement_study.faults import FAULTS, MASKED, NOMINAL, START

ANGLE = LAYOUT.channels.index("angle_encoder.pole")
TIED = tuple(
    LAYOUT.channels.index(c)
    for c in ("position_encoder.cart", "tachometer.cart", "angle_encoder.pole", "gyro.pole", "motor_force.cart",
              "reference.target")
)  # fmt: skip
"""Channels that get a latent each; the others are explained by these."""
ANGLE_LATENT = TIED.index(ANGLE)


class CartPoleWorld:
    """N cart-poles whose episodes end at staggered times."""

    layout = LAYOUT

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.count = count
        self._world = SensorCartPole(count, rng)
        self._age = rng.integers(0, EPISODE_TICKS, count)

    def reset(self, which: np.ndarray) -> None:
        """New episodes where `which` (N,) is true."""
        self._world.reset(which)
        self._age[which] = 0

    def observe(self) -> np.ndarray:
        """Readings (N, D) SI."""
        return self._world.observe()

    def step(self, action: np.ndarray) -> np.ndarray:
        """Execute normalised actions (N, 1)."""
        self._world.step(action[:, 0])
        self._age += 1
        return action

    def expert(self) -> np.ndarray:
        """Regulator's action (N, 1) on the true state."""
        return self._world.expert()[:, None]

    def over(self) -> np.ndarray:
        """Where the episode has ended (N,)."""
        ended: np.ndarray = self._world.failed | (self._age >= EPISODE_TICKS)
        return ended


class CartPoleArena:
    """The same `episodes` under each of `faults`."""

    layout = LAYOUT
    ticks = EPISODE_TICKS
    start = START

    def __init__(self, faults: tuple[str, ...], episodes: int, seed: int) -> None:
        self.faults, self.episodes = faults, episodes
        payload = np.repeat([FAULTS[f].payload for f in faults], episodes)
        self._world = SensorCartPole(len(payload), np.random.default_rng(seed), payload, copies=len(faults))
        self._effects = [FAULTS[f].start(np.random.default_rng([seed, 1])) for f in faults]
        self._action = np.zeros((len(payload), 1))
        self._tick = 0

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Readings (N, D) SI, NaN where lost, and mask (N, D)."""
        clean = np.split(self._world.observe(), len(self.faults))
        seen = np.ones((self.episodes, LAYOUT.size))
        pairs = [e.apply(r, seen, self._tick) for e, r in zip(self._effects, clean, strict=True)]
        self._tick += 1
        readings, mask = zip(*pairs, strict=True)
        return np.concatenate(readings), np.concatenate(mask)

    def step(self, action: np.ndarray) -> None:
        """Execute normalised actions (N, 1)."""
        self._action = action
        self._world.step(action[:, 0])

    def executed(self) -> np.ndarray:
        """Normalised actions (N, 1)."""
        return self._action

    def cost(self) -> np.ndarray:
        """J of the tick that has passed (N,)."""
        return 100 * self._world.cost()

    def truth(self) -> np.ndarray:
        """Angle (N,), normalised."""
        angle: np.ndarray = self._world.state[:, 2] / LAYOUT.scale[ANGLE]
        return angle

    def alive(self) -> np.ndarray:
        """(N,) bool."""
        return ~self._world.failed


MASKED_FAULTS = tuple(n for n, f in FAULTS.items() if f.family in (NOMINAL, MASKED))
ALL_FAULTS = tuple(FAULTS)
