from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.errors import ContractError, GanglionError
from sim.env import RobotEnv
from sim.evaluate import evaluate, match_task
from sim.tasks import task_class
from tests.tiny_bundle import tiny_contract, write_tiny_bundle


def test_every_pair_of_refinement_and_fault(cartpole: Bundle) -> None:
    calls: list[tuple[int, int]] = []
    faults = ["nominal", "lost:joint_velocity"]
    result = evaluate(
        cartpole, episodes=4, refine=[0, 2], faults=faults, seed=7, progress=lambda *count: calls.append(count)
    )
    assert result["task"] == "cartpole"
    rows = result["results"]
    assert [(r["refine"], r["fault"]) for r in rows] == [(k, f) for k in (0, 2) for f in faults]
    assert calls == [(4, 16), (8, 16), (12, 16), (16, 16)]
    for row in rows:
        assert row["episodes"] == 4
        assert row["return_ci95"][0] <= row["return_mean"] <= row["return_ci95"][1]
        assert row["success_rate"] == 0.0
        assert row["active_rate"] == 1.0
        assert 0 < row["angle_rad"] < 0.5
    # The tiny agent ignores K, so equal seeds must give equal returns; a fault must not.
    assert {k: v for k, v in rows[0].items() if k != "refine"} == {k: v for k, v in rows[2].items() if k != "refine"}
    assert rows[0]["return_mean"] != rows[1]["return_mean"]


def test_the_same_seed_gives_the_same_result(kuka: Bundle) -> None:
    def run(seed: int) -> float:
        result = evaluate(kuka, episodes=2, faults=["dropout:joint_velocity=0.3"], seed=seed)
        return float(result["results"][0]["return_mean"])

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_figures_do_not_depend_on_the_number_of_processes(cartpole: Bundle) -> None:
    asked = {"episodes": 7, "faults": ["nominal", "dropout:joint_velocity=0.5"], "seed": 5}
    alone, shared = (evaluate(cartpole, workers=n, **asked) for n in (1, 2))  # type: ignore[arg-type]
    assert alone == shared


def test_worlds(tmp_path: Path) -> None:
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "a1_walk"))
    rows = evaluate(bundle, episodes=2, worlds=["nominal", "randomised", "hard"])["results"]
    assert [r["world"] for r in rows] == ["nominal", "randomised", "hard"]
    assert len({r["return_mean"] for r in rows}) == 3
    for world, message in (("mars", "expected one of nominal, randomised, rough, hard"), ("", "no world ''")):
        with pytest.raises(GanglionError, match=message):
            evaluate(bundle, episodes=1, worlds=[world])


def test_a_task_without_a_table_has_one_world(cartpole: Bundle) -> None:
    with pytest.raises(GanglionError, match="the task 'cartpole' has no world 'hard'; expected one of nominal"):
        evaluate(cartpole, episodes=1, worlds=["hard"])


def test_return_by_hand(cartpole: Bundle) -> None:
    """The tiny agent's answer, worked out beside the controller: 10 N * tanh(0.3 * mean(x) + 0.1 t)."""
    env = RobotEnv("cartpole")
    layout = cartpole.contract.layout
    observation, _ = env.reset(seed=11)
    total, state = 0.0, np.float32(0.0)
    for _ in range(500):
        drive = np.float32(0.3) * np.float32(np.mean(((observation - layout.mean) / layout.scale).astype(np.float32)))
        observation, outcome = env.advance(10.0 * np.tanh(np.array([drive + state], np.float64)))
        state += np.float32(0.1)
        total += outcome.reward
        if outcome.terminated:
            break
    env.close()
    result = evaluate(cartpole, episodes=1, seed=11)["results"][0]
    assert result["return_mean"] == pytest.approx(total, rel=1e-4)
    assert result["return_ci95"] == [result["return_mean"]] * 2


def test_faults_begin_when_the_pose_was_seen(kuka: Bundle) -> None:
    result = evaluate(kuka, episodes=1, faults=["lost:target", "lost:joint_position"])["results"]
    # Bridged for the 250 ms and 50 ms that the contract allows readings to age.
    assert [r["active_rate"] for r in result] == [(10 + 25) / 400, (10 + 5) / 400]
    assert all(r["tracking_error_m"] > 0.02 for r in result)


def test_a_robot_that_cannot_see_its_pose_stays_where_it_is(tmp_path: Path) -> None:
    contract = tiny_contract("kuka_reach")
    blind = tuple(
        replace(o, low=(8.0,) * 7, high=(9.0,) * 7) if o.kind == "joint_position" else o for o in contract.observations
    )
    path = write_tiny_bundle(tmp_path / "b.onnx", "kuka_reach", 0.3, replace(contract, observations=blind))
    row = evaluate(Bundle.load(path), episodes=1)["results"][0]
    assert row["active_rate"] == 0.0
    assert np.isfinite(row["return_mean"])


def test_another_robot_is_refused_by_name(cartpole: Bundle) -> None:
    with pytest.raises(ContractError, match=r"does not fit the task 'kuka_reach'.*slider_to_cart.*lbr_iiwa_joint_1"):
        evaluate(cartpole, task="kuka_reach", episodes=1)


def test_renamed_joint_and_other_rate() -> None:
    contract = tiny_contract("kuka_reach")
    joints = ("shoulder", *contract.action.joints[1:])
    renamed = replace(contract, rate_hz=200.0, action=replace(contract.action, joints=joints))
    with pytest.raises(ContractError, match=r"\('shoulder'.*runs at \(Hz\) 200.0, the task 100.0"):
        match_task(renamed, task_class("kuka_reach"))


def test_a_contract_may_use_some_of_the_sensors_in_its_own_order() -> None:
    contract = tiny_contract("kuka_reach")
    position, _, _, target = contract.observations
    columns = match_task(replace(contract, observations=(target, position)), task_class("kuka_reach"))
    assert columns.tolist() == [17, 18, 19, 0, 1, 2, 3, 4, 5, 6]


def test_bad_requests(cartpole: Bundle) -> None:
    with pytest.raises(ContractError, match="refine is 99"):
        evaluate(cartpole, episodes=1, refine=[99])
    with pytest.raises(ContractError, match="fault 'gremlins' is not understood"):
        evaluate(cartpole, episodes=1, faults=["gremlins"])
    with pytest.raises(GanglionError, match="episodes is 0"):
        evaluate(cartpole, episodes=0)
    with pytest.raises(GanglionError, match="no task 'juggle'"):
        evaluate(cartpole, task="juggle")
