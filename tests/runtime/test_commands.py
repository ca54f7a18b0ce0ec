from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.commands import read_command
from runtime.contract import Action
from tests.runtime.replay.recording import ARRAY, array, joint_state, named_array, trajectory, twist
from tests.tiny_bundle import tiny_contract

STATE, TRAJECTORY, TWIST = (
    "sensor_msgs/msg/JointState",
    "trajectory_msgs/msg/JointTrajectory",
    "geometry_msgs/msg/Twist",
)


def action(kind: str = "position", joints: tuple[str, ...] = ("a", "b")) -> Action:
    arm = tiny_contract("kuka_reach").action
    columns = {name: getattr(arm, name)[:2] for name in ("scale", "offset", "low", "high", "max_rate")}
    return replace(arm, kind=kind, mode="absolute", joints=joints, **columns)


def test_an_array_is_in_the_order_of_the_contract_unless_it_names_its_joints() -> None:
    assert read_command(array([1.0, 2.0]), ARRAY, action()) == pytest.approx([1, 2])
    assert read_command(named_array([2.0, 1.0], "b,a"), ARRAY, action()) == pytest.approx([1, 2])
    assert read_command(named_array([1.0, 2.0], "joints"), ARRAY, action()) == pytest.approx([1, 2])
    assert read_command(array([1.0]), ARRAY, action()) is None
    assert read_command(named_array([1.0], "b,a"), ARRAY, action()) is None
    assert read_command(array([1.0, np.nan]), ARRAY, action()) is None


def test_joint_states_are_read_by_name() -> None:
    state = joint_state({"lid": 9.0, "b": 2.0, "a": 1.0}, {"lid": 8.0, "b": 4.0, "a": 3.0})
    assert read_command(state, STATE, action()) == pytest.approx([1, 2])
    assert read_command(state, STATE, action("velocity")) == pytest.approx([3, 4])
    assert read_command(state, STATE, action("effort")) is None, "it holds no efforts"
    assert read_command(joint_state({"a": 1.0}), STATE, action()) is None


def test_the_first_point_of_a_trajectory_is_read_by_name() -> None:
    message = trajectory(["b", "a"], positions=[2.0, 1.0], velocities=[4.0, 3.0])
    assert read_command(message, TRAJECTORY, action()) == pytest.approx([1, 2])
    assert read_command(message, TRAJECTORY, action("velocity")) == pytest.approx([3, 4])
    assert read_command(message, TRAJECTORY, action("effort")) is None
    assert read_command(trajectory(["b", "a"]), TRAJECTORY, action()) is None, "it holds no point"


def test_a_twist_is_read_by_the_names_of_its_axes() -> None:
    assert read_command(twist(0.1, -0.25), TWIST, action("velocity", ("wz", "vx"))) == pytest.approx([-0.25, 0.1])
    assert read_command(twist(0.1, -0.25), TWIST, action("velocity")) is None
