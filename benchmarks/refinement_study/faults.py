"""Named sensor faults in physical units, by what the agent is told of them.

`MASKED` faults lose readings: the mask is zero there, the reading NaN. `UNDETECTED` faults falsify readings, and the
mask stays one. The reference is never touched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from benchmarks.refinement_study.cartpole import LAYOUT, NOISE, OBSERVATIONS, TICK_S

NOMINAL, MASKED, UNDETECTED = "nominal", "masked", "undetected"

START = 100
"""First tick of every fault but the outages."""
OUTAGES = (300, 650)
"""First ticks of the two outages of a group."""
GROUPS = {
    "cart": ("position_encoder", "lidar", "tachometer"),
    "pole": ("angle_encoder", "gyro", "accelerometer"),
    "motor": ("motor_force",),
}
_PAIRS = (
    ("gyro", "accelerometer"),
    ("angle_encoder", "gyro"),
    ("position_encoder", "tachometer"),
    ("tachometer", "gyro"),
)
_BIAS = {
    "position_encoder": 0.3,
    "lidar": 0.3,
    "tachometer": 0.5,
    "angle_encoder": 0.1,
    "gyro": 0.5,
    "accelerometer.axial": 2.0,
    "accelerometer.tangential": 2.0,
    "motor_force": 3.0,
}
_SENSORS = tuple(o.name for o in OBSERVATIONS if not o.required)
_FALLIBLE = np.concatenate([LAYOUT.channel_indices(name) for name in _SENSORS])

Faulted = tuple[np.ndarray, np.ndarray]


class Effect(Protocol):
    """A fault in one run; it may remember, so every run starts its own."""

    def apply(self, readings: np.ndarray, mask: np.ndarray, tick: int) -> Faulted:
        """New readings (N, D) SI and mask (N, D); called once per tick, from tick 0 on."""


@dataclass(frozen=True)
class Fault:
    """One named fault."""

    family: str
    """`NOMINAL`, `MASKED` or `UNDETECTED`."""
    start: Callable[[np.random.Generator], Effect]
    """The fault in a new run: pure given the generator's seed."""
    payload: float = 1.0
    """Factor on the cart's mass, for the environment."""


@dataclass(frozen=True)
class Harmless:
    """No effect on the readings."""

    def apply(self, readings: np.ndarray, mask: np.ndarray, tick: int) -> Faulted:
        return readings, mask


@dataclass(frozen=True)
class Lost:
    """From each tick of `since` on, for `ticks`, readings of `channels` are missing with a chance of `rate` each."""

    channels: np.ndarray
    since: tuple[int, ...]
    rng: np.random.Generator
    rate: float = 1.0
    ticks: float = np.inf

    def apply(self, readings: np.ndarray, mask: np.ndarray, tick: int) -> Faulted:
        hidden = np.zeros(readings.shape, dtype=bool)
        if any(first <= tick < first + self.ticks for first in self.since):
            hidden[:, self.channels] = self.rng.random((len(readings), len(self.channels))) < self.rate
        return np.where(hidden, np.nan, readings), np.where(hidden, 0, mask).astype(mask.dtype)


@dataclass(frozen=True)
class Noise:
    """From tick `start` on, the sensors' own noise, with standard deviation `std` (D,), is `factor` times as large."""

    std: np.ndarray
    factor: float
    start: int
    rng: np.random.Generator

    def apply(self, readings: np.ndarray, mask: np.ndarray, tick: int) -> Faulted:
        if tick < self.start:
            return readings, mask
        # Variances add up: what is already there is the first of factor² parts.
        added = np.sqrt(self.factor**2 - 1) * self.std * self.rng.standard_normal(readings.shape)
        return readings + added, mask


@dataclass(frozen=True)
class Linear:
    """From tick `start` on, readings of `channels` are multiplied by `gain`, then shifted by `offset`."""

    channels: np.ndarray
    start: int
    gain: float = 1.0
    offset: float = 0.0

    def apply(self, readings: np.ndarray, mask: np.ndarray, tick: int) -> Faulted:
        result = readings.copy()
        if tick >= self.start:
            result[:, self.channels] = self.gain * readings[:, self.channels] + self.offset
        return result, mask


@dataclass
class Stuck:
    """From tick `start` on, the readings of `channels` stay what they were."""

    channels: np.ndarray
    start: int
    held: np.ndarray | None = None

    def apply(self, readings: np.ndarray, mask: np.ndarray, tick: int) -> Faulted:
        if tick < self.start:
            return readings, mask
        if self.held is None:
            self.held = readings[:, self.channels].copy()
        result = readings.copy()
        result[:, self.channels] = self.held
        return result, mask


@dataclass
class _Delay:
    channels: np.ndarray
    ticks: int
    past: deque[np.ndarray] = field(default_factory=deque)

    def apply(self, readings: np.ndarray, mask: np.ndarray, tick: int) -> Faulted:
        self.past.append(readings[:, self.channels].copy())
        if len(self.past) > self.ticks + 1:
            self.past.popleft()
        if tick < START:
            return readings, mask
        result = readings.copy()
        result[:, self.channels] = self.past[0]
        return result, mask


def _lost(names: tuple[str, ...], since: tuple[int, ...], ticks: float) -> Fault:
    channels = np.concatenate([LAYOUT.channel_indices(name) for name in names])
    return Fault(MASKED, lambda rng: Lost(channels, since, rng, ticks=ticks))


def _masked() -> dict[str, Fault]:
    faults = {"dropout80": Fault(MASKED, lambda rng: Lost(_FALLIBLE, (START,), rng, rate=0.8))}
    for group, names in GROUPS.items():
        for seconds in (0.2, 0.5, 2.0):
            faults[f"{group}_out_{seconds:g}s"] = _lost(names, OUTAGES, round(seconds / TICK_S))
    for names in (*((name,) for name in _SENSORS), *_PAIRS):
        faults["dead_" + "+".join(names)] = _lost(names, (START,), np.inf)
    return faults


def _undetected() -> dict[str, Fault]:
    def linear(target: str, gain: float = 1.0, offset: float = 0.0) -> Fault:
        channels = LAYOUT.channel_indices(target)
        return Fault(UNDETECTED, lambda rng: Linear(channels, START, gain, offset))

    def stuck(target: str) -> Fault:
        channels = LAYOUT.channel_indices(target)
        return Fault(UNDETECTED, lambda rng: Stuck(channels, START))

    def delay(target: str) -> Fault:
        channels = LAYOUT.channel_indices(target)
        return Fault(UNDETECTED, lambda rng: _Delay(channels, ticks=10))

    return {
        "noise_x3": Fault(UNDETECTED, lambda rng: Noise(NOISE, 3.0, START, rng)),
        **{f"bias_{target}": linear(target, offset=offset) for target, offset in _BIAS.items()},
        **{f"stuck_{name}": stuck(name) for name in _SENSORS},
        **{f"scale_{name}": linear(name, gain=1.5) for name in _SENSORS},
        **{f"delay_{name}": delay(name) for name in _SENSORS},
        "payload_x1.5": Fault(UNDETECTED, lambda rng: Harmless(), payload=1.5),
    }


FAULTS: dict[str, Fault] = {"nominal": Fault(NOMINAL, lambda rng: Harmless()), **_masked(), **_undetected()}
