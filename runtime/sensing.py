"""Which channels to believe, and their normalised values. Small pure functions on (D,) arrays."""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from runtime.contract import Layout
from runtime.sample import NEVER


class Reason(IntFlag):
    """Why a channel is masked; zero means that it is believed."""

    MISSING = 1
    STALE = 2
    NON_FINITE = 4
    OUT_OF_RANGE = 8
    FROZEN = 16
    """The graph found exact repeats of fresh readings."""
    GATED = 32
    """The graph found that the reading contradicts its prediction."""

    @property
    def text(self) -> str:
        """Lower-case words, e.g. `stale, non-finite`."""
        return ", ".join(str(r.name).lower().replace("_", "-") for r in Reason if r in self)


# Plain integers: an IntFlag costs 1 us a use.
_MISSING, _STALE, _NON_FINITE, _OUT_OF_RANGE, _FROZEN, _GATED = (int(r) for r in Reason)


def mask_reasons(values: np.ndarray, stamp_ns: np.ndarray, now_ns: int, layout: Layout) -> np.ndarray:
    """Reasons (D,) uint8 not to believe each channel. A stamp from the future is as stale as one from the past."""
    received = stamp_ns != NEVER
    recent = np.abs(now_ns - stamp_ns) <= layout.max_age_ns
    inside = (values >= layout.low) & (values <= layout.high)  # false for NaN
    if (received & recent & inside).all():
        return np.zeros(layout.size, np.uint8)
    finite = np.isfinite(values)
    reasons = ~recent * _STALE + ~finite * _NON_FINITE + (finite & ~inside) * _OUT_OF_RANGE
    return np.where(received, reasons, _MISSING).astype(np.uint8)


def verdict_reasons(verdict: np.ndarray) -> np.ndarray:
    """Reasons (D,) uint8 from the graph's verdict (D,) on each channel: 0 believed, 1 frozen, 2 gated."""
    return ((verdict == 1) * _FROZEN + (verdict == 2) * _GATED).astype(np.uint8)


def normalise(values: np.ndarray, believed: np.ndarray, layout: Layout) -> np.ndarray:
    """(values - mean) / scale (D,); zero where not believed, so that no NaN enters the graph."""
    return (np.where(believed, values, layout.mean) - layout.mean) / layout.scale


class Watch:
    """Which observations are lost: short of the contract's `min_valid` channels for longer than their maximum age.

    A shorter gap is bridged by the belief, so that one bad message of a required sensor does not stop the robot.
    `seen_ns` (O,) int64 is the stamp of the newest reading of each observation when it last had enough.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._max_age_ns = layout.max_age_ns[layout.starts]
        self.seen_ns = np.full(len(layout.starts), NEVER, dtype=np.int64)

    def lost(self, believed: np.ndarray, stamp_ns: np.ndarray, now_ns: int) -> list[int]:
        """Indices of the lost observations, for believed (D,) bool and stamp_ns (D,)."""
        newest = np.maximum.reduceat(stamp_ns, self._layout.starts)
        if believed.all():
            self.seen_ns[:] = newest
            return []
        counts = np.add.reduceat(believed.astype(np.int64), self._layout.starts)
        short = counts < self._layout.min_valid
        np.copyto(self.seen_ns, newest, where=~short)
        gone = (self.seen_ns == NEVER) | (now_ns - self.seen_ns > self._max_age_ns)
        return [int(i) for i in np.flatnonzero(short & gone)]

    def reset(self) -> None:
        """Nothing was seen yet."""
        self.seen_ns[:] = NEVER
