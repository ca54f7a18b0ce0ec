from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import ContractError
from runtime.faults import parse_fault
from tests.tiny_bundle import tiny_contract

LAYOUT = tiny_contract("kuka_reach").layout


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
    values = np.ones(20)
    parse_fault(text, LAYOUT).apply(values, np.random.default_rng(0))
    assert np.flatnonzero(np.isnan(values)).tolist() == channels


def test_dropout_rate() -> None:
    fault = parse_fault("dropout:joint_velocity=0.2", LAYOUT)
    rng = np.random.default_rng(0)
    lost = np.zeros(20)
    for _ in range(2000):
        values = np.ones(20)
        fault.apply(values, rng)
        lost += np.isnan(values)
    assert not np.delete(lost, range(7, 14)).any()
    np.testing.assert_allclose(lost[7:14] / 2000, 0.2, atol=0.04)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "expected 'lost:TARGET' or"),
        ("lost", "is not understood"),
        ("lost:", "is not understood"),
        ("lost:target=0.5", "is not understood"),
        ("dropout:target", "is not understood"),
        ("dropout:target=much", "got probability 'much', expected a number from 0 to 1"),
        ("dropout:target=1.5", "got probability '1.5'"),
        ("dropout:target=nan", "got probability 'nan'"),
        ("lost:elbow", "'elbow' names no sensor channel"),
        ("lost:target+", "'' names no sensor channel"),
    ],
)
def test_errors_state_the_forms(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        parse_fault(text, LAYOUT)


def test_all_of_a_robot_that_can_spare_nothing() -> None:
    contract = tiny_contract("kuka_reach")
    required = tuple(replace(o, min_valid=len(o.channels)) for o in contract.observations)
    with pytest.raises(ContractError, match="every observation is required"):
        parse_fault("lost:all", replace(contract, observations=required).layout)
