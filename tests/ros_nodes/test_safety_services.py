"""Stop and engage as services of the node, over real DDS, and the same ticks in a replay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from std_srvs.srv import SetBool, Trigger

from ros_nodes.session import DEACTIVATE, Session
from runtime.safety import Request, Status
from tests.ros_nodes.harness import FakeRobot, errors, start_controller
from tests.tiny_bundle import tiny_contract

pytestmark = pytest.mark.timed

KUKA = tiny_contract("kuka_reach")


def test_stop_lasts_until_engage(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka, engage_s=0.2)
    robot.wait_for(Status.ACTIVE)
    engaging = [t.tick for t in robot.ticks if t.status == Status.ENGAGING]
    assert len(engaging) == 20

    answer = session.call(Trigger, "/controller/stop", Trigger.Request())
    assert (answer.success, answer.message) == (True, "stop with the next tick")
    robot.wait_for(Status.STOPPED)
    robot.diagnostics.clear()
    session.wait(lambda: len(robot.diagnostics) >= 2, "diagnostics")
    status = robot.diagnostics[-1].status[0]
    assert (status.level, status.message) == (DiagnosticStatus.ERROR, "stopped by the service ~/stop")
    stopped = [t for t in robot.ticks if t.status == Status.STOPPED]
    assert stopped[0].request == Request.STOP
    before = next(t for t in robot.ticks if t.tick == stopped[0].tick - 1)
    assert all(np.array_equal(t.command, before.command) for t in stopped)
    assert np.array_equal(robot.commands[-1], before.command), "the safe action is still sent"
    assert child.log.count("stopped: stopped by the service ~/stop") == 1

    answer = session.call(SetBool, "/controller/engage", SetBool.Request(data=True))
    assert (answer.success, answer.message) == (True, "engage with the next tick")
    robot.wait_for(Status.ACTIVE)
    assert sum(t.status == Status.ENGAGING for t in robot.ticks) == 40
    session.call(SetBool, "/controller/engage", SetBool.Request(data=False))
    robot.wait_for(Status.STOPPED)
    session.wait(lambda: "stopped: disengaged by the service ~/engage" in child.log, "the log")
    assert errors(child) == []

    assert session.change_state("controller", DEACTIVATE)
    answer = session.call(Trigger, "/controller/stop", Trigger.Request())
    assert not answer.success
    assert "not active" in answer.message


def test_settings_that_make_no_sense_are_one_error_line(session: Session, kuka: Path) -> None:
    child = start_controller(session, kuka, engage_s=-2.0, most_late_ticks=-1)
    session.wait(lambda: bool(errors(child)), "the refusal")
    (line,) = errors(child)
    assert "engage_s is -2, expected 0 (at once) or more seconds" in line
    assert session.state("controller") == "unconfigured"


def test_late_ticks_in_a_row_stop_the_controller(session: Session, kuka: Path) -> None:
    """At a million ticks per second every one is late. That many records are not all received.

    Without real-time priority, at which a process that never rests would keep the others from running.
    """
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka, rate_hz=1e6, most_late_ticks=7, realtime_priority=0)
    robot.wait_for(Status.STOPPED)
    assert all(t.late for t in robot.ticks)
    session.wait(lambda: "stopped: 7 ticks in a row were late" in child.log, "the log")
    assert session.state("controller") == "active"
    assert session.change_state("controller", DEACTIVATE), "although there is never time for services"
