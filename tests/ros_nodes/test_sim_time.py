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

KUKA = tiny_contract("kuka_reach")
START, LATER, EARLIER = 1000, 4600, 10


def test_ticks_go_on_whatever_the_clock_does(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA, command_type=JOINT_STATE)
    clock = session.node.create_publisher(Clock, "/clock", 1)
    now_s = [START]
    latency: list[float] = []

    def stamp(message: Any) -> None:
        if hasattr(message, "header"):
            message.header.stamp = Time(sec=now_s[0])

    robot.edit = stamp
    session.idle.append(lambda: clock.publish(Clock(clock=Time(sec=now_s[0]))))
    child = start_controller(session, kuka, use_sim_time=True, command_type=JOINT_STATE)
    robot.wait_for(Status.ACTIVE)
    session.spin(0.5)
    for at_s in (LATER, EARLIER, START):
        now_s[0] = at_s
        session.spin(0.3)
        robot.messages.clear()
        robot.ticks.clear()
        robot.diagnostics.clear()
        session.wait(lambda: len(robot.ticks) > 100 and bool(robot.diagnostics), "ticks")
        periods = np.diff([t.now_ns for t in robot.ticks])
        assert np.median(periods) == pytest.approx(PERIOD_NS, rel=0.05)
        assert {t.status for t in robot.ticks} == {Status.ACTIVE}
        assert not any(t.reasons.any() for t in robot.ticks), "no reading is stale"
        assert {stamp_ns(m) for m in robot.messages} == {at_s * 10**9}
        assert {stamp_ns(m) for m in robot.diagnostics} == {at_s * 10**9}
        latency += [t.latency_us for t in robot.ticks]
    assert set(latency) == {0.0}, "both ends are stamped by the clock that stands still"

    robot.silent = {"target"}
    robot.wait_for(Status.HOLDING)  # the watchdogs' clock does not stand still
    robot.silent = set()
    robot.wait_for(Status.ACTIVE)
    session.children.remove(child)
    try:
        os.kill(child.process.pid, signal.SIGKILL)
        session.wait(lambda: "the guard commands the safe action" in child.log, "the guard")
        robot.messages.clear()
        session.wait(lambda: len(robot.messages) > 20, "the guard's commands")
        assert stamp_ns(robot.messages[-1]) == START * 10**9
    finally:
        child.kill()
