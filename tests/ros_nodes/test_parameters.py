"""Topic names, quality of service and changes of parameters, on the node as a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray

from ros_nodes.polling import PolledSubscription
from ros_nodes.session import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, Session
from runtime.errors import GanglionError
from runtime.safety import Status
from tests.ros_nodes.harness import FakeRobot, errors, start_controller
from tests.tiny_bundle import tiny_contract

KUKA = tiny_contract("kuka_reach")
RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


def offered(session: Session, topic: str, count: int = 1) -> Any:
    """Qualities of service of the publishers but ours, once there are so many."""
    session.wait(lambda: len(session.node.get_publishers_info_by_topic(topic)) >= count, f"publishers of {topic}")
    return [
        info.qos_profile for info in session.node.get_publishers_info_by_topic(topic) if info.node_name != "session"
    ]


def requested(session: Session, topic: str) -> Any:
    """Qualities of service of the subscriptions but ours."""
    return [
        info.qos_profile for info in session.node.get_subscriptions_info_by_topic(topic) if info.node_name != "session"
    ]


def test_the_default_qualities_of_service(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    start_controller(session, kuka)
    robot.wait_for(Status.ACTIVE)
    assert [q.reliability for q in requested(session, "/joint_states")] == [BEST_EFFORT]
    commands = offered(session, "/command", 2)
    assert [(q.reliability, q.durability) for q in commands] == [(RELIABLE, DurabilityPolicy.VOLATILE)] * 2
    assert [q.reliability for q in offered(session, "/controller/telemetry")] == [RELIABLE]


def test_qualities_of_service_are_overridden_as_everywhere_in_ros(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    overrides: dict[str, Any] = {
        "qos_overrides./joint_states.subscription.reliability": "reliable",
        "qos_overrides./joint_states.subscription.depth": 3,
        "qos_overrides./command.publisher.reliability": "best_effort",
        "qos_overrides./command.publisher.depth": 5,
        "qos_overrides./controller/telemetry.publisher.reliability": "best_effort",
    }
    lax = QoSProfile(depth=1000, reliability=BEST_EFFORT)
    commands = PolledSubscription(session.node, Float64MultiArray, "command", lax)
    count = [0]
    session.idle.append(lambda: count.__setitem__(0, count[0] + sum(1 for _ in commands.take())))
    child = start_controller(session, kuka, **overrides)
    session.wait(lambda: count[0] > 20, "commands by best effort")
    assert robot.commands == [], "the robot asks for reliable ones"
    assert [q.reliability for q in requested(session, "/joint_states")] == [RELIABLE]
    assert [q.reliability for q in offered(session, "/command", 2)] == [BEST_EFFORT] * 2, "those of node and guard"
    assert [q.reliability for q in offered(session, "/controller/telemetry")] == [BEST_EFFORT]
    name = "qos_overrides./joint_states.subscription.depth"
    with pytest.raises(GanglionError, match="read-only"):
        session.set_parameter("controller", name, 7)

    for transition in (DEACTIVATE, CLEANUP, CONFIGURE, ACTIVATE):
        assert session.change_state("controller", transition)
    seen = count[0]
    session.wait(lambda: count[0] > seen + 20, "commands after a second configuration")
    assert [q.reliability for q in offered(session, "/command", 2)] == [BEST_EFFORT] * 2
    assert errors(child) == []


def test_a_quality_of_service_that_does_not_exist_is_one_error_line(session: Session, kuka: Path) -> None:
    child = start_controller(session, kuka, **{"qos_overrides./command.publisher.reliability": "sloppy"})
    session.wait(lambda: bool(errors(child)), "the refusal")
    session.spin(0.3)
    (line,) = errors(child)
    assert "the topic 'command' cannot be opened" in line
    assert "`sloppy`" in line
    assert "reliability is 'reliable' or 'best_effort'" in line
    assert session.state("controller") == "unconfigured"
    assert requested(session, "/joint_states") == [], "nothing is left behind"


def test_topics_are_named_by_parameters_and_remaps_work_on_top(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA, "arm/")
    names = {"topics.joint_states": "/arm/joint_states", "topics.end_effector": "arm/end_effector"}
    child = session.start(
        "ros_nodes.controller_node",
        {"bundle": str(kuka), "autostart": True, **names, "topics.command": "to_remap"},
        {"to_remap": "/arm/command", "target": "arm/target", "~/telemetry": "arm/controller/telemetry"},
    )
    robot.wait_for(Status.ACTIVE)
    session.wait(lambda: len(robot.commands) > 10, "commands")
    session.set_parameter("controller", "topics.joint_states", "/arm/joint_states")  # what it is already
    with pytest.raises(
        GanglionError, match=r"topics.command is read when configuring.*lifecycle set /controller clean"
    ):
        session.set_parameter("controller", "topics.command", "command")
    for transition in (DEACTIVATE, CLEANUP):
        assert session.change_state("controller", transition)
    session.set_parameter("controller", "topics.command", "two words")
    assert not session.change_state("controller", CONFIGURE)
    (line,) = errors(child)
    assert "the topic 'two words' cannot be opened" in line
    assert session.state("controller") == "unconfigured"
    session.set_parameter("controller", "topics.command", "/arm/command")
    for transition in (CONFIGURE, ACTIVATE):
        assert session.change_state("controller", transition)
    count = len(robot.commands)
    session.wait(lambda: len(robot.commands) > count + 10, "commands")


FIXED = {
    "bundle": "/tmp/other.onnx",
    "rate_hz": 50.0,
    "engage_s": 2.0,
    "most_late_ticks": 3,
    "guard_ms": 200.0,
    "command_type": "sensor_msgs/msg/JointState",
    "command_joints": ["a", "b"],
}
BAD = {
    "rate_hz": (-1.0, "rate_hz is -1, expected 0"),
    "engage_s": (float("nan"), "engage_s is nan, expected 0"),
    "most_late_ticks": (-2, "most_late_ticks is -2, expected 0"),
    "guard_ms": (-3.0, "guard_ms is -3, expected"),
    "command_type": ("Float64", "command_type is 'Float64', expected one of std_msgs/msg/Float64MultiArray"),
    "command_joints": ("a,b", "command_joints is 'a,b', expected a list of joints"),
    "refine": (-2, "refine is -2, expected -1"),
}


def test_a_change_that_would_have_no_effect_is_refused(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka)
    robot.wait_for(Status.ACTIVE)
    for state in ("active", "inactive"):
        assert session.state("controller") == state
        for name, value in FIXED.items():
            with pytest.raises(GanglionError, match=f"{name} is read when configuring, so it would have no effect now"):
                session.set_parameter("controller", name, value)
        session.set_parameter("controller", "bundle", str(kuka))  # what it is already
        session.set_parameter("controller", "refine", 1)
        with pytest.raises(GanglionError, match="refine is 9, expected 0 to 8"):
            session.set_parameter("controller", "refine", 9)
        for name in ("autostart", "realtime_priority"):
            with pytest.raises(GanglionError, match="read-only"):
                session.set_parameter("controller", name, 1 if name == "realtime_priority" else False)
        if state == "active":
            session.wait(lambda: robot.ticks[-1].refine == 1, "the tick with the new number of steps")
            assert session.change_state("controller", DEACTIVATE)
    assert session.change_state("controller", CLEANUP)
    for name, value in FIXED.items():
        session.set_parameter("controller", name, value)
    assert errors(child) == []


def test_values_out_of_range_are_refused_one_by_one(session: Session) -> None:
    child = session.start("ros_nodes.controller_node", {"most_late_ticks": -7})
    for name, (value, complaint) in BAD.items():
        with pytest.raises(GanglionError, match=complaint):
            session.set_parameter("controller", name, value)
    session.set_parameter("controller", "engage_s", 1)  # a whole number is one, too
    for name, value in (("rate_hz", "fast"), ("bundle", 3), ("refine", 1.5)):
        with pytest.raises(GanglionError, match=name):
            session.set_parameter("controller", name, value)
    session.set_parameter("controller", "rate_hz", 50.0)  # although most_late_ticks is still wrong
    assert not session.change_state("controller", CONFIGURE)
    assert "most_late_ticks is -7, expected 0" in errors(child)[0]
