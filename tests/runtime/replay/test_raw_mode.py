from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.contract import Action, Contract, Observation
from runtime.errors import BagError, ContractError
from runtime.replay.bags import Bag
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from tests.runtime.replay.recording import (
    EPOCH,
    PERIOD,
    TYPES,
    BagWriter,
    array,
    header,
    joint_state,
    named_array,
    trajectory,
    twist,
)
from tests.tiny_bundle import tiny_contract, write_tiny_bundle

TURTLEBOT = Path(__file__).resolve().parents[4] / "shared" / "data" / "turtlebot3_gazebo"
needs_turtlebot = pytest.mark.skipif(not TURTLEBOT.is_dir(), reason=f"the recorded bag {TURTLEBOT} is not here")
WHEELS = ("wheel_left_joint", "wheel_right_joint")
DRIVE = twist(0.1, -0.25)


def group(name: str, kind: str, topic: str, channels: tuple[str, ...], limit: float, min_valid: int) -> Observation:
    n = len(channels)
    return Observation(
        name, kind, topic, channels, "SI", (0.0,) * n, (1.0,) * n, (-limit,) * n, (limit,) * n, 0.2, min_valid
    )


def turtlebot() -> Contract:
    """A base that is steered by forward speed and turning rate, from its wheels and its IMU."""
    return replace(
        tiny_contract("cartpole"),
        robot="turtlebot3",
        observations=(
            group("wheels", "joint_position", "joint_states", WHEELS, 1e4, 2),
            group("turning", "angular_velocity", "imu", ("x", "y", "z"), 20.0, 3),
        ),
        action=Action(
            "velocity", "absolute", "cmd_vel", ("vx", "wz"), "m/s, rad/s", (0.2, 1.0), (0.0, 0.0), (-0.2, -1.0),
            (0.2, 1.0), (1000.0, 1000.0), "zero",
        ),
    )  # fmt: skip


@needs_turtlebot
def test_a_real_bag(tmp_path: Path) -> None:
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "cartpole", 0.0, turtlebot()))
    result = replay(TURTLEBOT, bundle)
    assert result.mode == "raw"
    assert not result.bit_exact
    assert result.ticks == pytest.approx(2150, abs=30)
    assert result.statuses["ACTIVE"] > 1900
    assert result.compared > 500
    # The tiny agent drives ever faster, up to 0.2 m/s and 1 rad/s; what the person drove is not that.
    assert result.rmse is not None
    assert result.max is not None
    assert 0.1 < result.rmse < result.max < 4.0
    assert result.missing == ()
    assert result.realtime_factor > 0


@needs_turtlebot
def test_a_real_bag_of_another_robot(kuka: Bundle, cartpole: Bundle) -> None:
    with pytest.raises(BagError, match=r"has no topic 'target' \[geometry_msgs/msg/PointStamped\], which the bundle"):
        replay(TURTLEBOT, kuka)
    with pytest.raises(BagError, match=r"'joint_states' never holds \['slider_to_cart', 'cart_to_pole'\]"):
        replay(TURTLEBOT, cartpole)


