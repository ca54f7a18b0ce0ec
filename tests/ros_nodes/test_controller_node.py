"""The controller node as a process over real DDS, against a robot made of publishers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import JointState

from ros_nodes.reporting import STAGES
from ros_nodes.session import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, Session
from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import GanglionError
from runtime.safety import Status
from runtime.sample import Sample
from runtime.sensing import Reason
from runtime.signature import make_keys, sign
from runtime.telemetry import unpack_state
from tests.ros_nodes.harness import PERIOD_NS, FakeRobot, errors, start_controller
from tests.tiny_bundle import tiny_contract

pytestmark = pytest.mark.timed

KUKA = tiny_contract("kuka_reach")


def test_commands_flow_at_the_rate_and_are_what_the_controller_computes(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka)
    robot.wait_for(Status.ACTIVE)
    session.wait(lambda: len(robot.ticks) > 150, "ticks")
    assert os.sched_getscheduler(child.process.pid) == os.SCHED_FIFO or "real-time priority 40 is refused" in child.log

    ticks = robot.ticks
    periods = np.diff([t.now_ns for t in ticks])
    assert np.median(periods) == pytest.approx(PERIOD_NS, rel=0.05)
    assert [t.tick for t in ticks] == list(range(len(ticks)))
    controller, sample = Controller(Bundle.load(kuka)), Sample(KUKA)
    for tick in ticks:
        sample.values[:], sample.stamp_ns[:] = tick.values, tick.stamp_ns
        assert np.array_equal(controller.tick(sample, tick.now_ns).values, tick.command)
    sent = [t.command for t in ticks if t.status != Status.WAITING]
    assert len(robot.commands) == pytest.approx(len(sent), abs=1)
    assert all(np.array_equal(a, b) for a, b in zip(robot.commands, sent))
    latencies = [t.latency_us for t in ticks if t.status == Status.ACTIVE]
    assert 0 < np.median(latencies) < 15_000

    states = [unpack_state(controller.state(), s) for s in robot.states]
    assert [(activation, tick) for activation, tick, _ in states][:2] == [(1, 0), (1, 100)]
    assert states[0][2]["controller.started"] == 0
    assert np.array_equal(states[1][2]["controller.command"], ticks[99].command)


def test_joints_are_matched_by_name_in_a_namespace(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA, "left/")
    pose = KUKA.layout.mean[:7] + np.linspace(-0.3, 0.3, 7)
    robot.values[:7], robot.values[7:14] = pose, np.linspace(-1, 1, 7)

    def shuffle(message: object) -> None:
        if isinstance(message, JointState):
            order = [3, 0, 6, 1, 5, 2, 4]
            message.name = ["gripper_left", *(message.name[i] for i in order), "gripper_right"]
            message.position = [99.0, *(message.position[i] for i in order), 99.0]
            message.velocity = [99.0, *(message.velocity[i] for i in order), 99.0]

    robot.edit = shuffle
    start_controller(session, kuka, "/left")
    robot.wait_for(Status.ACTIVE)
    assert np.array_equal(robot.ticks[-1].values, robot.values)
    first = robot.commands[0]
    assert np.all(np.abs(first - pose) <= np.array(KUKA.action.max_rate) / KUKA.rate_hz + 1e-12)


def test_a_robot_with_a_renamed_joint_is_refused(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)

    def rename(message: object) -> None:
        if isinstance(message, JointState):
            message.name = [n.replace("joint_4", "elbow") for n in message.name]

    robot.edit = rename
    child = start_controller(session, kuka, preflight="skip")  # as a robot that comes after it was configured
    session.wait(lambda: bool(errors(child)), "the refusal")
    session.spin(0.5)
    (line,) = errors(child)
    assert "it has no joint lbr_iiwa_joint_4;" in line
    assert "does not know lbr_iiwa_elbow." in line
    assert "Rename the joints" in line
    assert session.state("controller") == "inactive"
    assert robot.commands == []
    assert robot.ticks == []

    robot.edit = lambda message: None  # the right robot may follow without a restart
    for transition in (CLEANUP, CONFIGURE, ACTIVATE):
        assert session.change_state("controller", transition)
    robot.wait_for(Status.ACTIVE)
    session.wait(lambda: len(robot.commands) > 20, "commands")


def test_non_finite_and_short_messages_are_masked(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka)
    robot.wait_for(Status.ACTIVE)
    robot.values[2] = np.nan

    def shorten(message: object) -> None:
        if isinstance(message, JointState):
            message.velocity = message.velocity[:5]

    robot.edit = shorten
    session.spin(0.5)
    seen, robot.diagnostics = len(robot.diagnostics), []
    session.wait(lambda: len(robot.diagnostics) >= 2, f"diagnostics after the first {seen}")
    last = robot.ticks[-1]
    assert last.status == Status.ACTIVE
    assert last.reasons[2] == Reason.NON_FINITE
    assert list(np.flatnonzero(last.reasons)) == [2, 12, 13]
    assert list(last.reasons[12:14]) == [Reason.STALE] * 2
    assert np.isfinite(robot.commands).all()
    assert child.log.count("non-finite: joint_position.lbr_iiwa_joint_3") == 1
    values = {v.key: v.value for v in robot.diagnostics[-1].status[0].values}
    assert values["status"] == "active"
    assert "non-finite: joint_position.lbr_iiwa_joint_3" in values["masked channels"]
    assert int(values["ticks"]) > 50
    for stage in STAGES:
        p50, p99, p99_9, largest = (float(values[f"{stage} {q} [us]"]) for q in ("p50", "p99", "p99.9", "max"))
        assert 0 < p50 <= p99 <= p99_9 <= largest
    assert float(values["latency p50 [us]"]) > float(values["tick p50 [us]"])

    robot.values[2] = 0.0
    session.wait(lambda: "believed again: joint_position.lbr_iiwa_joint_3" in child.log, "the channel's return")


def test_a_lost_target_holds_within_two_ticks_and_resumes(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka)
    robot.wait_for(Status.ACTIVE)
    robot.silent = {"target"}
    robot.wait_for(Status.HOLDING)
    session.spin(0.3)
    index = next(i for i, t in enumerate(robot.ticks) if t.status == Status.HOLDING)
    before, holding = robot.ticks[index - 1], robot.ticks[index]
    age = holding.now_ns - holding.stamp_ns[-1]
    overrun = max(0, holding.now_ns - before.now_ns - PERIOD_NS)  # of a busy machine
    assert 0.25e9 < age <= 0.25e9 + 2 * PERIOD_NS + overrun
    assert all(np.array_equal(t.command, before.command) for t in robot.ticks[index:])
    assert child.log.count("holding: lost target") == 1
    robot.silent = set()
    robot.wait_for(Status.ACTIVE)
    session.wait(lambda: child.log.count("active: the agent acts") == 2, "the log of its return")


def test_a_robot_that_falls_silent_is_held(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka)
    robot.wait_for(Status.ACTIVE)
    robot.silent = {"joint_states", "end_effector", "target"}
    session.wait(lambda: bool(robot.ticks[-1].reasons.all()), "all channels stale")
    start = len(robot.commands)
    session.spin(0.5)
    held = np.array(robot.commands[start:])
    assert len(held) > 30
    assert (held == held[0]).all()
    assert np.isnan(robot.ticks[-1].latency_us)
    assert session.state("controller") == "active"
    stale = [line for line in child.log.splitlines() if "masked, stale: " in line]
    for name in ("joint_position", "joint_velocity", "end_effector"):  # in one tick or in two
        assert any(name in line for line in stale)


def test_nothing_is_commanded_without_a_pose(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    robot.values[0] = np.nan
    start_controller(session, kuka)
    robot.wait_for(Status.WAITING)
    session.spin(0.3)
    assert robot.commands == []
    robot.values[0] = 0.1
    robot.wait_for(Status.ACTIVE)
    session.wait(lambda: bool(robot.commands), "a command")
    assert robot.commands[0][0] == pytest.approx(0.1, abs=0.02)


def test_deactivation_and_interrupt_command_the_safe_action(session: Session, cartpole: Path) -> None:
    robot = FakeRobot(session, tiny_contract("cartpole"))
    child = start_controller(session, cartpole)
    robot.wait_for(Status.ACTIVE)
    session.spin(0.2)
    assert session.change_state("controller", DEACTIVATE)
    session.spin(0.3)
    assert robot.commands[-2] != 0
    assert robot.commands[-1] == 0
    count = len(robot.commands)
    session.spin(0.2)
    assert len(robot.commands) == count

    assert session.change_state("controller", ACTIVATE)
    session.wait(lambda: robot.ticks[-1].activation == 2 and robot.ticks[-1].tick > 5, "the second activation")
    assert next(t.tick for t in robot.ticks if t.activation == 2) == 0
    assert [list(s[:2]) for s in robot.states] == [[1, 0], [2, 0]]
    assert np.array_equal(robot.states[0][2:], robot.states[1][2:])  # nothing is carried over
    session.children.remove(child)
    child.process.send_signal(signal.SIGINT)
    assert child.process.wait(5) == 0
    session.spin(0.2)
    assert robot.commands[-2] != 0
    assert robot.commands[-1] == 0
    assert "Traceback" not in child.log


def test_a_failing_tick_commands_the_safe_action_and_deactivates(session: Session, cartpole: Path) -> None:
    robot = FakeRobot(session, tiny_contract("cartpole"))
    child = session.start("tests.ros_nodes.failing_controller", {"bundle": str(cartpole)})
    assert session.change_state("controller", CONFIGURE)
    session.wait(robot.listens, "the robot to find the controller's topics")
    assert session.change_state("controller", ACTIVATE)
    session.wait(lambda: bool(errors(child)), "the failure")
    session.spin(0.2)
    (line,) = errors(child)
    assert "ZeroDivisionError: at tick 30" in line
    assert len(robot.ticks) == 30
    assert len(robot.commands) == 31
    assert robot.commands[-2] != 0
    assert robot.commands[-1] == 0
    assert session.state("controller") == "inactive"


@pytest.mark.parametrize(("content", "complaint"), [(b"not a bundle", "is not a bundle"), (None, "cut short")])
def test_a_bad_bundle_is_one_error_line(session: Session, kuka: Path, content: bytes | None, complaint: str) -> None:
    bad = kuka.with_name("bad.onnx")
    bad.write_bytes(kuka.read_bytes()[:-100] if content is None else content)
    child = start_controller(session, bad)
    assert session.state("controller") == "unconfigured"
    (line,) = errors(child)
    assert complaint in line
    assert str(bad) in line
    assert "Traceback" not in child.log
    session.set_parameter("controller", "bundle", str(kuka))
    assert session.change_state("controller", CONFIGURE)


def test_a_robot_that_trusts_a_key_refuses_what_it_did_not_sign(session: Session, kuka: Path) -> None:
    key = kuka.with_name("fleet")
    public = make_keys(key)
    child = start_controller(session, kuka, trusted_keys=[str(public)])
    assert session.state("controller") == "unconfigured"
    (line,) = errors(child)
    assert "is not signed" in line
    for fewer in (["other.pub"], []):  # or whoever reaches the node could run what he likes
        with pytest.raises(GanglionError, match=r"trusted_keys.*read-only"):
            session.set_parameter("controller", "trusted_keys", fewer)
    kuka.write_bytes(sign(kuka.read_bytes(), key))
    assert session.change_state("controller", CONFIGURE)


def test_refine_is_checked_and_changes_at_once(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    child = start_controller(session, kuka, refine=99)
    assert session.state("controller") == "unconfigured"
    (line,) = errors(child)
    assert "refine is 99, expected 0 to 8" in line
    session.set_parameter("controller", "refine", -1)
    assert session.change_state("controller", CONFIGURE)
    assert session.change_state("controller", ACTIVATE)
    robot.wait_for(Status.ACTIVE)
    assert robot.ticks[-1].refine == 2
    for value, expected in ((9, "0 to 8"), (-2, "-1")):
        with pytest.raises(GanglionError, match=f"refine is {value}, expected {expected}"):
            session.set_parameter("controller", "refine", value)
    with pytest.raises(GanglionError, match="rate_hz is -1, expected 0"):
        session.set_parameter("controller", "rate_hz", -1.0)
    session.set_parameter("controller", "refine", 7)
    session.spin(0.1)
    assert robot.ticks[-1].refine == 7
    assert robot.ticks[-1].free_energy == 8


def test_refinement_keeps_to_its_budget(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    start_controller(session, kuka, refine=8, budget_ms=0.0)
    robot.wait_for(Status.ACTIVE)
    session.spin(0.2)
    assert {t.refine for t in robot.ticks} == {8}, "without a budget all steps are made, however late the tick"
    session.set_parameter("controller", "budget_ms", 0.001)
    session.set_parameter("controller", "tolerance", 0.5)
    session.spin(0.2)
    assert (robot.ticks[-1].refine, robot.ticks[-1].steps) == (0, 0), "the amortized answer needs no time for steps"
    assert robot.ticks[-1].tolerance == 0.5
    assert robot.ticks[-1].status == Status.ACTIVE
    with pytest.raises(GanglionError, match="budget_ms is -2, expected more than 0"):
        session.set_parameter("controller", "budget_ms", -2.0)
    with pytest.raises(GanglionError, match="tolerance is -1, expected 0"):
        session.set_parameter("controller", "tolerance", -1.0)


def test_cores_are_given_as_a_list(session: Session, kuka: Path) -> None:
    child = start_controller(session, kuka, cpus=[min(os.sched_getaffinity(0))])
    session.wait(lambda: session.state("controller") == "active", "activation")
    tasks = [int(t.name) for t in Path(f"/proc/{child.process.pid}/task").iterdir()]
    assert {tuple(os.sched_getaffinity(t)) for t in tasks} == {(min(os.sched_getaffinity(0)),)}


def test_cores_that_are_no_list_are_one_error_line(session: Session, kuka: Path) -> None:
    child = start_controller(session, kuka, cpus=2)
    assert child.process.wait(20) == 2
    assert "cpus is 2, expected a list of cores, e.g. [2, 3]" in child.log
    assert "Traceback" not in child.log
    session.children.remove(child)
