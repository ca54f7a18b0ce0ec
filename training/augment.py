"""Sensors that fail while training: independent dropout, and sensors or groups lost for a while."""

from __future__ import annotations

import numpy as np

from runtime.contract import Observation

_SPARED = 0.5  # share of episodes without independent dropout, and, drawn apart, of those without outages
_LARGEST_RATE = 0.6
_OUTAGE_CHANCE = 1 / 150  # per tick
_OUTAGE_TICKS = (10, 250)


def failure_units(observations: tuple[Observation, ...]) -> list[np.ndarray]:
    """Groups of channels that fail together: each channel, each joint's encoder, each observation that may vanish.

    Channels of required observations never fail.
    """
    units: list[list[int]] = []
    by_name: dict[str, list[int]] = {}
    start = 0
    for o in observations:
        indices = list(range(start, start + len(o.channels)))
        start += len(o.channels)
        if o.required:
            continue
        units += [[i] for i in indices]
        if o.min_valid == 0:
            units.append(indices)
        for name, index in zip(o.channels, indices, strict=True):
            by_name.setdefault(f"{name}@{o.topic}", []).append(index)
    units += [group for group in by_name.values() if len(group) > 1]
    return [np.array(u, dtype=np.int64) for u in units]


class SensorDropout:
    """Masks (N, D) for N environments; every environment has its own pattern, renewed with each episode."""

    def __init__(
        self, observations: tuple[Observation, ...], num_envs: int, rng: np.random.Generator, enabled: bool = True
    ) -> None:
        self._rng = rng
        self._enabled = enabled
        self._units = failure_units(observations)
        maskable = [not o.required for o in observations for _ in o.channels]
        self._maskable = np.array(maskable)
        bounds = np.cumsum([0] + [len(o.channels) for o in observations])
        self._groups = [
            (slice(a, b), o.min_valid) for a, b, o in zip(bounds[:-1], bounds[1:], observations, strict=True)
        ]
        self._rate = np.zeros(num_envs)
        self._outages = np.zeros(num_envs)
        self._until = np.zeros((num_envs, len(maskable)), dtype=np.int64)
        self._tick = 0
        self.restart(np.ones(num_envs, dtype=bool))

    def restart(self, which: np.ndarray) -> None:
        """New episodes where `which` (N,) is true."""
        n = int(which.sum())
        self._rate[which] = (self._rng.random(n) > _SPARED) * self._rng.uniform(0, _LARGEST_RATE, n)
        self._outages[which] = (self._rng.random(n) > _SPARED) * _OUTAGE_CHANCE
        self._until[which] = 0

    def step(self) -> np.ndarray:
        """Mask (N, D) float32 of the next tick, one where the channel is seen."""
        count, size = self._until.shape
        if not self._enabled:
            return np.ones((count, size), np.float32)
        self._tick += 1
        for i in np.flatnonzero(self._rng.random(count) < self._outages):
            unit = self._units[self._rng.integers(len(self._units))]
            self._until[i, unit] = self._tick + self._rng.integers(*_OUTAGE_TICKS)
        seen = (self._until < self._tick) & (self._rng.random((count, size)) >= self._rate[:, None])
        seen |= ~self._maskable
        for where, least in self._groups:
            short = seen[:, where].sum(1) < least
            seen[short, where] = True
        return seen.astype(np.float32)
