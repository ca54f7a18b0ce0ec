from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.latency import LatencyHistogram
from runtime.loop import Pacer, sleep_until

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
