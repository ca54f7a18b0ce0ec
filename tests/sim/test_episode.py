from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.safety import Status
from runtime.sample import Sample
from runtime.sensing import Reason
from sim.env import RobotEnv
from sim.episode import episode
from tests.tiny_bundle import tiny_contract, write_tiny_bundle


@pytest.fixture
def cart() -> Iterator[RobotEnv]:
    env = RobotEnv("cartpole")
    yield env
    env.close()


@pytest.fixture
def arm() -> Iterator[RobotEnv]:
    env = RobotEnv("kuka_reach")
    yield env
    env.close()


def test_every_tick_senses_acts_and_advances(cartpole: Bundle, cart: RobotEnv) -> None:
    """The tiny agent's force, 10 N * tanh(0.3 * mean(x) + 0.1 t), worked out from what each tick sensed."""
    controller = Controller(cartpole)
    layout = controller.layout
    forces: list[float] = []
    times: list[list[int]] = []

    def watch(sample: Sample, tick: int) -> None:
        assert tick == len(forces)
        x = (sample.values - layout.mean) / layout.scale
        forces.append(10.0 * np.tanh(0.3 * x.mean() + 0.1 * tick))
        times.append(sample.stamp_ns.tolist())

    ticks = list(episode(controller, cart, 3, disturb=watch))
    assert [t.index for t in ticks] == list(range(len(ticks)))
    assert [t.outcome.terminated for t in ticks] == [False] * (len(ticks) - 1) + [True]
    np.testing.assert_allclose([t.command.values[0] for t in ticks], forces, rtol=1e-5, atol=1e-6)
    assert times == [[10_000_000 * i] * 4 for i in range(len(ticks))]


def test_it_ends_with_the_task_and_begins_the_same_again(kuka: Bundle, arm: RobotEnv) -> None:
    controller = Controller(kuka)
    first, again, other = (list(episode(controller, arm, seed)) for seed in (5, 5, 6))
    assert len(first) == arm.task.episode_steps
    assert [t.outcome for t in first] == [t.outcome for t in again]
    assert [t.outcome for t in first] != [t.outcome for t in other]


def test_readings_can_be_lost_or_late(cartpole: Bundle, cart: RobotEnv) -> None:
    """Tick t: channel 0 is lost from tick 2 on, and channel 3 arrives at even ticks alone."""
    controller = Controller(cartpole)
    arrivals = []

    def disturb(sample: Sample, tick: int) -> None:
        arrivals.append(controller.inference.state["arrivals"][0, 0])
        if tick >= 2:
            sample.values[0] = np.nan
        if tick % 2:
            sample.stamp_ns[3] -= 10_000_000

    ticks = list(episode(controller, cart, 0, disturb=disturb))
    assert arrivals[:5] == [0, 4, 7, 11, 14]
    assert [Reason(int(t.command.reasons[0])) for t in ticks[:4]] == [Reason(0)] * 2 + [Reason.NON_FINITE] * 2


def test_columns_pick_the_channels_of_the_contract(tmp_path: Path, arm: RobotEnv) -> None:
    contract = tiny_contract("kuka_reach")
    position, velocity, _, _ = contract.observations
    turned = replace(contract, observations=(velocity, position))
    controller = Controller(Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "kuka_reach", 0.3, turned)))
    columns = np.array([*range(7, 14), *range(7)])
    seen: list[np.ndarray] = []
    for _ in episode(controller, arm, 2, columns, lambda sample, tick: seen.append(sample.values.copy())):
        break
    np.testing.assert_array_equal(seen[0], arm.reset(seed=2)[0][columns])


def test_a_robot_whose_pose_is_not_seen_stays(kuka: Bundle, arm: RobotEnv) -> None:
    def blind(sample: Sample, tick: int) -> None:
        sample.values[:7] = np.nan

    arm.reset(seed=1)
    start = arm.sim.joint_states()[0]
    ticks = list(episode(Controller(kuka), arm, 1, disturb=blind))
    assert {t.command.status for t in ticks} == {Status.WAITING}
    np.testing.assert_allclose(arm.sim.joint_states()[0], start, atol=0.05)
