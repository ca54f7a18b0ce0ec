"""Means, paired differences and their intervals over seeds and episodes."""

from __future__ import annotations

from dataclasses import dataclass

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
    rng = np.random.default_rng(seed)
    seeds, episodes = values.shape
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES)
    episode_counts = rng.multinomial(episodes, np.full(episodes, 1 / episodes), _RESAMPLES)
    means = ((seed_counts @ values) * episode_counts).sum(1) / (seeds * episodes)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def auroc(healthy: np.ndarray, faulty: np.ndarray) -> float:
    """Chance that a faulty score is above a healthy one, ties counted half: the area under the ROC curve."""
    below = np.searchsorted(np.sort(healthy), faulty, side="left")
    up_to = np.searchsorted(np.sort(healthy), faulty, side="right")
    return float((below + up_to).mean() / (2 * len(healthy)))
