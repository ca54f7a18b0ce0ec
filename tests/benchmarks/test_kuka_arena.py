"""The reach task of the refinement study: its expert against PyBullet, its world, its arena and its faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.refinement_study.contest import CONTESTANTS, TASKS, Variant
from benchmarks.refinement_study.faults import MASKED, NOMINAL, UNDETECTED
from benchmarks.refinement_study.judging import judge
from benchmarks.refinement_study.kuka_arena import (
    ALL_FAULTS,
    FAULTS,
    LAYOUT,
    MASKED_FAULTS,
    NOISE,
    START,
    TIED,
    KukaArena,
    KukaWorld,
    Robots,
)
from benchmarks.refinement_study.kuka_expert import Chain, expert_action, iiwa
from benchmarks.refinement_study.pilots import HoldMLP
from benchmarks.refinement_study.units import Unit, _judged
from sim.bullet import pybullet, pybullet_data
from sim.robots.kuka import END_EFFECTOR, KUKA

TARGET = LAYOUT.slices["target"]
HOME = np.array([j.home for j in KUKA.joints])


# The expert


def test_a_planar_arm_by_hand() -> None:
    """Two links of 1 m along x that turn about z: at (90°, -90°) the tip is at (1, 1)."""
    arm = Chain(np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 0, 1], [0, 0, 1]]), np.array([2.0, 0, 0]))
    tip, jacobian = arm.locate(np.array([[0.0, 0.0], [np.pi / 2, -np.pi / 2]]))
    np.testing.assert_allclose(tip, [[2, 0, 0], [1, 1, 0]], atol=1e-15)
    np.testing.assert_allclose(jacobian[0], [[0, 0], [2, 1], [0, 0]], atol=1e-15)
    np.testing.assert_allclose(jacobian[1], [[-1, 0], [1, 1], [0, 0]], atol=1e-15)


def test_kinematics_are_those_of_pybullet() -> None:
    client = pybullet.connect(pybullet.DIRECT)
    try:
        path = f"{pybullet_data.getDataPath()}/{KUKA.urdf}"
        body = pybullet.loadURDF(path, useFixedBase=True, physicsClientId=client)
        infos = [pybullet.getJointInfo(body, i, physicsClientId=client) for i in range(7)]
        link = [info[12].decode() for info in infos].index(END_EFFECTOR)
        for positions in np.random.default_rng(0).uniform(-2.0, 2.0, (20, 7)):
            for joint, position in enumerate(positions):
                pybullet.resetJointState(body, joint, position, physicsClientId=client)
            state = pybullet.getLinkState(body, link, computeForwardKinematics=1, physicsClientId=client)
            arguments = (body, link, [0.0] * 3, positions.tolist(), [0.0] * 7, [0.0] * 7)
            linear, _ = pybullet.calculateJacobian(*arguments, physicsClientId=client)
            tip, jacobian = iiwa().locate(positions[None])
            np.testing.assert_allclose(tip[0], state[4], atol=1e-6)
            np.testing.assert_allclose(jacobian[0], linear, atol=1e-6)
    finally:
        pybullet.disconnect(client)


def test_the_jacobian_is_the_slope_of_the_tip() -> None:
    positions = np.random.default_rng(1).uniform(-2.0, 2.0, 7)
    steps = 1e-6 * np.eye(7)
    slope = (iiwa().locate(positions + steps)[0] - iiwa().locate(positions - steps)[0]) / 2e-6
    np.testing.assert_allclose(iiwa().locate(positions[None])[1][0].T, slope, atol=1e-8)


def test_at_home_and_on_the_target_the_expert_rests() -> None:
    tip, _ = iiwa().locate(HOME[None])
    np.testing.assert_allclose(expert_action(HOME[None], tip), 0.0, atol=1e-12)
    assert np.abs(expert_action(HOME[None], tip + 0.4)).max() == 1.0


def test_the_posture_moves_without_the_tip() -> None:
    positions = HOME + np.random.default_rng(2).uniform(-0.2, 0.2, (5, 7))
    tip, jacobian = iiwa().locate(positions)
    step = 0.015 * expert_action(positions, tip)
    moved = np.linalg.norm(jacobian @ step[..., None], axis=(1, 2))
    assert (moved < 0.02 * np.linalg.norm(step, axis=1)).all()
    assert (((HOME - positions) * step).sum(1) > 0).all()


def fly_expert(episodes: int, ticks: int) -> np.ndarray:
    """Distances from the target (T, E), m."""
    robots = Robots(episodes)
    for row in range(episodes):
        robots.reset(row, 100 + row)
    errors = np.empty((ticks, episodes))
    for tick in range(ticks):
        robots.step(expert_action(robots.positions(), robots.readings[:, TARGET]))
        errors[tick] = robots.error_m
    return errors


def test_the_expert_arrives_soon_and_stays() -> None:
    errors = fly_expert(episodes=4, ticks=400)
    assert errors[-50:].mean() < 0.001
    after = errors[201:]  # the second target jumps at tick 200 and is held
    assert after[0].min() > 0.05
    assert after[80:].max() < 0.01
    assert np.diff(after[10:], axis=0).max() < 1e-4  # no overshoot: it only comes closer


# The world


def test_the_world_restarts_only_what_is_over_and_is_reproducible() -> None:
    a, b = (KukaWorld(3, np.random.default_rng(5)) for _ in range(2))
    for _ in range(3):
        np.testing.assert_array_equal(a.observe(), b.observe())
        executed = a.step(a.expert())
        np.testing.assert_array_equal(executed, b.step(b.expert()))
    before = a.observe()
    a.reset(np.array([False, True, False]))
    after = a.observe()
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert np.abs(after[1, TARGET] - before[1, TARGET]).min() > 1e-3
    np.testing.assert_allclose(after[1, :7], HOME, atol=0.3 + 6 * 0.002)


def test_episodes_end_staggered_and_last_400_ticks() -> None:
    world = KukaWorld(2, np.random.default_rng(0))
    rest = np.zeros((2, 7))
    ended: list[list[int]] = [[], []]
    for tick in range(1, 801):
        world.step(rest)
        over = world.over()
        for row in np.flatnonzero(over).tolist():
            ended[row].append(tick)
        if over.any():
            world.reset(over)
    assert [np.diff(e).tolist() for e in ended] == [[400], [400]]
    assert ended[0][0] != ended[1][0]


def test_idle_robots_serve_again_from_the_same_bytes() -> None:
    first = Robots(2)
    first.reset(0, 7)
    first.step(np.ones((2, 7)))
    seen, used = first.readings[0].copy(), {id(e) for e in first.envs}
    del first
    second = Robots(2)
    assert {id(e) for e in second.envs} == used
    assert not second.executed.any()
    second.reset(1, 7)
    second.step(np.ones((2, 7)))
    np.testing.assert_array_equal(second.readings[1], seen)


# The arena


def test_episodes_and_noise_are_paired_across_faults() -> None:
    arena = KukaArena(("nominal", "noise_x3"), 2, 3)
    rng = np.random.default_rng(0)
    for tick in range(205):  # past the target's jump
        readings, mask = arena.observe()
        assert mask.all()
        tips = readings[:, LAYOUT.slices["end_effector"]] - iiwa().locate(arena._robots.positions())[0]
        if tick < START:
            np.testing.assert_allclose(tips[:2], tips[2:], atol=1e-6)  # the same noise, whatever the pose
        np.testing.assert_array_equal(readings[:2, TARGET], readings[2:, TARGET])
        raw = arena._robots.readings[:, LAYOUT.slices["joint_position"]] - arena._robots.positions()
        np.testing.assert_allclose(raw[:2], raw[2:], atol=1e-12)
        arena.step(rng.uniform(-1.0, 1.0, (4, 7)))
        assert np.abs(arena.executed()).max() <= 1.0 + 1e-9


def test_cost_is_the_distance_in_cm_and_truth_the_elbow() -> None:
    arena = KukaArena(("nominal",), 2, 0)
    arena.observe()
    arena.step(np.zeros((2, 7)))
    readings, _ = arena.observe()
    tip, _ = iiwa().locate(arena._robots.positions())
    np.testing.assert_allclose(arena.cost(), 100 * np.linalg.norm(tip - readings[:, TARGET], axis=1), atol=1e-4)
    np.testing.assert_allclose(HOME[3] + 0.5 * arena.truth(), readings[:, 3], atol=6 * 0.002)
    assert LAYOUT.channels[TIED[TASKS["kuka_reach"].estimate]] == "joint_position.lbr_iiwa_joint_4"
    assert arena.alive().all()


# The faults


def run_effect(name: str, ticks: int, episodes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What came in (T, E, D), and what came out, with its mask."""
    clean = np.random.default_rng(9).normal(0.0, 0.1, (ticks, episodes, LAYOUT.size))
    effect = FAULTS[name].start(np.random.default_rng(0))
    pairs = [effect.apply(c.copy(), np.ones(c.shape), t) for t, c in enumerate(clean)]
    return clean, np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


