"""Latency histogram of constant size: recording allocates nothing."""

from __future__ import annotations

import math

import numpy as np

_BINS_PER_DECADE = 200  # neighbouring bins differ by 1.2 %
_DECADES = 8  # 0.1 us to 10 s
_LOWEST_US = 0.1


class LatencyHistogram:
    """Counts durations in logarithmic bins; percentiles are exact to 1.2 %, the maximum is exact."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS_PER_DECADE * _DECADES, dtype=np.int64)
        self.total = 0
        self.max_us = 0.0

    def record(self, duration_us: float) -> None:
        """Count one duration in microseconds; non-finite ones are ignored."""
        if not math.isfinite(duration_us):
            return
        index = int(math.log10(max(duration_us, _LOWEST_US) / _LOWEST_US) * _BINS_PER_DECADE)
        self.counts[min(index, len(self.counts) - 1)] += 1
        self.total += 1
        self.max_us = max(self.max_us, duration_us)

    def percentile(self, percent: float) -> float:
        """Upper edge of the bin that holds the given percentile, at most the maximum; NaN when empty."""
        if self.total == 0:
            return math.nan
        rank = math.ceil(self.total * percent / 100)
        index = int(np.searchsorted(np.cumsum(self.counts), max(rank, 1)))
        return min(_LOWEST_US * 10 ** ((index + 1) / _BINS_PER_DECADE), self.max_us)

    def summary(self) -> dict[str, float]:
        """p50, p99, p99.9 and max in microseconds."""
        return {
            "p50": self.percentile(50),
            "p99": self.percentile(99),
            "p99_9": self.percentile(99.9),
            "max": self.max_us if self.total else math.nan,
        }
