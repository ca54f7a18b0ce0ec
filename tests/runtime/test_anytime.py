from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.anytime import Planner, measured
from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import ContractError
from tests.tiny_bundle import write_tiny_bundle


def test_as_many_steps_as_fit_by_hand() -> None:
    planner = Planner(base_ns=100_000, step_ns=10_000)
    assert [planner.steps(left, 8) for left in (99_999, 100_000, 109_999, 110_000, 135_000, 180_000, 1e9)] == [
        0, 0, 0, 1, 3, 8, 8,
    ]  # fmt: skip
    assert planner.steps(-1e9, 8) == 0
    assert planner.steps(1e9, 0) == 0


def test_steady_ticks_are_learned_exactly_whatever_their_steps() -> None:
    """Half as fast as measured, in base and step alike."""
    planner = Planner(100_000, 10_000)
    for i in range(1000):
        k = i % 9
        planner.observe(k, 200_000 + 20_000 * k)
    assert planner.base_ns == pytest.approx(200_000, rel=1e-6)
    assert planner.step_ns == pytest.approx(20_000, rel=1e-6)


def test_uneven_ticks_leave_room() -> None:
    """Alternately 80 and 120 us: the mean deviation is 20 us, four of which are kept free."""
    planner = Planner(100_000, 10_000)
    for i in range(1000):
        planner.observe(0, 80_000 + 40_000 * (i % 2))
    assert planner.base_ns == pytest.approx(180_000, rel=0.03)


def test_one_outlier_is_forgotten() -> None:
    planner = Planner(100_000, 10_000)
    planner.observe(0, 5_000_000)
    assert planner.steps(300_000, 8) == 0
    for _ in range(200):
        planner.observe(0, 100_000)
    assert planner.steps(300_000, 8) == 8


@given(
    base=st.floats(1e3, 1e7), step=st.floats(1e2, 1e7), left=st.floats(-1e9, 1e9), most=st.integers(0, 64),
    took=st.lists(st.tuples(st.integers(0, 64), st.integers(-10, 10**9)), max_size=20),
)  # fmt: skip
def test_what_is_planned_fits(base: float, step: float, left: float, most: int, took: list[tuple[int, int]]) -> None:
    planner = Planner(base, step)
    for steps, duration in took:
        planner.observe(steps, duration)
    k = planner.steps(left, most)
    assert 0 <= k <= most
    assert k == 0 or planner.base_ns + k * planner.step_ns <= left * (1 + 1e-9)
    assert k == most or planner.base_ns + (k + 1) * planner.step_ns > left * (1 - 1e-9)


@pytest.mark.parametrize(("base", "step"), [(0, 1), (1, 0), (-1, 1), (np.nan, 1)])
def test_times_that_make_no_sense_are_refused(base: float, step: float) -> None:
    with pytest.raises(ContractError, match="expected more than zero"):
        Planner(base, step)


def test_measuring_leaves_no_trace(tmp_path: Path) -> None:
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "kuka_reach"))
    fresh, used = Controller(bundle, refine=3), Controller(bundle, refine=3)
    planner = measured(used, ticks=5)
    assert planner.base_ns > 0
    assert planner.step_ns > 0
    assert used.refine == 3
    before, after = fresh.state(), used.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)
