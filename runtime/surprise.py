"""Whether the model is more surprised, for longer, than it ever was in calibration.

The surprise of a tick is the mean square innovation, in predicted standard deviations, of the channels that are
believed. A model that is right expects 1, whatever is masked; free energy is another with every channel less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from runtime.contract import Health
from runtime.errors import ContractError

WARM_TICKS = 20
"""After a start or a reset of the belief, which has yet to form; they count for nothing."""
_AVERAGE_S = 0.5
_LEAST_TICKS = 5  # that it takes to be beyond the bound, however large the surprise of each


def surprise(innovation: np.ndarray, believed: np.ndarray) -> np.ndarray:
    """Of ticks (...,), from their innovations (..., D) and what is believed (..., D) bool; 0 where nothing is."""
    kept = np.multiply(innovation, believed, dtype=np.float64)
    return np.einsum("...i,...i", kept, kept) / np.maximum(believed.sum(-1), 1)


def smoothed(surprises: Iterable[float], rate_hz: float) -> np.ndarray:
    """Exponential average over half a second of surprises (N,), beginning at 0."""
    average, share, averages = 0.0, _share(rate_hz), []
    for value in surprises:
        average += share * (value - average)
        averages.append(average)
    return np.array(averages)


def _share(rate_hz: float) -> float:
    return 1.0 / max(1.0, _AVERAGE_S * rate_hz)


class Surprise:
    """Averages the surprise and compares it with a bound. All that is carried is in `state`."""

    def __init__(self, health: Health, rate_hz: float, factor: float) -> None:
        """More than `factor` times the largest average of the calibration is too much; 0 looks at nothing.

        Where that was below 1, which a model that is right expects, it counts as 1: with fewer sensors it is no more.

        Raises ContractError if it is between 0 and 1, negative or not finite.
        """
        if factor != 0 and not 1 <= factor < math.inf:
            raise ContractError(f"most_surprise is {factor:g}, expected 0 (no bound) or 1 and more")
        calibrated = list(health.refine.values()) if factor else []
        self.bound = math.inf
        """Infinite if there is none."""
        if calibrated:
            self.bound = factor * max(1.0, *(at.sustained for at in calibrated))
        self._share = _share(rate_hz)
        self._most = self.bound / (_LEAST_TICKS * self._share)
        self.reset()

    def reset(self) -> None:
        """The belief starts anew."""
        self.latest, self.average, self._ticks = math.nan, 0.0, 0

    def beyond(self, value: float) -> bool:
        """Take in the surprise of one tick, the `latest`; whether the average is beyond the bound."""
        self.latest = value
        self._ticks = min(self._ticks + 1, WARM_TICKS + 1)
        if self._ticks > WARM_TICKS:
            self.average += self._share * (min(value, self._most) - self.average)
        return self.average > self.bound

    def state(self) -> dict[str, np.ndarray]:
        """A copy of what is carried, float64, by name."""
        return {"surprise": np.array([self.average, self._ticks], np.float64)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned. Raises KeyError if the name is missing."""
        average, ticks = state["surprise"]
        self.average, self._ticks = float(average), int(ticks)
