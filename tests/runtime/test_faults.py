"""Sensor faults, tick by tick and by hand."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ContractError
from runtime.faults import KINDS, parse_fault
from tests.tiny_bundle import tiny_contract

LAYOUT = tiny_contract("kuka_reach").layout
TICK_S = 0.01
VALUES = {kind: "=0.5" if k.value else "" for kind, k in KINDS.items()}


def run(text: str, rows: np.ndarray, start_s: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """What is left of readings (T, 20) that arrive every 10 ms, and their stamps (T, 20) in s."""
    running = parse_fault(text, LAYOUT, start_s).start(np.random.default_rng(0))
    values, stamps = rows.astype(float), np.zeros(rows.shape)
    for tick, row in enumerate(values):
        stamp_ns = np.full(len(row), round(1e9 * TICK_S * tick), dtype=np.int64)
        running.apply(row, stamp_ns, tick * TICK_S)
        stamps[tick] = stamp_ns * 1e-9
    return values, stamps


@pytest.mark.parametrize(
    ("text", "channels"),
    [
        ("lost:end_effector", [14, 15, 16]),
        ("lost:lbr_iiwa_joint_2", [1, 8]),
        ("lost:lbr_iiwa_joint_2+joint_position.lbr_iiwa_joint_1", [0, 1, 8]),
        ("lost:all", list(range(17))),
    ],
)
def test_lost_channels(text: str, channels: list[int]) -> None:
    values, _ = run(text, np.ones((1, 20)))
    assert np.flatnonzero(np.isnan(values[0])).tolist() == channels


def test_dropout_rate() -> None:
    values, _ = run("dropout:joint_velocity=0.2", np.ones((2000, 20)))
    lost = np.isnan(values).mean(0)
    assert not np.delete(lost, range(7, 14)).any()
    np.testing.assert_allclose(lost[7:14], 0.2, atol=0.04)


RAMP = np.arange(6.0)[:, None] + 10.0 * np.arange(20)
"""Channel i reads 10 i + tick."""


@pytest.mark.parametrize(
    ("text", "channel", "expected"),
    [
        ("stuck:target.y", 18, [180, 181, 182, 182, 182, 182]),
        ("bias:target.y=-0.5", 18, [180, 181, 181.5, 182.5, 183.5, 184.5]),
        ("scale:target.y=1.5", 18, [180, 181, 273, 274.5, 276, 277.5]),
        ("flip:target.y", 18, [180, 181, -182, -183, -184, -185]),
        ("delay:target.y=0.02", 18, [180, 181, 180, 181, 182, 183]),
        ("swap:target.y+target.z", 18, [180, 181, 192, 193, 194, 195]),
        ("swap:lbr_iiwa_joint_1+lbr_iiwa_joint_3", 7, [70, 71, 92, 93, 94, 95]),
    ],
)
def test_what_each_kind_reads_from_the_third_tick_on(text: str, channel: int, expected: list[float]) -> None:
    for given_text, start_s in ((text, 0.02), (f"{text}@0.02", 0.0)):
        values, stamps = run(given_text, RAMP, start_s)
        np.testing.assert_allclose(values[:, channel], expected)
        others = [i for i in range(20) if values[-1, i] == RAMP[-1, i]]
        assert len(others) >= 16
        np.testing.assert_allclose(stamps, TICK_S * np.arange(6)[:, None] + np.zeros(20))


def test_a_fault_ends() -> None:
    values, _ = run("bias:target.y=1@0.01-0.03", RAMP)
    np.testing.assert_allclose(values[:, 18] - RAMP[:, 18], [0, 1, 1, 0, 0, 0])
    values, _ = run("stuck:target.y@0.01-0.03", RAMP)
    np.testing.assert_allclose(values[:, 18] - 180, [0, 1, 1, 3, 4, 5])


def test_noise_has_its_standard_deviation() -> None:
    values, _ = run("noise:target.y=0.3", np.zeros((4000, 20)))
    assert values[:, 18].std() == pytest.approx(0.3, rel=0.05)
    assert not np.delete(values, 18, axis=1).any()


def test_a_skewed_clock_moves_the_stamps_alone() -> None:
    values, stamps = run("skew:target=-0.03", RAMP)
    np.testing.assert_array_equal(values, RAMP)
    np.testing.assert_allclose(stamps[:, 17], [0, 0, 0, 0, 0.01, 0.02])
    np.testing.assert_allclose(stamps[:, 0], TICK_S * np.arange(6))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_a_step(kind: str) -> None:
    target = "end_effector.x+target.x" if kind == "swap" else "end_effector"
    values, stamps = run(f"{kind}:{target}{VALUES[kind]}", RAMP)
    assert np.isfinite(np.delete(values, [14, 15, 16, 17], axis=1)).all()
    assert (values != RAMP).any() or (stamps[:, 14] != stamps[:, 0]).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is not understood; expected KIND:TARGET.*one of lost, dropout, stuck"),
        ("lost", "is not understood"),
        ("lost:", "is not understood"),
        ("lost:target=0.5", "expected 'lost:TARGET' without a value"),
        ("dropout:target", r"expected 'dropout:TARGET=VALUE' \(probability per tick\)"),
        ("dropout:target=much", "'much' is no finite number"),
        ("dropout:target=1.5", r"got 1.5, expected 0 to 1 \(probability per tick\)"),
        ("dropout:target=nan", "'nan' is no finite number"),
        ("bias:target=inf", "'inf' is no finite number"),
        ("delay:target=-1", "got -1, expected 0 to 10"),
        ("lost:elbow", "'elbow' names no sensor channel"),
        ("lost:target+", "'' names no sensor channel"),
        ("lost:target@3-2", "ends at 2 s, before it begins at 3 s"),
        ("lost:target@1.2.3", "'1.2.3' is no finite number"),
        ("lost:target@", "is not understood"),
        ("swap:target", "expected two targets of as many channels"),
        ("swap:target+joint_velocity", "expected two targets of as many channels"),
    ],
)
def test_errors_state_the_forms(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        parse_fault(text, LAYOUT)


@given(st.text(alphabet="lostbiaswp:=@-+._0123456789 ", max_size=40))
def test_any_text_is_a_fault_or_one_clear_error(text: str) -> None:
    with suppress(ContractError):
        fault = parse_fault(text, LAYOUT)
        assert fault.name == text
        assert len(fault.channels) > 0
        assert fault.spec.start_s < fault.spec.end_s


def test_all_of_a_robot_that_can_spare_nothing() -> None:
    contract = tiny_contract("kuka_reach")
    required = tuple(replace(o, min_valid=len(o.channels)) for o in contract.observations)
    with pytest.raises(ContractError, match="every observation is required"):
        parse_fault("lost:all", replace(contract, observations=required).layout)
