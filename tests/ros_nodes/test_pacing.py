"""When the controller ticks: as soon as the period's readings are in, in step with the robot, and stoppable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from std_srvs.srv import Trigger

from ros_nodes.session import Session
from runtime.safety import Status
from runtime.telemetry import Tick
from tests.ros_nodes.harness import PERIOD_NS, FakeRobot, start_controller
from tests.tiny_bundle import tiny_contract

pytestmark = pytest.mark.timed

KUKA = tiny_contract("kuka_reach")
DEADLINE_NS = PERIOD_NS // 5
"""After the time at which the readings are expected."""


def listen(session: Session) -> FakeRobot:
    """What the controller says; the robot is another process."""
    listener = FakeRobot(session, KUKA)
    listener.silent = {o.topic for o in KUKA.observations}
    return listener


def ticks_beside(robot: dict[str, Any], session: Session, kuka: Path) -> tuple[list[Tick], np.ndarray, np.ndarray]:
    """Ticks of 4 s, and of each the time of its newest reading and how long that had waited, both (T,) ns."""
    listener = listen(session)
    session.start("tests.ros_nodes.steady_robot", robot)
    start_controller(session, kuka)
    listener.wait_for(Status.ACTIVE)
    session.spin(1.0)
    listener.ticks.clear()
    session.spin(4.0)  # in which clocks that are 0.6 % apart part by two periods
    newest = np.array([t.stamp_ns.max() for t in listener.ticks])
    return listener.ticks, newest, np.array([t.now_ns for t in listener.ticks]) - newest


@pytest.mark.parametrize("rate_hz", [99.4, 100.0, 100.6])
def test_a_tick_follows_its_readings_whatever_the_robot_s_clock(session: Session, kuka: Path, rate_hz: float) -> None:
    ticks, newest, wait = ticks_beside({"rate_hz": rate_hz}, session, kuka)
    assert np.median(wait) < DEADLINE_NS
    assert np.median(np.diff(newest)) == pytest.approx(1e9 / rate_hz, rel=0.01)
    assert (np.diff(newest) == 0).mean() < 0.05, "ticks without a new reading"
    assert np.mean([np.ptp(t.stamp_ns) < PERIOD_NS / 2 for t in ticks]) > 0.9, "readings of one period"


def test_a_robot_that_stalls_often_is_followed_all_the_same(session: Session, kuka: Path) -> None:
    """Every fourth of its periods is later than a tick waits for it; those between are not."""
    _, newest, wait = ticks_beside({"rate_hz": 99.4, "stall_every": 4}, session, kuka)
    assert np.median(wait) < DEADLINE_NS
    assert (np.diff(newest) == 0).mean() == pytest.approx(0.25, abs=0.1), "ticks that could wait no longer"


def test_a_robot_that_sends_several_messages_a_period_does_not_hurry_the_controller(
    session: Session, kuka: Path
) -> None:
    robots = [FakeRobot(session, KUKA) for _ in range(3)]  # three publishers, out of step
    start_controller(session, kuka)
    robots[0].wait_for(Status.ACTIVE)
    robots[0].ticks.clear()
    session.spin(2.0)
    assert np.median(np.diff([t.now_ns for t in robots[0].ticks])) == pytest.approx(PERIOD_NS, rel=0.02)


def test_a_controller_without_time_to_spare_can_be_stopped(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    start_controller(session, kuka, rate_hz=2000.0, most_late_ticks=0)
    robot.wait_for(Status.ACTIVE)
    assert session.call(Trigger, "/controller/stop", Trigger.Request()).success
    robot.wait_for(Status.STOPPED)
