"""Sensors as on hardware: noise, bias that walks, quantisation, rate, latency and jitter, and the time of each reading.

What a sensor reads without errors is a function of the simulation and the task. Every tick the suite makes readings of
it; a sensor that is slower than the control loop, or late, shows what was true some time ago, interpolated between
ticks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.contract import Observation
from sim.simulation import Simulation

Reader = Callable[[Simulation, Any], np.ndarray]
"""(simulation, task) to SI values (n,) without errors."""


_HISTORY_TICKS = 64
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Sensor:
    """One sensor: what it observes, as in the contract, and how well."""

    observation: Observation
    read: Reader
    noise: tuple[float, ...] = ()
    """Standard deviation of every channel, SI; none if empty."""
    quantum: float = 0.0
    """Step of the reading, SI; 0 is none."""
    bias: float = 0.0
    """Standard deviation of the bias with which an episode starts, SI."""
    bias_walk: float = 0.0
    """By which it goes on, SI/√s."""
    rate_hz: float = 0.0
    """Readings per second; 0 is one every tick."""
    latency_s: float = 0.0
    jitter_s: float = 0.0
    """Largest further delay; each reading draws its own."""
    differenced: str = ""
    """Name of the observation whose readings' change per second this one reports, in place of `read`."""
    direction: bool = False
    """The reading has length 1 whatever its errors."""


class SensorSuite:
    """The sensors of one simulation, channel by channel in one flat vector (D,)."""

    def __init__(self, sensors: tuple[Sensor, ...], period_s: float) -> None:
        sizes = [len(s.observation.channels) for s in sensors]
        self._period_s = period_s
        self._owner = np.repeat(np.arange(len(sensors)), sizes)
        starts = np.cumsum([0, *sizes])
        where = {s.observation.name: slice(a, b) for s, a, b in zip(sensors, starts[:-1], starts[1:], strict=True)}
        self._noise = np.concatenate([s.noise or np.zeros(n) for s, n in zip(sensors, sizes, strict=True)])

        def column(attribute: str) -> np.ndarray:
            return np.array([getattr(s, attribute) for s in sensors], dtype=np.float64)

        quantum = column("quantum")[self._owner]
        self._rounded = np.flatnonzero(quantum)
        self._quantum = quantum[self._rounded]
        self._bias_std, self._walk = column("bias")[self._owner], column("bias_walk")[self._owner]
        self._rate, self._latency, self._jitter = column("rate_hz"), column("latency_s"), column("jitter_s")
        self._drifts = bool(self._bias_std.any() or self._walk.any())
        self._late = bool(self._rate.any() or self._latency.any() or self._jitter.any())
        self._differenced = [(where[s.observation.name], where[s.differenced]) for s in sensors if s.differenced]
        self._directions = [where[s.observation.name] for s in sensors if s.direction]
        self.noise_factor = 1.0
        """Multiplies the noise of every sensor."""
        self.extra_latency_s = 0.0
        self._tick = 0
        self._history: deque[np.ndarray] = deque(maxlen=_HISTORY_TICKS)
        self._bias = np.zeros(len(self._owner))
        self.values = np.zeros(len(self._owner))
        """The latest reading of every channel (D,), SI."""
        self.measured_s = np.zeros(len(self._owner))
        """When each channel's reading (D,) was true, in seconds since the episode began."""
        self.received_s = np.zeros(len(self._owner))
        """When it arrived, (D,)."""

    def reset(self, clean: np.ndarray, rng: np.random.Generator) -> None:
        """First readings of an episode that begins with `clean` (D,), as if it had always been so."""
        self._tick = 0
        self._history.clear()
        self._history.append(clean)
        if self._drifts:
            self._bias = self._bias_std * rng.standard_normal(len(clean))
        self._sampled_s = np.full(len(self._rate), -np.inf)
        self._read(clean, rng)
        for part, _ in self._differenced:
            self.values[part] = 0.0

    def advance(self, clean: np.ndarray, rng: np.random.Generator) -> None:
        """Readings of the next tick, in which `clean` (D,) is true."""
        self._tick += 1
        self._history.append(clean)
        if self._drifts:
            self._bias += self._walk * np.sqrt(self._period_s) * rng.standard_normal(len(clean))
        self._read(clean, rng)

    def _read(self, clean: np.ndarray, rng: np.random.Generator) -> None:
        now_s = self._tick * self._period_s
        before = self.values
        late = self._late or self.extra_latency_s > 0.0
        if late:
            clean, fresh = self._delayed(clean, now_s, rng)
            self.received_s[fresh] = now_s
        else:
            self.measured_s.fill(now_s)
            self.received_s.fill(now_s)
        values = clean + self.noise_factor * self._noise * rng.standard_normal(len(clean))
        if self._drifts:
            values += self._bias
        if len(self._rounded):
            values[self._rounded] = np.rint(values[self._rounded] / self._quantum) * self._quantum
        for part in self._directions:
            values[part] /= max(float(np.linalg.norm(values[part])), _TOLERANCE)
        if late:
            values = np.where(fresh, values, before)
        for part, source in self._differenced:
            values[part] = (values[source] - before[source]) / self._period_s
        self.values = values

    def _delayed(self, clean: np.ndarray, now_s: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What was true (D,) when each sensor sampled last, and whether that sample is new (D,)."""
        delay = self._latency + self.extra_latency_s
        if self._jitter.any():
            delay = delay + self._jitter * rng.random(len(delay))
        ready = now_s - delay
        with np.errstate(divide="ignore", invalid="ignore"):
            grid = np.floor(ready * self._rate + _TOLERANCE) / self._rate
        sampled = np.where(self._rate > 0, grid, ready)
        new = sampled > self._sampled_s + _TOLERANCE
        self._sampled_s = np.where(new, sampled, self._sampled_s)
        ago = np.clip((now_s - self._sampled_s) / self._period_s, 0.0, len(self._history) - 1.0)[self._owner]
        self.measured_s[:] = self._sampled_s[self._owner]
        rows = np.stack(self._history)
        newest, columns = len(rows) - 1, np.arange(len(clean))
        below = np.floor(ago).astype(int)
        share = ago - below
        older = np.minimum(below + 1, newest)
        then = (1.0 - share) * rows[newest - below, columns] + share * rows[newest - older, columns]
        return then, new[self._owner]
