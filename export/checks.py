"""Calibration of the sensor checks, so that they hardly ever mask a channel of a robot whose sensors are well.

The bounds come from nominal episodes with the checks off; what they then do wrong is measured on other episodes with
the checks on, since a masked channel changes the belief.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from export.record import HELD_OUT, record_nominal
from runtime.bundle import Bundle
from runtime.contract import ChannelCheck, Contract, Observation, SensorChecks
from training.agent.agent import Agent
from training.agent.sensors import DISTRUSTED, FROZEN, OFF, REPEATS, SLOW, SLOW_STD, SensorBelief

LARGEST_FALSE_ALARM = 1e-3
"""Fraction of a channel's nominal ticks."""
_RARE = 1e-4  # fraction of the ticks that the first bounds may exceed
_LEAST_SPIKE, _SPIKE_MARGIN = 4.0, 1.1
_LEAST_DRIFT, _DRIFT_MARGIN = 4.5, 1.2
_REPEATS = range(2, 101)  # one second at 100 Hz is too late to be of use
_RAISE = 1.25
_ROUNDS = 5


@dataclass(frozen=True)
class Bounds:
    """What `SensorBelief` holds, (D,) each; OFF is a check that is off."""

    spike: np.ndarray
    drift: np.ndarray
    repeats: np.ndarray

    def put(self, sensors: SensorBelief) -> None:
        """Let `sensors` check by these bounds."""
        for name, values in vars(self).items():
            getattr(sensors, name).copy_(torch.from_numpy(values))

    def raised(self, gate: np.ndarray, frozen: np.ndarray) -> Bounds:
        """A quarter higher for the channels (D,) bool of each check."""
        return Bounds(
            np.where(gate, _RAISE * self.spike, self.spike),
            np.where(gate, _RAISE * self.drift, self.drift),
            np.where(frozen, np.ceil(_RAISE * self.repeats), self.repeats),
        )

    def without(self, gate: np.ndarray, frozen: np.ndarray) -> Bounds:
        """Off for the channels (D,) bool of each check."""
        off = [np.where(w, OFF, b) for w, b in ((gate, self.spike), (gate, self.drift), (frozen, self.repeats))]
        return Bounds(*off)


def calibrate_checks(
    agent: Agent,
    bundle_of: Callable[[Agent], Bundle],
    task: str,
    seed: int,
    report: Callable[[str], None],
    episodes: int = 40,
) -> tuple[Bundle, SensorChecks]:
    """Set the bounds of `agent.sensors`, which must be off; the bundle that `bundle_of` makes of it, and what it does.

    A check that masks a channel in more than 0.1 % of the ticks of `episodes` new nominal episodes has its bounds
    raised by a quarter there; after five times it is switched off there, which `report` is told.
    """
    fresh_seeds = (range(first, first + episodes) for first in itertools.count(seed + 3 * HELD_OUT, HELD_OUT))
    bundle = bundle_of(agent)
    nominal = record_nominal(bundle, task, next(fresh_seeds))
    bounds = find_bounds(nominal.arrays, bundle.contract.observations)
    for attempt in itertools.count():
        bounds.put(agent.sensors)
        bundle = bundle_of(agent)
        verdict = record_nominal(bundle, task, next(fresh_seeds))["verdict"]
        gate, frozen = ((verdict == v).mean(0) for v in (DISTRUSTED, FROZEN))
        noisy = (gate > LARGEST_FALSE_ALARM, frozen > LARGEST_FALSE_ALARM)
        if not np.any(noisy):
            break
        if attempt < _ROUNDS:
            bounds = bounds.raised(*noisy)
        else:
            bounds = bounds.without(*noisy)
            channels = [c for c, off in zip(bundle.contract.layout.channels, np.any(noisy, axis=0)) if off]
            report(f"switch a sensor check off, it is wrong too often: {', '.join(channels)}")
    return bundle, _checks(bounds, gate, frozen, len(verdict), bundle.contract)


def find_bounds(nominal: Mapping[str, np.ndarray], observations: tuple[Observation, ...]) -> Bounds:
    """Bounds that nominal ticks with the checks off hardly ever exceed; off for required observations.

    `nominal` holds `innovation` (N, D) and the carried `state.sensors` (N, 4, D).
    """
    size = np.abs(nominal["innovation"])
    slow = np.abs(nominal["state.sensors"][:, SLOW]) / SLOW_STD
    required = np.array([o.required for o in observations for _ in o.channels])
    spike = np.maximum(_LEAST_SPIKE, _SPIKE_MARGIN * np.quantile(size, 1 - _RARE, axis=0))
    drift = np.maximum(_LEAST_DRIFT, _DRIFT_MARGIN * np.quantile(slow, 1 - _RARE, axis=0))
    repeats = _fewest_repeats(nominal["state.sensors"][:, REPEATS])
    return Bounds(spike, drift, repeats).without(required, required)


def _fewest_repeats(seen: np.ndarray) -> np.ndarray:
    """For repeats so far (N, D), the fewest (D,) that hardly any tick has reached, OFF if there are none."""
    rare = np.array([(seen >= n).mean(0) < _RARE for n in _REPEATS])
    return np.where(rare.any(0), _REPEATS.start + rare.argmax(0), OFF)


def _checks(bounds: Bounds, gate: np.ndarray, frozen: np.ndarray, ticks: int, contract: Contract) -> SensorChecks:
    """The contract's words for it, in which zero is off."""
    spike, drift, repeats = (np.where(b < OFF, b, 0.0).tolist() for b in vars(bounds).values())
    rows = zip(spike, drift, map(int, repeats), gate.tolist(), frozen.tolist())
    return SensorChecks(ticks, {c: ChannelCheck(*row) for c, row in zip(contract.layout.channels, rows)})
