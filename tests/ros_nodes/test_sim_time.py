"""The controller under `use_sim_time`: a clock that stands still or jumps stamps messages, but paces nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rosgraph_msgs.msg import Clock

from ros_nodes.commands import JOINT_STATE
from ros_nodes.conversion import stamp_ns
from ros_nodes.session import Session
from runtime.safety import Status
from tests.ros_nodes.harness import PERIOD_NS, FakeRobot, start_controller
from tests.tiny_bundle import tiny_contract

pytestmark = pytest.mark.timed

KUKA = tiny_contract("kuka_reach")
START, LATER, EARLIER = 1000, 4600, 10


class SimulatedClock:
    """Says the same time again and again; the robot's messages carry it too."""

    def __init__(self, session: Session, robot: FakeRobot) -> None:
        self.now_s = START
        self._publisher = session.node.create_publisher(Clock, "/clock", 1)
        session.idle.append(lambda: self._publisher.publish(Clock(clock=Time(sec=self.now_s))))
        robot.edit = self._stamp

    def _stamp(self, message: Any) -> None:
        message.header.stamp = Time(sec=self.now_s)


def test_ticks_go_on_whatever_the_clock_does(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA, command_type=JOINT_STATE)
    clock = SimulatedClock(session, robot)
    patient: dict[str, Any] = {"guard_ms": 0.0, "most_late_ticks": 0}  # on a busy machine
    start_controller(session, kuka, use_sim_time=True, command_type=JOINT_STATE, **patient)
    robot.wait_for(Status.ACTIVE)
    for at_s in (START, LATER, EARLIER, START):
        clock.now_s = at_s
        session.spin(0.5)
        robot.messages.clear()
        robot.ticks.clear()
        robot.diagnostics.clear()
        session.wait(lambda: len(robot.ticks) > 100 and bool(robot.diagnostics), "ticks")
        periods = np.diff([t.now_ns for t in robot.ticks])
        assert np.median(periods) == pytest.approx(PERIOD_NS, rel=0.05)
        assert np.median([t.reasons.any() for t in robot.ticks]) == 0, "readings are not stale"
        assert np.median([t.status for t in robot.ticks]) == Status.ACTIVE
        assert {stamp_ns(m) for m in robot.messages} == {at_s * 10**9}
        assert {stamp_ns(m) for m in robot.diagnostics} == {at_s * 10**9}
        assert np.nanmax([t.latency_us for t in robot.ticks]) == 0, "both its ends are on the clock that stands still"
    robot.silent = {"target"}
    robot.wait_for(Status.HOLDING)  # the clock of the watchdogs does not stand still
    robot.silent = set()
    robot.wait_for(Status.ACTIVE)


def test_the_guard_stamps_by_the_simulated_clock(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA, command_type=JOINT_STATE)
    clock = SimulatedClock(session, robot)
    child = start_controller(session, kuka, use_sim_time=True, command_type=JOINT_STATE)
    robot.wait_for(Status.ACTIVE)
    session.children.remove(child)
    try:
        os.kill(child.process.pid, signal.SIGKILL)
        session.wait(lambda: "the guard commands the safe action" in child.log, "the guard")
        clock.now_s = LATER
        session.wait(lambda: bool(robot.messages) and stamp_ns(robot.messages[-1]) == LATER * 10**9, "the new time")
    finally:
        child.kill()
