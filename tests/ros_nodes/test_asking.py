"""`ganglion status`, `stop` and `engage` against a controller in another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ros_nodes import asking
from ros_nodes.domains import own_domain
from ros_nodes.session import Session
from runtime.bundle import Bundle
from runtime.errors import GanglionError
from runtime.safety import Status
from tests.ros_nodes.harness import FakeRobot, run_command, start_controller


@pytest.mark.timed
def test_a_controller_below_a_namespace_is_asked_stopped_and_engaged(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, Bundle.load(kuka).contract, "/left/")
    start_controller(session, kuka, "/left", guard_ms=2000.0)
    robot.wait_for(Status.ACTIVE)
    below = ("--ros-args", "-r", "__ns:=/left")
    code, out = run_command(session, "status", *below)
    assert code == 0
    assert "/left/controller: active" in out
    assert "latency p99 [us]" in out
    assert run_command(session, "stop", *below)[0] == 0
    robot.wait_for(Status.STOPPED)
    code, out = run_command(session, "status", *below)
    assert code == 1
    assert "stopped by the service ~/stop" in out
    assert run_command(session, "engage", *below)[0] == 0
    robot.wait_for(Status.ACTIVE)


def test_where_no_controller_is_the_error_says_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_PATIENCE_S", 0.2)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with own_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        with pytest.raises(GanglionError, match=r"in vain for the service /left/controller/stop; .* ROS domain"):
            asking.stop(("--ros-args", "-r", "__ns:=/left"))
