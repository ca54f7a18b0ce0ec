"""The guard as a process, with a controller that is killed, paused, or ended in order."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ros_nodes.session import Child, Session
from runtime.safety import Status
from tests.ros_nodes.harness import FakeRobot, errors, start_controller
from tests.tiny_bundle import tiny_contract

pytestmark = pytest.mark.timed

KUKA, CART = tiny_contract("kuka_reach"), tiny_contract("cartpole")


def guard_of(child: Child) -> int:
    """Process of the only child that the controller has."""
    (found,) = (
        int(status.parent.name)
        for status in Path("/proc").glob("[0-9]*/status")
        if f"PPid:\t{child.process.pid}\n" in status.read_text()
    )
    return found


def runs(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("task", ["kuka_reach", "cartpole"])
def test_a_killed_controller_is_replaced_by_the_safe_action(
    session: Session, kuka: Path, cartpole: Path, task: str
) -> None:
    robot = FakeRobot(session, KUKA if task == "kuka_reach" else CART)
    bundle = kuka if task == "kuka_reach" else cartpole
    child = start_controller(session, bundle)
    robot.wait_for(Status.ACTIVE)
    session.spin(0.3)
    guard = guard_of(child)
    assert child.log.count("guard") == 0
    session.children.remove(child)
    try:
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait(5)
        session.spin(0.05)
        before = len(robot.commands)
        last = robot.ticks[-1].command
        session.spin(0.5)
        after = np.array(robot.commands[before + 2 :])
        assert len(after) > 30
        assert (after == (last if task == "kuka_reach" else 0.0)).all()
        assert "the controller is gone and did not tick for" in child.log

        start_controller(session, bundle)
        robot.ticks.clear()
        robot.wait_for(Status.ACTIVE)
        session.wait(lambda: not runs(guard), "the end of the old guard")
    finally:
        child.kill()


def test_a_paused_controller_is_replaced_and_stays_stopped(session: Session, cartpole: Path) -> None:
    robot = FakeRobot(session, CART)
    child = start_controller(session, cartpole)
    robot.wait_for(Status.ACTIVE)
    session.spin(0.3)
    child.process.send_signal(signal.SIGSTOP)
    session.spin(0.4)
    paused = np.array(robot.commands[-10:])
    assert (paused == 0.0).all()
    child.process.send_signal(signal.SIGCONT)
    robot.wait_for(Status.STOPPED)
    session.wait(lambda: "stopped: the guard had to command" in child.log, "the log")
    session.wait(lambda: "the controller ticks again" in child.log, "the guard's rest")
    assert len([line for line in errors(child) if "has not ticked for" in line]) == 1
    count = len(robot.commands)
    session.spin(0.5)
    rate = (len(robot.commands) - count) / 0.5
    assert rate < 130, "only the controller commands"
    assert (np.array(robot.commands[count:]) == 0.0).all()


def test_an_orderly_end_ends_the_guard(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka)
    robot.wait_for(Status.ACTIVE)
    guard = guard_of(child)
    begin = Path(f"/proc/{guard}/stat").read_text().split()
    session.spin(2.0)
    end = Path(f"/proc/{guard}/stat").read_text().split()
    used = sum(int(end[i]) - int(begin[i]) for i in (13, 14)) / os.sysconf("SC_CLK_TCK")
    own = child.process.pid
    assert used < 0.2 * 2.0, f"process {guard} of {own} took {used} s of 2 s"
    session.children.remove(child)
    child.process.send_signal(signal.SIGINT)
    assert child.process.wait(5) == 0
    end_s = time.monotonic() + 5
    while runs(guard) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert not runs(guard)
    assert "Traceback" not in child.log


def test_a_guard_that_would_bite_every_tick_is_refused(session: Session, kuka: Path) -> None:
    child = start_controller(session, kuka, guard_ms=15.0)
    session.wait(lambda: bool(errors(child)), "the refusal")
    assert "guard_ms is 15, expected two periods (20 ms) or more, or 0 for no guard" in errors(child)[0]
    assert session.state("controller") == "unconfigured"


def test_no_guard_where_none_is_wanted(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka, guard_ms=0.0)
    robot.wait_for(Status.ACTIVE)
    with pytest.raises(ValueError, match="not enough values"):
        guard_of(child)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be told from all of them")
def test_the_guard_of_a_pinned_controller_may_use_every_core(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    allowed = os.sched_getaffinity(0)
    child = start_controller(session, kuka, cpus=[max(allowed)])
    robot.wait_for(Status.ACTIVE)
    assert os.sched_getaffinity(child.process.pid) == {max(allowed)}
    threads = [int(t.name) for t in Path(f"/proc/{guard_of(child)}/task").iterdir()]
    assert len(threads) > 1
    assert [os.sched_getaffinity(t) for t in threads] == [allowed] * len(threads)
