"""Pacing with absolute deadlines on a monotonic clock. A late tick is counted, never made up for by a burst."""

from __future__ import annotations

import time
from collections.abc import Callable

LATE_START_NS = 2_000_000
_FOLLOW = 0.05
"""The next event is expected this much of its error later."""
_LEARN = _FOLLOW**2 / 4
"""The period is taken to be this much of the error longer: critically damped, without a lasting error."""
_MOST_DRIFT = 0.01
"""Of a period, the most that another clock's is taken to differ."""


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


class Follower:
    """Keeps step with a periodic event of another clock, which runs a little faster or slower: a phase-locked loop.

    Of second order: it learns how much longer the event's period is, so that it expects the event without a lag, and
    goes on in step through periods in which nothing came.
    """

    def __init__(self, period_ns: int, most_error_ns: int) -> None:
        """An error of more than `most_error_ns` counts as that much: it tells of a stall rather than of the clock."""
        self._period_ns, self._most_error_ns = period_ns, most_error_ns
        self._most_drift_ns = _MOST_DRIFT * period_ns
        self._drift_ns = 0.0

    def shift_ns(self, expected_ns: int, arrival_ns: int | None) -> int:
        """How much later than a period after `expected_ns` to expect the next event; this one came at `arrival_ns`."""
        error_ns = 0
        if arrival_ns is not None:
            half = self._period_ns // 2
            error_ns = (arrival_ns - expected_ns + half) % self._period_ns - half
            error_ns = min(max(error_ns, -self._most_error_ns), self._most_error_ns)
        drift_ns = self._drift_ns + _LEARN * error_ns
        self._drift_ns = min(max(drift_ns, -self._most_drift_ns), self._most_drift_ns)
        return round(self._drift_ns + _FOLLOW * error_ns)
