"""Commands in every message type: what is in it, from the node and from its guard, and that a robot obeys it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.clock import Clock
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from ros_nodes.commands import COMMAND_TYPES, JOINT_STATE, CommandFormat, CommandMessage
from ros_nodes.conversion import stamp_ns
from ros_nodes.polling import PolledSubscription
from ros_nodes.session import CONFIGURE, Session
from runtime.commands import ARRAY, TWIST, read_command
from runtime.errors import ContractError
from runtime.safety import Status
from tests.ros_nodes.harness import FakeRobot, errors, start_controller
from tests.tiny_bundle import tiny_contract

KUKA = tiny_contract("kuka_reach")
JOINTS = KUKA.action.joints
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
REVERSED = list(reversed(JOINTS))
OF_JOINTS = [t for t in COMMAND_TYPES if t != TWIST]


def _message(message_type: str, kind: str, values: list[float], order: tuple[str, ...] = ("c", "a", "b")) -> Any:
    form = CommandFormat(message_type, kind, ("a", "b", "c"), order, 0.02)
    return CommandMessage(form, Clock()).fill(np.array(values))


def test_an_array_is_in_the_driver_s_order_and_says_so() -> None:
    message = _message(ARRAY, "velocity", [1.0, 2.0, 3.0])
    assert list(message.data) == [3.0, 1.0, 2.0]
    assert message.layout.dim[0].label == "c,a,b"


@pytest.mark.parametrize(
    ("kind", "field"), [("position", "positions"), ("velocity", "velocities"), ("effort", "effort")]
)
def test_a_trajectory_is_one_point_that_is_due_in_a_period_from_now(kind: str, field: str) -> None:
    message = _message(TRAJECTORY, kind, [1.0, 2.0, 3.0])
    assert message.joint_names == ["c", "a", "b"]
    (point,) = message.points
    filled = {n: list(getattr(point, n)) for n in ("positions", "velocities", "accelerations", "effort")}
    assert filled == {n: [3.0, 1.0, 2.0] if n == field else [] for n in filled}
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 20_000_000)
    assert stamp_ns(message) is None


@pytest.mark.parametrize("kind", ["position", "velocity", "effort"])
def test_joint_states_hold_the_commanded_quantity_alone(kind: str) -> None:
    before = Clock().now().nanoseconds
    message = _message(JOINT_STATE, kind, [1.0, 2.0, 3.0])
    assert message.name == ["c", "a", "b"]
    filled = {n: list(getattr(message, n)) for n in ("position", "velocity", "effort")}
    assert filled == {n: [3.0, 1.0, 2.0] if n == kind else [] for n in filled}
    assert before <= (stamp_ns(message) or 0) <= Clock().now().nanoseconds


@pytest.mark.parametrize("order", [("a", "b"), ("a", "b", "b"), ("a", "b", "c", "d"), ("a", "b", "x")])
def test_an_order_that_is_no_permutation_is_refused(order: tuple[str, ...]) -> None:
    with pytest.raises(ContractError, match=f"command_joints is {', '.join(order)}; expected the bundle's 3 joints"):
        _message(ARRAY, "effort", [1.0, 2.0, 3.0], order)


def _names_and_values(message: Any) -> tuple[list[str], list[float]]:
    if hasattr(message, "points"):
        return list(message.joint_names), list(message.points[0].positions)
    if hasattr(message, "position"):
        return list(message.name), list(message.position)
    return message.layout.dim[0].label.split(","), list(message.data)


def test_a_twist_holds_the_commanded_axes_and_is_read_again() -> None:
    action = replace(tiny_contract("husky_goto").action, kind="velocity", joints=("vx", "wz"))
    message = CommandMessage(CommandFormat(TWIST, "velocity", action.joints, ("wz", "vx"), 0.02), Clock()).fill(
        np.array([0.5, -1.5])
    )
    assert (message.linear.x, message.linear.y, message.linear.z) == (0.5, 0.0, 0.0)
    assert (message.angular.x, message.angular.y, message.angular.z) == (0.0, 0.0, -1.5)
    np.testing.assert_array_equal(read_command(message, TWIST, action), [0.5, -1.5])
    with pytest.raises(ContractError, match="which commands vx, vy, vz, wx, wy, wz; the bundle commands a, b"):
        CommandFormat(TWIST, "velocity", ("a", "b"), ("b", "a"), 0.02)


@pytest.mark.parametrize("message_type", OF_JOINTS)
def test_the_node_and_its_guard_send_the_same_kind_of_message(session: Session, kuka: Path, message_type: str) -> None:
    robot = FakeRobot(session, KUKA, command_type=message_type)
    robot.values[:7] += np.linspace(-0.3, 0.3, 7)
    child = start_controller(session, kuka, command_type=message_type, command_joints=REVERSED)
    robot.wait_for(Status.ACTIVE)
    session.spin(0.3)
    sent = [t.command for t in robot.ticks if t.status != Status.WAITING]
    assert len(sent) > 10
    assert all(np.array_equal(a, b) for a, b in zip(robot.commands, sent))
    stamps = [stamp_ns(m) for m in robot.messages]
    if message_type == JOINT_STATE:
        assert all(a is not None and b is not None and a < b for a, b in pairwise(stamps))
    else:
        assert set(stamps) == {None}
    session.children.remove(child)
    try:
        os.kill(child.process.pid, signal.SIGKILL)
        session.wait(lambda: "the guard commands the safe action" in child.log, "the guard")
        robot.messages.clear()
        session.wait(lambda: len(robot.messages) > 10, "the guard's commands")
        names, values = _names_and_values(robot.messages[-1])
        assert names == REVERSED
        assert values == list(reversed(robot.ticks[-1].command))
    finally:
        child.kill()


@pytest.mark.parametrize("message_type", OF_JOINTS)
def test_the_simulated_robot_follows_commands_of_every_type(session: Session, kuka: Path, message_type: str) -> None:
    session.start("ros_nodes.sim_node", {"task": "kuka_reach", "command_type": message_type})
    start_controller(session, kuka, command_type=message_type, command_joints=REVERSED)
    deep = QoSProfile(depth=1000)
    commands = PolledSubscription(session.node, COMMAND_TYPES[message_type], "command", deep)
    states = PolledSubscription(session.node, JointState, "joint_states", deep)
    seen: dict[str, list[dict[str, float]]] = {"commanded": [], "measured": []}

    def take() -> None:
        seen["commanded"] += [dict(zip(*_names_and_values(m))) for m, _ in commands.take()]
        seen["measured"] += [dict(zip(m.name, m.position)) for m, _ in states.take()]

    session.idle.append(take)

    def moved() -> bool:
        first, last = seen["measured"][0], seen["measured"][-1]
        return max(abs(last[j] - first[j]) for j in JOINTS) > 0.2

    what = "two seconds of commands, and an arm that has moved"
    session.wait(lambda: len(seen["commanded"]) > 200 and moved(), what, timeout_s=30.0)
    last = seen["measured"][-1]
    ahead = {j: abs(seen["commanded"][-1][j] - last[j]) for j in JOINTS}
    assert max(ahead.values()) < 0.15, "and is where it was told to be"


def test_a_type_or_an_order_that_cannot_be_is_one_error_line(session: Session, kuka: Path) -> None:
    child = start_controller(session, kuka, command_type="std_msgs/msg/String")
    session.wait(lambda: bool(errors(child)), "the refusal")
    (line,) = errors(child)
    assert f"command_type is 'std_msgs/msg/String', expected one of {', '.join(COMMAND_TYPES)}" in line
    session.set_parameter("controller", "command_type", JOINT_STATE)
    session.set_parameter("controller", "command_joints", ["elbow"])
    assert not session.change_state("controller", CONFIGURE)
    assert "command_joints is elbow; expected the bundle's 7 joints" in errors(child)[-1]
    session.set_parameter("controller", "command_joints", REVERSED)
    assert session.change_state("controller", CONFIGURE)
    assert len(errors(child)) == 2
