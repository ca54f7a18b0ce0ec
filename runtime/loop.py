"""Pacing with absolute deadlines on a monotonic clock. A late tick is counted, never made up for by a burst."""

from __future__ import annotations

import time
from collections.abc import Callable

LATE_START_NS = 2_000_000


def sleep_until(deadline_ns: int) -> None:
    """Sleep to an absolute time of `time.monotonic_ns`."""
    remaining = deadline_ns - time.monotonic_ns()
    if remaining > 0:
        time.sleep(remaining * 1e-9)


class Pacer:
    """Deadlines at a fixed rate, and the count of ticks and late ticks.

    A tick is late if it started more than 2 ms after its deadline or ended after the next one. After an overrun the
    schedule skips to the next whole period, so the phase is kept.
    """

    def __init__(self, rate_hz: float, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.period_ns = round(1e9 / rate_hz)
        self.clock = clock
        self.ticks = 0
        self.late_ticks = 0
        self.deadline_ns = 0
        self._start_ns = 0
        self.restart()

    def restart(self) -> None:
        """The first deadline is one period from now."""
        self.deadline_ns = self.clock() + self.period_ns

    def begin(self) -> int:
        """Call when the tick starts; returns the time."""
        self._start_ns = self.clock()
        return self._start_ns

    def end(self) -> bool:
        """Call when the tick is done: counts it, sets the next deadline and returns whether it was late."""
        now = self.clock()
        next_deadline = self.deadline_ns + self.period_ns
        late = self._start_ns - self.deadline_ns > LATE_START_NS or now > next_deadline
        self.ticks += 1
        self.late_ticks += late
        if now > next_deadline:
            next_deadline += -(-(now - next_deadline) // self.period_ns) * self.period_ns
        self.deadline_ns = next_deadline
        return late
