"""Whether the model is more surprised, for longer, than it ever was in calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from runtime.contract import Health
from runtime.errors import ContractError

WARM_TICKS = 20
"""After a start or a reset of the belief, which has yet to form; they count for nothing."""
_AVERAGE_S = 0.5


def smoothed(free_energies: Iterable[float], start: float, rate_hz: float) -> np.ndarray:
    """Exponential average over half a second of F (N,), nats, beginning at `start`."""
    average, share, averages = start, _share(rate_hz), []
    for free_energy in free_energies:
        average += share * (free_energy - average)
        averages.append(average)
    return np.array(averages)


def _share(rate_hz: float) -> float:
    return 1.0 / max(1.0, _AVERAGE_S * rate_hz)


class Surprise:
    """Averages F and compares it with a bound. All that is carried is in `state`."""

    def __init__(self, health: Health, rate_hz: float, factor: float) -> None:
        """`factor` of the calibration's largest excess over the median is too much; 0 looks at nothing.

        Raises ContractError if it is between 0 and 1, negative or not finite.
        """
        if factor != 0 and not 1 <= factor < math.inf:
            raise ContractError(f"most_surprise is {factor:g}, expected 0 (no bound) or 1 and more")
        calibrated = list(health.refine.values()) if factor else []
        self.bound = math.inf
        """Nats; infinite if there is none."""
        self._median = 0.0
        if calibrated:
            self._median = max(float(np.interp(0.5, health.levels, at.free_energy)) for at in calibrated)
            self.bound = self._median + factor * (max(at.sustained for at in calibrated) - self._median)
        self._share = _share(rate_hz)
        self.reset()

    def reset(self) -> None:
        """The belief starts anew."""
        self.average, self._ticks = self._median, 0

    def beyond(self, free_energy: float) -> bool:
        """Take in F of one tick, nats; whether the average is beyond the bound."""
        self._ticks = min(self._ticks + 1, WARM_TICKS + 1)
        if self._ticks > WARM_TICKS:
            self.average += self._share * (free_energy - self.average)
        return self.average > self.bound

    def state(self) -> dict[str, np.ndarray]:
        """A copy of what is carried, float64, by name."""
        return {"surprise": np.array([self.average, self._ticks], np.float64)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned. Raises KeyError if the name is missing."""
        average, ticks = state["surprise"]
        self.average, self._ticks = float(average), int(ticks)
