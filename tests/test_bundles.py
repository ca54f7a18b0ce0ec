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
    assert {"cartpole", "kuka_reach"} <= {*NAMES} <= {*TASKS}


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


@pytest.mark.parametrize("name", NAMES)
def test_is_small_checked_and_says_how_it_was_made(name: str) -> None:
    path = FOLDER / f"{name}.onnx"
    contract = Bundle.load(path).contract
    assert path.stat().st_size < 400_000
    assert contract.parity is not None
    assert contract.parity.observations >= 200
    assert contract.parity.max_difference <= contract.parity.tolerance == 1e-4
    assert contract.provenance.command.startswith(f"ganglion train {name} ")
    assert contract.health.ticks > 0
