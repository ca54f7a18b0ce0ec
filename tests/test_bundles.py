"""The bundles that ship do what the README says of them: real PyBullet, held-out episodes, the deployed Controller."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.bundle import Bundle
from sim.evaluate import evaluate
from sim.tasks import TASKS

FOLDER = Path(__file__).parents[1] / "bundles"
NAMES = sorted(p.stem for p in FOLDER.glob("*.onnx"))


def test_every_bundle_is_of_a_task() -> None:
    """Named after it; those of a plain policy to compare with end in _hold."""
    assert {"a1_stand", "a1_walk", "a1_walk_hold", "cartpole", "husky_goto", "kuka_reach", "panda_reach"} <= {*NAMES}
    assert {name.removesuffix("_hold") for name in NAMES} <= {*TASKS}


@pytest.mark.parametrize("name", NAMES)
def test_solves_its_task_on_held_out_episodes(name: str) -> None:
    result = evaluate(Bundle.load(FOLDER / f"{name}.onnx"), episodes=20)["results"][0]
    assert result["success_rate"] >= 0.95
    assert result["active_rate"] == 1.0


def test_reaches_with_two_encoders_lost() -> None:
    bundle = Bundle.load(FOLDER / "kuka_reach.onnx")
    fault = "lost:lbr_iiwa_joint_2+lbr_iiwa_joint_4"
    nominal, faulted = evaluate(bundle, episodes=10, faults=["nominal", fault])["results"]
    assert faulted["active_rate"] == 1.0
    assert faulted["tracking_error_m"] < 3 * nominal["tracking_error_m"]


def test_walks_as_before_with_two_encoders_lost_where_the_plain_policy_does_not() -> None:
    """Lost for good from 0.1 s on, which neither was trained for."""
    fault = "lost:FL_upper_joint+RL_hip_joint"
    ours, plain = (
        evaluate(Bundle.load(FOLDER / f"{name}.onnx"), episodes=4, faults=["nominal", fault], workers=2)["results"]
        for name in ("a1_walk", "a1_walk_hold")
    )
    assert ours[1]["velocity_error_cycle_m_s"] < 1.5 * ours[0]["velocity_error_cycle_m_s"]
    assert ours[1]["velocity_error_cycle_m_s"] < 0.7 * plain[1]["velocity_error_cycle_m_s"]


@pytest.mark.parametrize("name", NAMES)
def test_is_small_checked_and_says_how_it_was_made(name: str) -> None:
    path = FOLDER / f"{name}.onnx"
    contract = Bundle.load(path).contract
    assert path.stat().st_size < 500_000
    assert contract.parity is not None
    assert contract.parity.observations >= 200
    assert contract.parity.max_difference <= contract.parity.tolerance == 1e-4
    assert contract.provenance.command.startswith(f"ganglion train {name.removesuffix('_hold')} ")
    assert contract.health.ticks > 0
