"""Calibration of the free energy and of each channel's innovation, at each K, on held-out healthy episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from export.record import HELD_OUT, Recording, record_healthy
from runtime.bundle import Bundle
from runtime.contract import Health, HealthAt
from runtime.errors import GanglionError
from runtime.surprise import WARM_TICKS, smoothed, surprise
from sim.tasks import NOMINAL

LEVELS = (0.5, 0.9, 0.99, 0.999)
NAMES = ("innovation", "free_energy", "mask", "verdict")
"""Arrays of a recording that the calibration needs."""
_REFINE = (0, 1, 2, 4, 8, 16)


def calibrate(
    bundle: Bundle, task: str, seed: int, episodes: int = 10, workers: int = 1, worlds: Sequence[str] = (NOMINAL,)
) -> Health:
    """Quantiles over `episodes` episodes without faults in `worlds`, the first ticks of each left out."""
    first = seed + 2 * HELD_OUT
    seeds = range(first, first + episodes)
    return calibrate_on(bundle, lambda k: record_healthy(bundle, task, seeds, k, workers, NAMES, worlds))


def calibrate_on(bundle: Bundle, record: Callable[[int], Recording]) -> Health:
    """Quantiles over what `record` gives for a number of refinement steps, the first ticks of each episode left out.

    Raises GanglionError if no episode lasts beyond them.
    """
    refine: dict[str, HealthAt] = {}
    ticks = 0
    for k in (k for k in _REFINE if k <= bundle.contract.refinement.max_steps):
        recording = record(k)
        warm = recording.tick >= WARM_TICKS
        if not warm.any():
            raise GanglionError(
                f"the health signals cannot be calibrated: no held-out episode is longer than {WARM_TICKS} ticks"
            )
        ticks = max(ticks, int(warm.sum()))
        believed = (recording["mask"] > 0) & (recording["verdict"] == 0)
        surprises = surprise(recording["innovation"], believed)[warm]
        begins = np.flatnonzero(recording.tick[warm] == WARM_TICKS)[1:]
        rate_hz = bundle.contract.rate_hz
        innovation = np.quantile(np.abs(recording["innovation"][warm]), LEVELS, axis=0)
        refine[str(k)] = HealthAt(
            free_energy=tuple(np.quantile(recording["free_energy"][warm], LEVELS).tolist()),
            innovation={c: tuple(innovation[:, i].tolist()) for i, c in enumerate(bundle.contract.layout.channels)},
            surprise=tuple(np.quantile(surprises, LEVELS).tolist()),
            sustained=float(max(smoothed(s, rate_hz).max() for s in np.split(surprises, begins))),
        )
    return Health(LEVELS, ticks, refine)
