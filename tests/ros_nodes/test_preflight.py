"""The preflight against robots made of publishers and against the simulator, as processes over real DDS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from ros_nodes.polling import PolledSubscription
from ros_nodes.session import ACTIVATE, CONFIGURE, Child, Session
from runtime.errors import GanglionError
from runtime.safety import Status
from tests.ros_nodes.harness import FakeRobot, errors, run_command, start_controller
from tests.tiny_bundle import tiny_contract, write_tiny_bundle

pytestmark = pytest.mark.timed

KUKA = tiny_contract("kuka_reach")
JOINTS = KUKA.action.joints
_FORWARD = "tests.ros_nodes.forward_controller"


def preflight(session: Session, bundle: Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code, and the findings but for warnings of constant readings, and of rates on a busy machine."""
    target = bundle.with_suffix(".json")
    code, out = run_command(session, "preflight", bundle, "--json", target, *options)
    result = json.loads(target.read_text())
    assert result["fits"] == (code == 0)
    assert f"the robot {'fits' if code == 0 else 'does not fit'}" in out
    usual = ("exactly the same", "a gap of", " Hz")
    return code, [f for f in result["findings"] if f["level"] == "error" or not any(u in f["got"] for u in usual)]


def rename(message: object) -> None:
    if isinstance(message, JointState):
        message.name = [n.replace("joint_4", "elbow") for n in message.name]


def test_a_robot_that_fits_in_its_namespace(session: Session, kuka: Path) -> None:
    FakeRobot(session, KUKA, "left/")
    session.start(_FORWARD, {"joints": list(JOINTS), "interface_name": "position"}, {"__ns": "/left"})
    assert preflight(session, kuka, "--ros-args", "-r", "__ns:=/left") == (0, [])


