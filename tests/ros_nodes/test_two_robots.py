"""Two simulated robots with a controller each, in two namespaces of one machine: four processes and two guards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from ros_nodes.polling import PolledSubscription
from ros_nodes.session import Session
from runtime.safety import Status
from runtime.telemetry import Tick, unpack
from tests.ros_nodes.harness import errors, start_controller
from tests.tiny_bundle import tiny_contract

pytestmark = pytest.mark.timed

KUKA = tiny_contract("kuka_reach")
SIDES = ("left", "right")
ERROR = DiagnosticStatus.ERROR[0]
START_S = 40.0  # six Python processes on a busy machine
_DEEP = QoSProfile(depth=1000)


class Watched:
    """Everything that one robot's nodes say."""

    def __init__(self, session: Session, side: str) -> None:
        self.ticks: list[Tick] = []
        self.positions: list[tuple[float, ...]] = []
        self.commands: list[tuple[float, ...]] = []
        topics: list[tuple[str, type, Any]] = [
            ("joint_states", JointState, lambda m: self.positions.append(tuple(m.position))),
            ("command", Float64MultiArray, lambda m: self.commands.append(tuple(m.data))),
            ("controller/telemetry", Float64MultiArray, lambda m: self.ticks.append(unpack(KUKA, np.array(m.data)))),
        ]
        self._topics = [
            (PolledSubscription(session.node, kind, f"/{side}/{name}", _DEEP), store) for name, kind, store in topics
        ]
        session.idle.append(self._take)

    def _take(self) -> None:
        for subscription, store in self._topics:
            for message, _ in subscription.take():
                store(message)

    @property
    def status(self) -> int | None:
        return self.ticks[-1].status if self.ticks else None

    def saw(self) -> set[tuple[float, ...]]:
        return {tuple(t.values[:7]) for t in self.ticks if t.status == Status.ACTIVE}

    def sent(self) -> set[tuple[float, ...]]:
        return {tuple(t.command) for t in self.ticks if t.status != Status.WAITING}


def test_each_controller_drives_its_own_robot(session: Session, kuka: Path) -> None:
    left, right = (Watched(session, side) for side in SIDES)
    levels: dict[str, int] = {}
    diagnostics = PolledSubscription(session.node, DiagnosticArray, "/diagnostics", _DEEP)
    session.idle.append(
        lambda: levels.update({s.name: s.level[0] for m, _ in diagnostics.take() for s in m.status}),
    )
    children = []
    for seed, side in enumerate(SIDES):
        session.start("ros_nodes.sim_node", {"task": "kuka_reach", "seed": seed}, {"__ns": f"/{side}"})
        children.append(start_controller(session, kuka, f"/{side}"))
    session.wait(lambda: {left.status, right.status} == {Status.ACTIVE}, "both controllers", START_S)
    session.wait(lambda: min(len(left.ticks), len(right.ticks)) > 150, "ticks of both", START_S)

    for own, other in ((left, right), (right, left)):
        positions, commands = set(own.positions), set(own.commands)
        assert len(own.saw() & positions) > 30
        assert not own.saw() & set(other.positions)
        assert len(own.sent() & commands) > 30
        assert not own.sent() & set(other.commands)

    answer = session.call(Trigger, "/left/controller/stop", Trigger.Request())
    assert answer.success
    session.wait(lambda: left.status == Status.STOPPED, "the left robot's stop")
    session.set_parameter("right/controller", "refine", 5)
    levels.clear()
    session.wait(lambda: len(levels) == 2, "the diagnostics of both", START_S)
    assert set(levels) == {f"/{side}/controller: controller" for side in SIDES}
    assert levels["/right/controller: controller"] < levels["/left/controller: controller"] == ERROR
    assert right.status == Status.ACTIVE
    assert (left.ticks[-1].refine, right.ticks[-1].refine) == (2, 5)
    assert session.state("left/controller") == session.state("right/controller") == "active"
    assert [errors(child) for child in children] == [[], []]
    guards = [(name, space) for name, space in session.node.get_node_names_and_namespaces() if "guard" in name]
    assert sorted(guards) == [("controller_guard", "/left"), ("controller_guard", "/right")]
