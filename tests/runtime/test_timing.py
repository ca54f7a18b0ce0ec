from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.latency import LatencyHistogram
from runtime.loop import Follower, Pacer, sleep_until

MS = 1_000_000


@given(
    st.lists(st.floats(0.1, 9e6), min_size=1, max_size=300),
    st.sampled_from([0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 100.0]),
)
def test_percentiles_agree_with_numpy(durations: list[float], percent: float) -> None:
    histogram = LatencyHistogram()
    for d in durations:
        histogram.record(d)
    exact = float(np.percentile(durations, percent, method="inverted_cdf"))
    assert exact * (1 - 1e-9) <= histogram.percentile(percent) <= exact * 1.012
    assert histogram.summary()["max"] == max(durations)


def test_histogram_edges() -> None:
    histogram = LatencyHistogram()
    assert np.isnan(histogram.percentile(50))
    assert np.isnan(histogram.summary()["max"])
    for odd in (np.nan, np.inf, -np.inf):
        histogram.record(odd)
    assert histogram.total == 0
    histogram.record(1e12)
    histogram.record(0.0)
    assert histogram.total == 2
    assert histogram.counts[0] == histogram.counts[-1] == 1
    assert histogram.max_us == 1e12


class Clock:
    def __init__(self) -> None:
        self.now = 1000 * MS

    def __call__(self) -> int:
        return self.now


def run(pacer: Pacer, clock: Clock, start_ms: float, end_ms: float) -> bool:
    clock.now = int(start_ms * MS)
    pacer.begin()
    clock.now = int(end_ms * MS)
    return pacer.end()


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "late", "next_ms"),
    [
        (1010.0, 1011.0, False, 1020),
        (1012.0, 1013.0, False, 1020),
        (1012.1, 1013.0, True, 1020),
        (1010.0, 1020.0, False, 1020),
        (1010.0, 1020.1, True, 1030),
        (1010.0, 1047.0, True, 1050),
        (1010.0, 1050.0, True, 1050),
        (1033.0, 1034.0, True, 1040),
    ],
)
def test_one_tick(start_ms: float, end_ms: float, late: bool, next_ms: int) -> None:
    clock = Clock()
    pacer = Pacer(100.0, clock)
    assert pacer.deadline_ns == 1010 * MS
    assert run(pacer, clock, start_ms, end_ms) is late
    assert pacer.deadline_ns == next_ms * MS
    assert (pacer.ticks, pacer.late_ticks) == (1, int(late))


def test_no_burst_after_an_overrun() -> None:
    clock = Clock()
    pacer = Pacer(100.0, clock)
    run(pacer, clock, 1010, 1063)
    ends = []
    for _ in range(3):
        start = pacer.deadline_ns / MS
        assert run(pacer, clock, start, start + 1) is False
        ends.append(start)
    assert ends == [1070, 1080, 1090]
    assert (pacer.ticks, pacer.late_ticks) == (4, 1)


def test_restart_forgets_the_pause() -> None:
    clock = Clock()
    pacer = Pacer(100.0, clock)
    clock.now = 9000 * MS
    pacer.restart()
    assert run(pacer, clock, 9010, 9011) is False


def test_sleep_until_never_returns_early() -> None:
    deadline = time.monotonic_ns() + 3 * MS
    sleep_until(deadline)
    assert time.monotonic_ns() >= deadline
    begin = time.monotonic_ns()
    sleep_until(begin - MS)
    assert time.monotonic_ns() - begin < 100 * MS


def errors_ns(periods: int, period_ns: int, heard: range) -> list[int]:
    """How much later than expected each event of a clock with `period_ns` comes, where a period has 10 ms."""
    follower = Follower(10 * MS, 2 * MS)
    arrival = expected = 1000 * MS
    errors = []
    for k in range(periods):
        errors.append(arrival - expected)
        expected += 10 * MS + follower.shift_ns(expected, arrival if k in heard else None)
        arrival += period_ns
    return errors


@pytest.mark.parametrize("period_ns", [9_940_000, 10_000_000, 10_060_000])
def test_another_clock_is_followed_without_a_lag(period_ns: int) -> None:
    """A loop of first order would expect the event 60 us / 0.05 = 1.2 ms too late or too early for ever."""
    errors = np.abs(errors_ns(600, period_ns, range(600)))
    assert errors.max() < 0.9 * MS
    assert errors[450:].max() < 1000


def test_what_was_learned_lasts_while_nothing_comes() -> None:
    errors = errors_ns(500, 10_060_000, range(400))
    assert abs(errors[-1]) < 0.02 * MS, "100 periods without an event; 60 us each if the period had not been learned"


def test_the_steps_of_following() -> None:
    follower = Follower(10 * MS, 2 * MS)
    assert follower.shift_ns(1000 * MS, 1001 * MS) == 50_000 + 625
    assert follower.shift_ns(1010 * MS, None) == 625
    assert follower.shift_ns(1020 * MS, 1023 * MS) == 100_000 + 625 + 1250, "3 ms count as 2"
    assert follower.shift_ns(1030 * MS, 1029 * MS) == -50_000 + 625 + 1250 - 625
    assert follower.shift_ns(1040 * MS, 1061 * MS) == 50_000 + 1250 + 625, "a period is taken out"


def test_a_clock_that_is_too_different_is_not_followed() -> None:
    follower = Follower(10 * MS, 2 * MS)
    shifts = [follower.shift_ns(0, 2 * MS) for _ in range(200)]
    assert max(shifts) == 200_000, "a hundredth of the period and a twentieth of the error"
