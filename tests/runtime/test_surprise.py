from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.contract import Health, HealthAt
from runtime.controller import Controller
from runtime.errors import ContractError
from runtime.safety import Status
from runtime.sample import Sample
from runtime.surprise import WARM_TICKS, Surprise, smoothed, surprise
from tests.tiny_bundle import tiny_contract, write_tiny_bundle

HEALTH = Health((0.5, 0.9), 100, {"0": HealthAt((), {}, (1.0, 1.5), 2.0), "2": HealthAt((), {}, (0.5, 1.5), 3.0)})
PERIOD = 10_000_000


def test_the_bound_by_hand() -> None:
    """Three times the largest of both K; what is below 1 counts as 1."""
    assert Surprise(HEALTH, 100.0, 3.0).bound == 9.0
    calm = Health((0.5,), 100, {"0": HealthAt((), {}, (0.05,), 0.1)})
    assert Surprise(calm, 100.0, 3.0).bound == 3.0
    assert Surprise(HEALTH, 100.0, 0.0).bound == np.inf
    assert Surprise(Health(), 100.0, 3.0).bound == np.inf


def test_it_takes_a_lasting_surprise() -> None:
    """From 0 towards 18 the average is 18 (1 - 0.98^n), which passes 9 with n = 35."""
    surprise = Surprise(HEALTH, 100.0, 3.0)
    assert not any(surprise.beyond(1e9) for _ in range(WARM_TICKS)), "the belief forms"
    found = [surprise.beyond(18.0) for _ in range(40)]
    assert found.index(True) + 1 == 35
    np.testing.assert_allclose(surprise.average, 18 * (1 - 0.98**40))
    np.testing.assert_allclose(surprise.average, smoothed([18.0] * 40, 100.0)[-1])
    assert [surprise.beyond(1.0) for _ in range(40)].count(True) < 10


def test_no_single_tick_is_enough_and_none_is_remembered_for_long() -> None:
    """A tick counts for at most 9 / (5 * 0.02) = 90, of which the average takes 1.8: the sixth is beyond 9."""
    surprise = Surprise(HEALTH, 100.0, 3.0)
    for _ in range(WARM_TICKS):
        surprise.beyond(1.0)
    assert [surprise.beyond(1e300) for _ in range(6)] == [False] * 5 + [True]
    assert surprise.average == pytest.approx(90 * (1 - 0.98**6))
    assert not any([surprise.beyond(1.0) for _ in range(20)][10:])


@pytest.mark.parametrize("factor", [-1.0, 0.5, np.inf, np.nan])
def test_a_factor_that_makes_no_sense_is_refused(factor: float) -> None:
    with pytest.raises(ContractError, match=r"most_surprise is .*, expected 0"):
        Surprise(HEALTH, 100.0, factor)


def test_the_surprise_of_what_is_believed_by_hand() -> None:
    innovation = np.array([[1.0, 3.0, 9.0], [2.0, 0.0, 0.0]])
    believed = np.array([[True, True, False], [False, False, False]])
    assert surprise(innovation, believed).tolist() == [5.0, 0.0]


def test_the_robot_holds_while_it_lasts_and_a_restored_state_goes_on(tmp_path: Path) -> None:
    """The innovation of the tiny bundle is its normalised observation; that of 7 velocities in 20 channels is 6."""
    health = Health((0.5,), 100, {"0": HealthAt((), {}, (1.0,), 4 / 3)})
    contract = replace(tiny_contract("kuka_reach"), health=health)
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "kuka_reach", contract=contract))
    controller, other, unbound = Controller(bundle), Controller(bundle), Controller(bundle, most_surprise=0)
    layout, sample = contract.layout, Sample(contract)
    statuses = []
    for tick in range(200):
        values = layout.mean.copy()
        if 50 <= tick < 120:
            values[layout.slices["joint_velocity"]] += 6 * layout.scale[layout.slices["joint_velocity"]]
        sample.put_flat(values, tick * PERIOD)
        command = controller.tick(sample, tick * PERIOD)
        statuses.append(command.status)
        assert unbound.tick(sample, tick * PERIOD).status is Status.ACTIVE
        if tick == 60:
            other.restore(controller.state())
        if tick > 60:
            assert other.tick(sample, tick * PERIOD).status is command.status
        if command.status is Status.HOLDING:
            assert command.cause.startswith("surprised: the mean square innovation averages ")
            assert command.cause.endswith("calibration bounds it to 4")
    # Towards 7 * 36 / 20 = 12.6 it passes 4 with 12.6 (1 - 0.98^n) > 4, in the 19th tick.
    assert statuses.index(Status.HOLDING) == 68
    assert statuses[119] is Status.HOLDING
    assert statuses[-1] is Status.ACTIVE
