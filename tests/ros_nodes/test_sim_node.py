"""The simulator node as a process over real DDS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PointStamped
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray
from std_srvs.srv import Trigger

from ros_nodes.polling import PolledSubscription
from ros_nodes.session import Session
from runtime.errors import GanglionError
from sim.env import RobotEnv
from sim.tasks import TASKS
from tests.ros_nodes.harness import start_controller
from tests.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.timed

KUKA = TASKS["kuka_reach"]
JOINTS = KUKA.action.joints
_DEEP = QoSProfile(depth=1000)


class Listener:
    """Collects what the simulator publishes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.joints: list[JointState] = []
        self.targets: list[PointStamped] = []
        self.errors: list[float] = []
        self._topics = [
            (PolledSubscription(session.node, JointState, "joint_states", _DEEP), self.joints.append),
            (PolledSubscription(session.node, PointStamped, "target", _DEEP), self.targets.append),
            (
                PolledSubscription(session.node, Float64, "metrics/tracking_error_m", _DEEP),
                lambda m: self.errors.append(m.data),
            ),
        ]
        self._command = session.node.create_publisher(Float64MultiArray, "command", 1)
        session.idle.append(self._take)

    def _take(self) -> None:
        for subscription, store in self._topics:
            for message, _ in subscription.take():
                store(message)

    def reset(self) -> str:
        """A new episode; what was collected before it is dropped."""
        response = self.session.call(Trigger, "/sim/reset", Trigger.Request())
        assert response.success
        self.session.spin(0.1)
        self.joints.clear()
        self.targets.clear()
        self.errors.clear()
        self.session.spin(0.05)
        return str(response.message)

    def command(self, values: list[float]) -> None:
        self._command.publish(Float64MultiArray(data=values))

    def positions(self) -> np.ndarray:
        """(ticks, A)"""
        return np.array([m.position for m in self.joints])


def _episode(listener: Listener, goal: list[float], ticks: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and tracking errors of the first `ticks` ticks after a reset, under one command."""
    listener.reset()
    listener.command(goal)
    listener.session.wait(lambda: len(listener.errors) > ticks, "the episode")
    moving = np.flatnonzero((np.diff(listener.positions(), axis=0) != 0).any(axis=1))[0]
    return listener.positions()[moving : moving + ticks], np.array(listener.errors[:ticks])


def test_the_same_seed_is_the_same_episode_and_that_of_the_environment(session: Session) -> None:
    session.start("ros_nodes.sim_node", {"task": "kuka_reach", "seed": 7})
    listener = Listener(session)
    session.wait(lambda: bool(listener.joints), "the robot")
    goal = [0.1, 0.3, -0.1, -1.2, 0.2, 0.8, 0.0]
    first, second = _episode(listener, goal, 60), _episode(listener, goal, 60)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    session.set_parameter("sim", "seed", 8)
    assert not np.array_equal(_episode(listener, goal, 60)[0], first[0])

    env = RobotEnv("kuka_reach")
    observation, _ = env.reset(seed=7)
    expected = [observation[:7]]
    errors = []
    for _ in range(60):
        observation, outcome = env.advance(np.array(goal))
        expected.append(observation[:7])
        errors.append(outcome.metrics["tracking_error_m"])
    env.close()
    assert np.array_equal(first[0], np.array(expected[:60]))
    assert np.array_equal(first[1], np.array(errors))


def test_the_robot_holds_until_commanded_and_ignores_bad_commands(session: Session) -> None:
    child = session.start("ros_nodes.sim_node", {"task": "kuka_reach", "seed": 3})
    listener = Listener(session)
    session.wait(lambda: bool(listener.joints), "the robot")
    listener.reset()
    session.spin(0.2)
    assert listener.joints[0].name == list(JOINTS)
    assert len(listener.joints) > 10
    assert (listener.positions() == listener.positions()[0]).all()
    assert listener.errors == []
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in listener.joints]
    assert np.median(np.diff(stamps)) == pytest.approx(0.01, rel=0.1)

    goal = listener.positions()[0] + 0.1
    for bad in ([0.0] * 6, [float("nan")] * 7, []):
        listener.command(bad)
        session.spin(0.05)
    assert listener.errors == []
    assert "expected 7 finite numbers" in child.log
    listener.command(list(goal))
    session.wait(lambda: len(listener.errors) > 50, "the motion")
    listener.command([float("inf")] * 7)  # the robot keeps the last command
    session.spin(0.3)
    assert listener.positions()[-1] == pytest.approx(goal, abs=0.02)


def test_faults_are_applied_and_checked(session: Session) -> None:
    session.start("ros_nodes.sim_node", {"task": "kuka_reach", "faults": [f"lost:{JOINTS[1]}+target"]})
    listener = Listener(session)
    session.wait(lambda: len(listener.joints) > 5 and len(listener.targets) > 5, "the robot")
    position, velocity = np.array(listener.joints[-1].position), np.array(listener.joints[-1].velocity)
    assert list(np.flatnonzero(np.isnan(position))) == [1]
    assert list(np.flatnonzero(np.isnan(velocity))) == [1]
    assert np.isnan(listener.targets[-1].point.y)
    with pytest.raises(GanglionError, match="'elbow' names no sensor channel; expected one of joint_position"):
        session.set_parameter("sim", "faults", ["lost:elbow"])
    session.set_parameter("sim", "faults", [])
    session.spin(0.1)
    assert np.isfinite(listener.joints[-1].position).all()


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"task": "juggle"}, "there is no task 'juggle'; expected one of"),
        ({"faults": ["lost:elbow"]}, "'elbow' names no sensor channel"),
        ({"seed": -3}, "seed"),
        ({"seed": "three"}, "seed"),
        (
            {"command_type": "std_msgs/msg/Float64"},
            "command_type is 'std_msgs/msg/Float64', expected one of std_msgs/msg/",
        ),
        ({"qos_overrides./command.subscription.reliability": "sloppy"}, "the topic 'command' cannot be opened"),
    ],
)
def test_a_wrong_parameter_is_one_line(session: Session, parameters: dict[str, object], complaint: str) -> None:
    child = session.start("ros_nodes.sim_node", parameters)
    assert child.process.wait(15) == 2
    (line,) = [line for line in child.log.splitlines() if line.startswith("[FATAL]")]
    assert complaint in line
    assert "Traceback" not in child.log
    session.children.remove(child)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_becomes_a_robot_that_its_controller_drives(session: Session, tmp_path: Path, task: str) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.onnx", task, gain=0.05)
    session.start("ros_nodes.sim_node", {"task": task})
    start_controller(session, bundle)
    env = RobotEnv(task)
    env.reset(seed=0)
    name = next(iter(env.advance(np.zeros(len(TASKS[task].action.joints)))[1].metrics))
    env.close()
    metric = PolledSubscription(session.node, Float64, f"metrics/{name}", _DEEP)
    values: list[float] = []
    session.idle.append(lambda: values.extend(m.data for m, _ in metric.take()))
    session.wait(lambda: bool(values), f"the metric {name}")
    session.call(Trigger, "/sim/reset", Trigger.Request())
    values.clear()
    session.wait(lambda: len(values) > 50, f"{name} of the moving robot")
    assert len(set(values)) > 25
