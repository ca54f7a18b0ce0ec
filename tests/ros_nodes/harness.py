"""A robot made of publishers, and everything that the controller says, over real DDS."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64MultiArray

from ros_nodes.commands import COMMAND_TYPES
from ros_nodes.conversion import MESSAGE_TYPES, sensor_message
from ros_nodes.polling import PolledSubscription
from ros_nodes.session import Child, Session
from runtime.commands import ARRAY, read_command
from runtime.contract import Contract
from runtime.loop import sleep_until
from runtime.messages import topics
from runtime.telemetry import Tick, unpack

PERIOD_NS = 10_000_000
_STEP_NS = 5_000_000  # of a session, which the robot's messages must not keep time with


class FakeRobot:
    """Publishes constant readings at 100 Hz, in the idle time of a session, and collects what the controller says."""

    def __init__(self, session: Session, contract: Contract, namespace: str = "", command_type: str = ARRAY) -> None:
        self.contract = contract
        self.values = contract.layout.mean.copy()
        self.silent: set[str] = set()
        """Topics that publish nothing."""
        self.period_ns = PERIOD_NS
        self.edit: Callable[[object], None] = lambda message: None
        """Called on every message before it is published."""
        self.messages: list[Any] = []
        """Commands as they came."""
        self.commands: list[np.ndarray] = []
        """The same, each (A,) in the contract's order."""
        self.ticks: list[Tick] = []
        self.states: list[np.ndarray] = []
        self.diagnostics: list[DiagnosticArray] = []
        self._session = session
        self._topics = topics(contract.observations)
        make = session.node.create_publisher
        self._publishers = {
            name: make(MESSAGE_TYPES[kind], namespace + name, 10) for name, (kind, _) in self._topics.items()
        }
        deep = QoSProfile(depth=1000)
        self._command = PolledSubscription(session.node, COMMAND_TYPES[command_type], f"{namespace}command", deep)
        self._command_type = command_type
        self._telemetry = PolledSubscription(session.node, Float64MultiArray, f"{namespace}controller/telemetry", deep)
        self._state = PolledSubscription(session.node, Float64MultiArray, f"{namespace}controller/state", deep)
        self._diagnostics = PolledSubscription(session.node, DiagnosticArray, "/diagnostics", deep)
        self._next_ns = time.monotonic_ns()
        session.idle.append(self._work)

    def listens(self) -> bool:
        """Whether it has found a controller."""
        return self._telemetry.publishers > 0 and self._command.publishers > 0

    def _work(self) -> None:
        if time.monotonic_ns() >= self._next_ns - _STEP_NS:
            sleep_until(self._next_ns)
            self._next_ns = max(self._next_ns + self.period_ns, time.monotonic_ns() - PERIOD_NS)
            self._publish()
        for message, _ in self._command.take():
            command = read_command(message, self._command_type, self.contract.action)
            assert command is not None
            self.messages.append(message)
            self.commands.append(command)
        self.ticks += [unpack(self.contract, np.array(m.data)) for m, _ in self._telemetry.take()]
        self.states += [np.array(m.data) for m, _ in self._state.take()]
        self.diagnostics += [m for m, _ in self._diagnostics.take()]

    def _publish(self) -> None:
        stamp = self._session.node.get_clock().now()
        for topic, (kind, observations) in self._topics.items():
            if topic not in self.silent:
                readings = [(o, self.values[self.contract.layout.slices[o.name]]) for o in observations]
                message = sensor_message(kind, readings, stamp)
                self.edit(message)
                self._publishers[topic].publish(message)

    def wait_for(self, status: int) -> None:
        """Until the newest tick has this status."""
        self._session.wait(lambda: bool(self.ticks) and self.ticks[-1].status == status, f"status {status}")


def start_controller(session: Session, bundle: Path, namespace: str = "/", **parameters: object) -> Child:
    """A controller process that activates itself."""
    values = {"bundle": str(bundle), "autostart": True, **parameters}
    return session.start("ros_nodes.controller_node", values, {"__ns": namespace})


def errors(child: Child) -> list[str]:
    """Lines that a node logged as errors."""
    return [line for line in child.log.splitlines() if line.startswith("[ERROR]")]


def run_command(session: Session, *arguments: str | Path, timeout_s: float = 90.0) -> tuple[int, str]:
    """A `ganglion` command in the session's domain, while the session goes on: its exit code and what it wrote."""
    log = Path(session.environment["ROS_LOG_DIR"]) / "command.log"
    child = Child("ganglion", [str(a) for a in arguments], session.environment, log)
    try:
        session.wait(lambda: child.process.poll() is not None, f"ganglion {arguments[0]}", timeout_s)
        return child.process.returncode, child.log
    finally:
        child.kill()
