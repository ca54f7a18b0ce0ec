"""Sensors that fail while training: independent dropout, bursts, and sensors that are lost for a whole episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.contract import Observation
from runtime.errors import GanglionError
from training.ranges import Count, Share, check_ranges


@dataclass(frozen=True)
class Augmentation:
    """How sensors fail. Each kind is drawn apart, so an episode may have none, one or several."""

    dropout_share: Share = 0.5
    """Share of episodes with independent dropout."""
    dropout_rate: Share = 0.6
    """Largest chance that a channel is missing in a tick; each such episode draws its own up to it."""
    burst_share: Share = 0.5
    """Share of episodes in which sensors or groups vanish for a while."""
    burst_chance: Share = 1 / 150
    """Chance of a new burst per tick."""
    burst_ticks: tuple[int, ...] = (10, 250)
    """Shortest and longest burst."""
    permanent_share: Share = 0.25
    """Share of episodes with sensors that are lost from beginning to end."""
    permanent_units: Count = 2
    """Largest number of sensors or groups lost so."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(self.burst_ticks) != 2 or not 1 <= self.burst_ticks[0] <= self.burst_ticks[1]:
            raise GanglionError(f"burst_ticks is {self.burst_ticks}, expected the shortest and the longest, from 1 up")


NO_FAILURES = Augmentation(dropout_share=0.0, burst_share=0.0, permanent_share=0.0)


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
        self,
        observations: tuple[Observation, ...],
        num_envs: int,
        rng: np.random.Generator,
        augmentation: Augmentation,
    ) -> None:
        self._rng = rng
        self._augmentation = augmentation
        self._units = failure_units(observations)
        maskable = [not o.required for o in observations for _ in o.channels]
        self._maskable = np.array(maskable)
        bounds = np.cumsum([0] + [len(o.channels) for o in observations])
        self._groups = [
            (slice(a, b), o.min_valid) for a, b, o in zip(bounds[:-1], bounds[1:], observations, strict=True)
        ]
        self._rate = np.zeros(num_envs)
        self._bursts = np.zeros(num_envs)
        self._until = np.zeros((num_envs, len(maskable)), dtype=np.int64)
        self._lost = np.zeros((num_envs, len(maskable)), dtype=bool)
        self._tick = 0
        self.restart(np.ones(num_envs, dtype=bool))

    def restart(self, which: np.ndarray) -> None:
        """New episodes where `which` (N,) is true."""
        n, a, rng = int(which.sum()), self._augmentation, self._rng
        self._rate[which] = (rng.random(n) < a.dropout_share) * rng.uniform(0, a.dropout_rate, n)
        self._bursts[which] = (rng.random(n) < a.burst_share) * a.burst_chance
        self._until[which] = 0
        self._lost[which] = False
        if not self._units:
            return
        for i in np.flatnonzero(which)[rng.random(n) < a.permanent_share]:
            for unit in rng.choice(len(self._units), rng.integers(1, a.permanent_units + 1)):
                self._lost[i, self._units[unit]] = True
        for where, least in self._groups:  # what would leave too few is not lost
            broken = (~self._lost[:, where]).sum(1) < least
            self._lost[broken, where] = False

    def step(self) -> np.ndarray:
        """Mask (N, D) float32 of the next tick, one where the channel is seen."""
        count, size = self._until.shape
        shortest, longest = self._augmentation.burst_ticks
        self._tick += 1
        for i in np.flatnonzero(self._rng.random(count) < self._bursts):
            unit = self._units[self._rng.integers(len(self._units))]
            end = self._tick + self._rng.integers(shortest, longest + 1)
            self._until[i, unit] = np.maximum(self._until[i, unit], end)
        luck = self._rng.random((count, size)) - self._lost  # below zero, hence below any rate, where lost
        seen = (self._until <= self._tick) & (luck >= self._rate[:, None]) | ~self._maskable
        for where, least in self._groups:
            short = seen[:, where].sum(1) < least
            if not short.any():
                continue
            luckiest = np.argsort(-luck[short, where], axis=1)[:, :least]
            returned = seen[short, where]
            np.put_along_axis(returned, luckiest, True, axis=1)
            seen[short, where] = returned
        return seen.astype(np.float32)