def resting_imu() -> Any:
    still = TYPES.types["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=0.0)
    upright = TYPES.types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    unknown = np.zeros(9)
    return TYPES.types["sensor_msgs/msg/Imu"](header(), upright, unknown, still, unknown, still, unknown)


def drive(path: Path, seconds: float, commands: bool = True, namespace: str = "", command: Any = DRIVE) -> Path:
    """Wheels and IMU at 50 Hz at rest; from 0.5 s on a recorded command of 0.1 m/s and -0.25 rad/s."""
    with BagWriter(path) as bag:
        for i in range(int(seconds * 50)):
            now = EPOCH + i * 2 * PERIOD
            bag.write(f"{namespace}/joint_states", joint_state(dict.fromkeys((*WHEELS, "lid"), 0.0)), now)
            bag.write(f"{namespace}/imu", resting_imu(), now)
            if commands and i >= 25:
                bag.write(f"{namespace}/cmd_vel", command, now)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Bundle:
    return Bundle.load(write_tiny_bundle(tmp_path / "base.onnx", "cartpole", 0.0, turtlebot()))


@pytest.mark.parametrize("namespace", ["", "/robot1"])
def test_error_by_hand(namespace: str, base: Bundle, tmp_path: Path) -> None:
    result = replay(drive(tmp_path / "bag", 1.0, namespace=namespace), base)
    # Messages at 0, 20, ... 980 ms; ticks every 10 ms after the first: 10 to 970 ms.
    assert result.ticks == 97
    assert result.statuses == {"ACTIVE": 97}
    # A tick at the very time of a message sees it, so at 500 ms the answer of 490 ms is the first to be compared.
    assert result.compared == 48
    answer = np.tanh(0.1 * np.arange(48, 96, dtype=np.float32)).astype(np.float64)
    errors = np.stack([0.2 * answer - 0.1, answer + 0.25])
    assert result.max == pytest.approx(np.abs(errors).max(), rel=1e-5)
    assert result.rmse == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
    assert result.per_joint["vx"]["rmse"] == pytest.approx(np.sqrt((errors[0] ** 2).mean()), rel=1e-5)


@pytest.mark.parametrize(
    "command",
    [
        named_array([-0.25, 0.1], "wz,vx"),
        joint_state({"wz": 0.0, "vx": 0.0}, {"wz": -0.25, "vx": 0.1}),
        trajectory(["wz", "vx"], velocities=[-0.25, 0.1]),
    ],
    ids=lambda message: message.__msgtype__.rpartition("/")[2],
)
def test_commands_of_every_type_are_compared_by_name(command: Any, base: Bundle, tmp_path: Path) -> None:
    of_twist = replay(drive(tmp_path / "twist", 1.0), base)
    result = replay(drive(tmp_path / "bag", 1.0, command=command), base)
    assert result.compared == of_twist.compared == 48
    assert result.per_joint == of_twist.per_joint


def test_faults_strike_the_recorded_sensors(base: Bundle, tmp_path: Path) -> None:
    """Ticks are 10 ms apart, the messages 20 ms; the gyro is required, reads at most 20 rad/s, and a gap of 0.2 s in it
    is bridged: lost after the tick at 300 ms, it is missed from 510 to 900 ms."""
    bag = drive(tmp_path / "bag", 1.0)
    assert replay(bag, base, ReplayOptions(faults=("lost:turning@0.3-0.9",))).statuses == {"ACTIVE": 57, "HOLDING": 40}
    once = "bias:turning.x=15"
    assert replay(bag, base, ReplayOptions(faults=(once,))).statuses == {"ACTIVE": 97}, (
        "a bias is added to each reading once"
    )
    assert replay(bag, base, ReplayOptions(faults=(once, once))).statuses == {"HOLDING": 97}
    with pytest.raises(ContractError, match="fault 'payload=3' is not understood"):
        replay(bag, base, ReplayOptions(faults=("payload=3",)))


def test_without_recorded_commands(base: Bundle, tmp_path: Path) -> None:
    result = replay(drive(tmp_path / "bag", 1.0, commands=False), base)
    assert result.ticks == 97
    assert (result.rmse, result.max, result.compared) == (None, None, 0)
    assert result.to_json()["action_error"] == {"rmse": None, "max": None}


def test_a_topic_that_stops_goes_stale(base: Bundle, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        with Bag(drive(tmp_path / "first", 0.5)) as first:
            for record in first.records(set(first.topics)):
                bag.write(record.topic, record.message, record.receive_ns)
        for i in range(50):
            bag.write("/joint_states", joint_state(dict.fromkeys(WHEELS, 0.0)), EPOCH + 500_000_000 + i * 2 * PERIOD)
    result = replay(tmp_path / "bag", base)
    # The last IMU message is from 480 ms and is believed for 200 ms: up to the tick at 680 ms of 1470.
    assert result.statuses == {"ACTIVE": 68, "HOLDING": 79}


def test_a_pause_of_the_recorder_is_skipped(base: Bundle, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for start in (EPOCH, EPOCH + 3600 * 10**9):
            for i in range(10):
                bag.write("/joint_states", joint_state(dict.fromkeys(WHEELS, 0.0)), start + i * PERIOD)
                bag.write("/imu", resting_imu(), start + i * PERIOD)
    assert replay(tmp_path / "bag", base).ticks == 16


def test_optional_sensors_may_be_absent(tmp_path: Path) -> None:
    contract = turtlebot()
    wheels, turning = contract.observations
    optional = replace(contract, observations=(wheels, replace(turning, topic="gyroscope", min_valid=0)))
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "cartpole", 0.0, optional))
    result = replay(drive(tmp_path / "bag", 0.5), bundle)
    assert result.missing == ("turning",)
    assert set(result.statuses) == {"ACTIVE"}


def test_a_renamed_joint(base: Bundle, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for i in range(10):
            bag.write("/joint_states", joint_state({WHEELS[0]: 0.0, "right_wheel": 0.0}), EPOCH + i * PERIOD)
            bag.write("/imu", resting_imu(), EPOCH + i * PERIOD)
    with pytest.raises(BagError, match=r"never holds \['wheel_right_joint'\] of 'wheels'; the agent needs 2 of 2"):
        replay(tmp_path / "bag", base)


def test_a_sensor_topic_of_another_type(base: Bundle, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/joint_states", array([1.0]), EPOCH)
    with pytest.raises(BagError, match="'joint_states' must be sensor_msgs/msg/JointState, the bag has"):
        replay(tmp_path / "bag", base)