def test_all_that_does_not_fit_is_listed(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    robot.silent = {"target"}

    def spoil(message: object) -> None:
        rename(message)
        if isinstance(message, JointState):
            message.position = [float(np.degrees(p)) + 200.0 for p in message.position]
            message.velocity = message.velocity[:5]
            message.header.stamp.sec -= 5

    robot.edit = spoil
    other = session.node.create_publisher(Float64MultiArray, "command", 1)
    session.idle.append(lambda: other.publish(Float64MultiArray(data=[0.0] * 7)))
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    session.node.create_subscription(Float64MultiArray, "command", lambda message: None, latched)
    turned = [JOINTS[1], JOINTS[0], *JOINTS[2:]]
    session.start(_FORWARD, {"joints": turned, "interface_name": "velocity"}, {"tool": "end_effector"})

    code, found = preflight(session, kuka, "--move", "--confirm")
    got = {(f["level"], f["where"], f["got"]) for f in found}
    for expected in (
        ("error", "/target", "no message within 1 s"),
        ("error", "/end_effector", "/forward_controller publishes geometry_msgs/msg/Point"),
        ("error", "/joint_states", "7 names, 5 in 'velocity'"),
        ("error", "/command", "/session commands the robot too"),
        ("error", "/command", "the controller offers durability volatile"),
        ("error", "/forward_controller", f"its joints are {', '.join(turned)}, in another order"),
        ("error", "/forward_controller", "it commands the velocity interface"),
        ("error", "motion", "not begun: /session can command the robot too"),
    ):
        assert expected in got
    texts = [f"{where}: {text}" for level, where, text in got if level == "error"]
    for start in (
        "/joint_states: joint_position: no joint lbr_iiwa_joint_4",
        "/joint_states: header: stamps are 5 s old",
    ):
        assert any(text.startswith(start) for text in texts)
    assert any(f["where"].startswith("joint_position.") and f["expected"].endswith(" rad") for f in found)
    assert code == 1


def test_without_a_robot_the_exit_code_is_one_and_wrong_options_are_two(session: Session, kuka: Path) -> None:
    code, found = preflight(session, kuka, "--move")
    assert code == 1
    assert {(f["level"], f["where"], f["got"]) for f in found} == {
        ("error", "/joint_states", "nobody publishes"),
        ("warning", "/end_effector", "nobody publishes"),
        ("error", "/target", "nobody publishes"),
        ("error", "/command", "nobody subscribes"),
        ("error", "motion", "not begun: the checks found errors"),
    }
    code, out = run_command(session, "preflight", kuka, "--seconds", "0")
    assert (code, out.strip()) == (2, "error: seconds is 0, expected 0.2 to 60")


# When the controller is configured.


def test_a_robot_that_contradicts_is_refused_when_configuring(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    robot.edit = rename
    child = start_controller(session, kuka)
    session.wait(lambda: bool(errors(child)), "the refusal")
    session.spin(0.2)
    assert session.state("controller") == "unconfigured"
    (line,) = errors(child)
    assert "the robot does not fit the bundle" in line
    assert "  error: /joint_states: joint_position: no joint lbr_iiwa_joint_4;" in child.log
    assert "Is it lbr_iiwa_elbow for lbr_iiwa_joint_4?" in child.log
    assert robot.commands == []

    robot.edit = lambda message: None
    assert session.change_state("controller", CONFIGURE)
    assert session.change_state("controller", ACTIVATE)
    robot.wait_for(Status.ACTIVE)


def test_a_robot_that_is_not_up_yet_is_forgiven_unless_strict(session: Session, kuka: Path) -> None:
    child = start_controller(session, kuka)
    session.wait(lambda: session.state("controller") == "active", "activation")
    assert "  error: /joint_states: nobody publishes" in child.log
    assert errors(child) == []
    robot = FakeRobot(session, KUKA)
    robot.wait_for(Status.ACTIVE)


def test_strict_and_skip(session: Session, kuka: Path) -> None:
    child = start_controller(session, kuka, preflight="strict")
    session.wait(lambda: bool(errors(child)), "the refusal")
    assert "the robot does not fit the bundle" in errors(child)[0]
    with pytest.raises(GanglionError, match="preflight is 'careful', expected one of skip, lenient, strict"):
        session.set_parameter("controller", "preflight", "careful")
    session.set_parameter("controller", "preflight", "skip")
    assert session.change_state("controller", CONFIGURE)
    assert child.log.count("nobody publishes") == 3


# Small motions.


class Encoders:
    """What the simulator's encoders have shown since the motion began."""

    def __init__(self, session: Session) -> None:
        self.positions: list[np.ndarray] = []
        self._topic = PolledSubscription(session.node, JointState, "joint_states", QoSProfile(depth=1000))
        session.idle.append(self._take)

    def _take(self) -> None:
        self.positions += [np.array(m.position) for m, _ in self._topic.take()]

    @property
    def travel(self) -> np.ndarray:
        """Largest distance from the start (A,)."""
        return np.abs(np.array(self.positions) - self.positions[0]).max(axis=0)


@pytest.mark.parametrize(
    ("faults", "findings"),
    [
        ([], set()),
        (
            [f"flip:{JOINTS[3]}", f"lock:{JOINTS[2]}"],
            {(JOINTS[3], "it moves the wrong way"), (JOINTS[2], "nothing moves when it is commanded")},
        ),
        ([f"swap:{JOINTS[1]}+{JOINTS[5]}"], {(f"{JOINTS[1]} and {JOINTS[5]}", "they are swapped")}),
    ],
)  # fmt: skip
def test_small_motions_find_sign_order_and_what_does_not_move(
    session: Session, kuka: Path, faults: list[str], findings: set[tuple[str, str]]
) -> None:
    # A list of no faults would have no type in ROS.
    session.start("ros_nodes.sim_node", {"task": "kuka_reach"} | ({"faults": faults} if faults else {}))
    encoders = Encoders(session)
    session.wait(lambda: bool(encoders.positions), "the robot")
    code, found = preflight(session, kuka, "--move")
    assert {(f["where"], f["got"]) for f in found} == findings
    assert code == (1 if findings else 0)
    moved = [i for i, joint in enumerate(JOINTS) if f"lock:{joint}" not in faults]
    assert encoders.travel[moved].min() > 0.03
    assert encoders.travel.max() < 0.5
    session.spin(0.5)
    assert encoders.positions[-1] == pytest.approx(encoders.positions[0], abs=0.03)


@pytest.mark.parametrize("fault", [f"bias:joint_position.{JOINTS[1]}=0.3", f"scale:joint_position.{JOINTS[1]}=1.5"])
def test_a_pose_that_is_left_for_no_such_reason_ends_the_motion(session: Session, kuka: Path, fault: str) -> None:
    session.start("ros_nodes.sim_node", {"task": "kuka_reach", "faults": [fault]})
    code, found = preflight(session, kuka, "--move")
    assert code == 1
    assert [f["where"] for f in found] == [JOINTS[1]]
    assert found[0]["got"].startswith("they move when the pose that they report is commanded")


@pytest.mark.parametrize(
    ("task", "fault"), [("husky_goto", "flip:front_left_wheel"), ("cartpole", "flip:slider_to_cart")]
)
def test_velocities_and_efforts(session: Session, tmp_path: Path, task: str, fault: str) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.onnx", task)
    session.start("ros_nodes.sim_node", {"task": task, "faults": [fault]})
    code, found = preflight(session, bundle, "--move")
    assert code == 1
    assert [(f["where"], f["got"]) for f in found] == [(fault[5:], "it moves the wrong way")]


def test_a_robot_that_is_not_simulated_moves_only_when_confirmed(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    code, out = run_command(session, "preflight", kuka, "--move")
    assert code == 2
    assert out.strip().startswith("error: what obeys the commands is not Ganglion's simulator")
    assert "--confirm" in out
    assert robot.commands == []

    code, found = preflight(session, kuka, "--move", "--confirm")
    assert code == 1
    assert [f["where"] for f in found] == list(JOINTS)
    assert {f["got"] for f in found} == {"nothing moves when it is commanded"}
    commands, start = np.array(robot.commands), robot.values[:7]
    steps = np.abs(np.diff(commands, axis=0))
    assert np.abs(commands - start).max() == pytest.approx(0.05)
    assert (steps <= np.array(KUKA.action.max_rate) / KUKA.rate_hz + 1e-9).all()
    assert ((np.abs(commands - start) > 1e-9).sum(axis=1) <= 1).all(), "one joint at a time"
    assert commands[-1] == pytest.approx(start, abs=1e-9)


def test_a_motion_ends_when_the_readings_do(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)

    def die() -> None:
        if len(robot.commands) > 150:
            robot.silent = {"joint_states"}

    session.idle.append(die)
    code, found = preflight(session, kuka, "--move", "--confirm")
    assert code == 1
    assert [f["got"] for f in found] == ["stopped: the readings of the commanded joints do not come any more"]
    late = np.array(robot.commands[-20:])
    assert (late == late[0]).all()


def test_a_motion_ends_when_somebody_else_may_command(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    others: list[Any] = []

    def join() -> None:
        if len(robot.commands) > 150 and not others:
            others.append(session.node.create_publisher(Float64MultiArray, "command", 1))

    session.idle.append(join)
    code, found = preflight(session, kuka, "--move", "--confirm")
    assert code == 1
    assert [f["got"] for f in found] == ["stopped: /session can command the robot too"]
    assert len(robot.commands) < 400


def test_a_joint_that_runs_away_is_not_followed(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    start = robot.values[0]

    def amplify() -> None:
        if robot.commands:
            robot.values[0] = start + 20.0 * (robot.commands[-1][0] - start)

    session.idle.append(amplify)
    code, found = preflight(session, kuka, "--move", "--confirm")
    assert code == 1
    assert [f["got"] for f in found] == [f"stopped: {JOINTS[0]} moves much farther than it is commanded to"]
    assert np.abs(np.array(robot.commands)[:, 0] - start).max() < 0.05


def test_a_motion_that_is_killed_is_ended_by_its_guard(session: Session, tmp_path: Path) -> None:
    contract = tiny_contract("husky_goto")
    robot = FakeRobot(session, contract)
    bundle = write_tiny_bundle(tmp_path / "tiny.onnx", "husky_goto")
    child = Child(
        "ganglion", ["preflight", str(bundle), "--move", "--confirm"], session.environment, tmp_path / "log.txt"
    )
    try:
        session.wait(lambda: bool(robot.commands) and robot.commands[-1].max() > 0.3, "a pulse", 60.0)
        child.process.kill()
        child.process.wait(5)
        session.wait(lambda: not robot.commands[-1].any(), "the guard")
    finally:
        child.kill()
