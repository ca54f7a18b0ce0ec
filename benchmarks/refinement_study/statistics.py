"""Means, paired differences and their intervals over seeds and episodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

_RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def bootstrap(values: np.ndarray, seed: int = 0) -> Interval:
    """Mean of values (S seeds, E episodes): seeds are resampled, then episodes, the same ones for every seed."""
    return _interval(values.mean(), _resampled(values, seed))


def bootstrap_ratio(over: np.ndarray, under: np.ndarray, seed: int = 0) -> Interval:
    """Mean of `over` by the mean of `under`, (S, E) each of the same seeds and episodes, resampled together."""
    return _interval(over.mean() / under.mean(), _resampled(over, seed) / _resampled(under, seed))


def _resampled(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of resamples; equal seeds and shapes draw the same ones."""
    seed_counts, episode_counts = _counts(*values.shape, seed)
    means: np.ndarray = ((seed_counts @ values) * episode_counts).sum(1) / values.size
    return means


@cache
def _counts(seeds: int, episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed and each episode comes in each resample."""
    rng = np.random.default_rng(seed)
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES)
    return seed_counts, rng.multinomial(episodes, np.full(episodes, 1 / episodes), _RESAMPLES)


def _interval(estimate: float, resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(float(estimate), float(low), float(high))


def auroc(healthy: np.ndarray, faulty: np.ndarray) -> float:
    """Chance that a faulty score is above a healthy one, ties counted half: the area under the ROC curve."""
    below = np.searchsorted(np.sort(healthy), faulty, side="left")
    up_to = np.searchsorted(np.sort(healthy), faulty, side="right")
    return float((below + up_to).mean() / (2 * len(healthy)))