@pytest.mark.parametrize("name", ALL_FAULTS)
def test_faults_spare_the_start_and_the_target_and_keep_to_their_family(name: str) -> None:
    clean, seen, mask = run_effect(name, START + 3)
    np.testing.assert_array_equal(seen[:START], clean[:START])
    np.testing.assert_array_equal(seen[..., TARGET], clean[..., TARGET])
    np.testing.assert_array_equal(np.isnan(seen), mask == 0)
    hidden, altered = (mask == 0).any(), not np.array_equal(seen[START + 1], clean[START + 1])
    family = FAULTS[name].family
    assert (hidden, altered) == {NOMINAL: (False, False), MASKED: (True, True), UNDETECTED: (False, True)}[family]


def test_the_faults_are_those_of_the_plan() -> None:
    assert len(MASKED_FAULTS) == 1 + 1 + 7 + 21 + 2 + 3
    assert len(ALL_FAULTS) == len(MASKED_FAULTS) + 7 + 1 + 7 + 1


def test_what_is_lost_and_for_how_long() -> None:
    _, _, mask = run_effect("dead_joint_2+joint_6", 60)
    assert [c for c, m in zip(LAYOUT.channels, mask[-1, 0], strict=True) if m == 0] == [
        f"joint_{kind}.lbr_iiwa_joint_{i}" for kind in ("position", "velocity") for i in (2, 6)
    ]
    _, _, mask = run_effect("encoders_out_0.2s", 60)
    np.testing.assert_array_equal(np.flatnonzero((mask[:, 0] == 0).any(1)), np.arange(START, START + 20))
    np.testing.assert_array_equal(np.flatnonzero(mask[START, 0] == 0), np.arange(14))
    _, _, mask = run_effect("dropout80", START + 400)
    assert mask[START:, :, :17].mean() == pytest.approx(0.2, abs=0.02)


