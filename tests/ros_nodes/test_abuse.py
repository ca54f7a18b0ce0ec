"""Processes that are killed, paused and full, and peers that come and go: each ends as docs/safety.md says."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from ros_nodes.session import Child, Session
from runtime.safety import Status
from tests.ros_nodes.harness import FakeRobot, errors, start_controller
from tests.tiny_bundle import tiny_contract

pytestmark = pytest.mark.timed

KUKA = tiny_contract("kuka_reach")


def listen(session: Session) -> FakeRobot:
    """What the controller says; the robot is the simulator."""
    listener = FakeRobot(session, KUKA)
    listener.silent = {o.topic for o in KUKA.observations}
    return listener


def start_both(session: Session, bundle: Path) -> tuple[FakeRobot, Child, Child]:
    """The listener, the simulator and the controller, which acts; no guard, which a busy machine would call upon."""
    listener = listen(session)
    simulator = session.start("ros_nodes.sim_node", {"task": "kuka_reach"})
    controller = start_controller(session, bundle, guard_ms=0.0)
    listener.wait_for(Status.ACTIVE)
    session.spin(0.3)
    return listener, simulator, controller


def held(robot: FakeRobot) -> None:
    """The newest ticks hold, and say so of every sensor."""
    last = robot.ticks[-20:]
    assert {t.status for t in last} == {Status.HOLDING}
    assert all(np.array_equal(t.command, last[0].command) for t in last)
    assert last[-1].reasons.all()


def test_a_killed_simulator_leaves_a_controller_that_holds_until_another_one_comes(
    session: Session, kuka: Path
) -> None:
    listener, simulator, controller = start_both(session, kuka)
    session.children.remove(simulator)
    os.kill(simulator.process.pid, signal.SIGKILL)
    simulator.process.wait(5)
    listener.wait_for(Status.HOLDING)
    session.spin(0.6)
    held(listener)
    session.start("ros_nodes.sim_node", {"task": "kuka_reach", "seed": 1})
    listener.wait_for(Status.ACTIVE)
    session.spin(0.3)
    commands = np.array(listener.commands)
    assert (np.abs(np.diff(commands, axis=0)) <= np.array(KUKA.action.max_rate) / KUKA.rate_hz + 1e-9).all()
    assert errors(controller) == []


def test_a_paused_simulator_is_held_and_goes_on(session: Session, kuka: Path) -> None:
    listener, simulator, controller = start_both(session, kuka)
    simulator.process.send_signal(signal.SIGSTOP)
    listener.wait_for(Status.HOLDING)
    session.spin(0.6)
    held(listener)
    simulator.process.send_signal(signal.SIGCONT)
    listener.wait_for(Status.ACTIVE)
    assert controller.log.count("holding: lost") == 1
    assert errors(controller) == []


class Peers:
    """Nodes that join, publish and subscribe the controller's topics, and leave, in a process of their own."""

    def __init__(self, context: Context) -> None:
        self._context, self._nodes, self.joined = context, list[Node](), 0

    def come_and_go(self) -> None:
        if len(self._nodes) == 3:
            self._nodes.pop(0).destroy_node()
        node = Node(f"peer_{self.joined}", context=self._context, enable_rosout=False)
        for topic in ("controller/telemetry", "command", "controller/state"):
            node.create_subscription(Float64MultiArray, topic, lambda _: None, QoSProfile(depth=10))
        node.create_publisher(JointState, "joint_states", 10)
        self._nodes.append(node)
        self.joined += 1

    def close(self) -> None:
        for node in self._nodes:
            node.destroy_node()


def test_peers_that_come_and_go_do_not_stop_the_controller(session: Session, kuka: Path) -> None:
    listener, _, controller = start_both(session, kuka)
    listener.ticks.clear()
    peers = Peers(session.node.context)
    for _ in range(40):
        peers.come_and_go()
        session.spin(0.05)
    peers.close()
    process = [session.start("tests.ros_nodes.steady_robot", {}) for _ in range(3)]  # whole participants, which die
    session.spin(1.5)
    for child in process:
        session.children.remove(child)
        child.kill()
    session.spin(1.0)
    listener.wait_for(Status.ACTIVE)
    assert peers.joined == 40
    numbers = [t.tick for t in listener.ticks]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert Status.STOPPED not in {t.status for t in listener.ticks}, "50 late ticks in a row would stop it"
    assert errors(controller) == []


def test_a_full_disk_ends_the_recorder_with_one_error_and_leaves_the_controller_alone(
    session: Session, kuka: Path, small_disk: Path
) -> None:
    listener, _, controller = start_both(session, kuka)
    recorder = session.start("ros_nodes.recorder", {"output": str(small_disk / "bag")})
    session.children.remove(recorder)
    assert recorder.process.wait(30) == 1
    (line,) = [line for line in recorder.log.splitlines() if line.startswith("[FATAL]")]
    assert f"cannot write the bag {small_disk / 'bag'}: No space left on device" in line
    assert "what was recorded until then is in" in line
    assert "Traceback" not in recorder.log
    assert list(small_disk.glob(".bag.partial/bag/*.mcap")), "what was written is still there"
    assert not (small_disk / "bag").exists()
    listener.wait_for(Status.ACTIVE)
    assert Status.STOPPED not in {t.status for t in listener.ticks}
    assert errors(controller) == []