def test_what_is_falsified_and_by_how_much() -> None:
    clean, seen, _ = run_effect("bias_joint_3", 20)
    np.testing.assert_allclose((seen - clean)[START:, :, 2], 0.1, atol=1e-12)
    assert np.count_nonzero(seen - clean) == 10 * 3
    clean, seen, _ = run_effect("bias_end_effector.x", 20)
    np.testing.assert_allclose((seen - clean)[START:, :, 14], 0.05, atol=1e-12)
    clean, seen, _ = run_effect("stuck_joint_5", 20)
    np.testing.assert_array_equal(seen[START:, :, [4, 11]], clean[[START] * 10][:, :, [4, 11]])
    clean, seen, _ = run_effect("noise_x3", START + 2000)
    np.testing.assert_allclose((seen - clean)[START:].std((0, 1)), np.sqrt(8) * NOISE, rtol=0.05)


# The study


def test_the_judge_s_figures_do_not_depend_on_how_many_rows_fly_at_once() -> None:
    task = TASKS["kuka_reach"]
    torch.manual_seed(0)
    pilot = CONTESTANTS["amortized"].make(task)
    unit = Unit("kuka_reach", "amortized", 0, "iid", episodes=2, faults=("dead_joint_4", "gone"))
    together, apart = (_judged(pilot, replace(task, rows=rows), Variant("default"), unit) for rows in (4, 1))
    assert list(together) == list(apart) == ["nominal", "dead_joint_4"]
    for fault, figures in together.items():
        np.testing.assert_allclose(figures["cost"], apart[fault]["cost"], rtol=1e-3)
        assert figures["failed"] == 0
        assert figures["rmse"] > 0
    assert together["nominal"]["cost"] != together["dead_joint_4"]["cost"]


def test_the_final_cost_is_that_of_the_last_half_second() -> None:
    """An arm that rests at home after the last jump: what it costs then is what it costs in the end."""
    pilot = HoldMLP(LAYOUT.size, LAYOUT.joints)
    for parameter in pilot.parameters():
        torch.nn.init.zeros_(parameter)
    verdict = judge(pilot, KukaArena(("nominal",), 2, 3), 0, checks=False, estimate=0)
    arena = KukaArena(("nominal",), 2, 3)
    costs = np.empty((arena.ticks, 2))
    for tick in range(arena.ticks):
        arena.step(np.zeros((2, 7)))
        costs[tick] = arena.cost()
    np.testing.assert_allclose(verdict.final[0], costs[350:].mean(0), rtol=1e-9)
    np.testing.assert_allclose(verdict.cost[0], costs.mean(0), rtol=1e-9)
    assert (np.abs(costs[350:].mean(0) - costs.mean(0)) > 1.0).all()
