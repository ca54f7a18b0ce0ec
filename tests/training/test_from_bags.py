"""Learning from a bag that is written here: a cart whose wheels follow the commands, slowly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ganglion
from export.exporter import export
from runtime.bundle import Bundle
from runtime.errors import BagError, GanglionError
from runtime.replay.files import find_bags
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.sample import NEVER
from training.bag_config import BagConfig, LearnOptions
from training.checkpoint import load_agent, load_config
from training.cloning import CloneStatus, clone, cloning_loss, resume_cloning
from training.from_bags import intervals_s, load_ticks, read_bags, readings
from training.recorded import TICKS, Tensors, predict
from training.robot import completed, drafted, load_robot

ROBOT = """
robot: cart
rate_hz: 20
observations:
  wheel: {kind: joint_velocity, topic: joint_states, joints: [left, right], max_age_s: 0.12}
  turn: {kind: angular_velocity, topic: imu}
action: {kind: velocity, topic: cmd_vel, joints: [vx, wz], message: geometry_msgs/msg/Twist}
"""
SECONDS, PERIOD_NS = 30.0, 50_000_000


TOPICS = {
    "/joint_states": "sensor_msgs/msg/JointState",
    "/imu": "sensor_msgs/msg/Imu",
    "/cmd_vel": "geometry_msgs/msg/Twist",
}


def write_bag(folder: Path) -> None:
    """At 20 Hz: the gyro at a tick, the command 1 ms later, and the wheels 10 ms before the next tick."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_JAZZY)
    t: dict[str, Any] = types.types
    vector, empty, nine = t["geometry_msgs/msg/Vector3"], np.zeros(0), np.zeros(9)
    header = t["std_msgs/msg/Header"](stamp=t["builtin_interfaces/msg/Time"](sec=0, nanosec=0), frame_id="")
    level = t["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    rng, velocity, command = np.random.default_rng(0), np.zeros(2), np.zeros(2)
    with Writer(folder, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {name: writer.add_connection(name, kind, typestore=types) for name, kind in TOPICS.items()}

        def write(name: str, when_ns: int, *fields: Any) -> None:
            message = t[TOPICS[name]](*fields)
            writer.write(connections[name], when_ns, types.serialize_cdr(message, TOPICS[name]))

        for i in range(round(SECONDS * 20)):
            now_ns = 1_000_000_000 + i * PERIOD_NS
            if i % 20 == 0:
                command = rng.choice([-1.0, 0.0, 1.0], 2)
            turn = vector(0.0, 0.0, 0.5 * (velocity[1] - velocity[0]))
            write("/imu", now_ns, header, level, nine, turn, nine, vector(0.0, 0.0, 9.81), nine)
            write("/cmd_vel", now_ns + 1_000_000, vector(command[0], 0.0, 0.0), vector(0.0, 0.0, command[1]))
            velocity = velocity + 0.3 * (command[0] + np.array([-1, 1]) * command[1] - velocity)
            left, right = velocity + 0.01 * rng.standard_normal(2)
            speeds = np.array([right, left, 0.0])
            write("/joint_states", now_ns + 40_000_000, header, ["right", "left", "arm"], empty, speeds, empty)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    write_bag(folder / "one")
    (folder / "robot.yaml").write_text(ROBOT)
    return folder


SMALL = LearnOptions(steps=12, batch=8, sequence=12, lags=1, report_every=6)


@pytest.fixture(scope="module")
def run(place: Path) -> tuple[Path, list[CloneStatus]]:
    statuses: list[CloneStatus] = []
    clone(place / "one", place / "robot.yaml", SMALL, place / "run", statuses.append)
    return place / "run", statuses


def test_ticks_are_what_a_controller_would_have_seen(place: Path) -> None:
    spec = load_robot(place / "robot.yaml")
    ticks = read_bags(find_bags(place), drafted(spec), spec.action.message)
    # The first message is the gyro's at 1 s, so the ticks are 50 ms apart from 1.05 s on.
    assert ticks.now_ns[0] == 1_050_000_000
    assert set(np.diff(ticks.now_ns)) == {PERIOD_NS}
    np.testing.assert_array_equal(ticks.now_ns - ticks.stamp_ns[:, 0], 10_000_000)
    np.testing.assert_array_equal(ticks.now_ns - ticks.stamp_ns[:, 2], 0)
    assert ticks.fresh.all()
    assert list(np.flatnonzero(ticks.first)) == [0]
    assert abs(len(ticks) - SECONDS * 20) <= 1
    np.testing.assert_allclose(intervals_s(ticks), 0.05)
    earlier, later = ticks.split(0.4)
    assert (len(earlier), len(later)) == (round(0.6 * len(ticks)), len(ticks) - round(0.6 * len(ticks)))
    assert later.first[0]
    assert earlier.now_ns[-1] < later.now_ns[0]


def test_what_the_file_leaves_out_is_found_in_the_recording(place: Path) -> None:
    spec = load_robot(place / "robot.yaml")
    ticks = read_bags(find_bags(place), drafted(spec))
    robot = completed(spec, readings(ticks), intervals_s(ticks), ticks.command)
    wheel, turn = robot.observations
    np.testing.assert_allclose(wheel.mean, ticks.values[:, :2].mean(0), rtol=1e-4)
    np.testing.assert_allclose(wheel.scale, ticks.values[:, :2].std(0), rtol=1e-4)
    assert (wheel.max_age_s, turn.max_age_s) == (0.12, 0.15)
    assert turn.scale[0] == 1e-6, "a reading that never changed"
    assert (robot.action.low, robot.action.high, robot.action.safe) == ((-1.0, -1.0), (1.0, 1.0), "zero")
    assert (robot.action.scale, robot.action.offset, robot.action.max_rate) == ((1.0, 1.0), (0.0, 0.0), (40.0, 40.0))
    gap = np.where(ticks.fresh, np.nan, ticks.values)
    with pytest.raises(GanglionError, match=r"never holds wheel\.left"):
        completed(spec, gap, intervals_s(ticks), ticks.command)
    with pytest.raises(GanglionError, match="commands of vx, wz never change"):
        completed(spec, readings(ticks), intervals_s(ticks), np.zeros_like(ticks.command))


def test_a_run_learns_what_the_recording_shows(run: tuple[Path, list[CloneStatus]]) -> None:
    """The wheels follow the command by 0.3 a tick, so holding the last reading is far worse than knowing that."""
    folder, statuses = run
    assert [s.steps for s in statuses] == [6, 12]
    assert statuses[-1].prediction < 0.4
    config = load_config(folder)
    agent, _, steps = load_agent(folder)
    assert steps == 12
    assert config.task == "bags:cart"
    assert isinstance(config, BagConfig)
    later = Tensors.of(load_ticks(folder / TICKS).split(0.4)[1], config)
    forecast = predict(agent, later)
    assert forecast.action.shape == later.target.shape
    changed = (later.previous_action[1:] != later.previous_action[:-1]).any(1)
    error = (forecast.x - later.x)[1:, :2].square().mean(1)
    held = (later.x[:-1] - later.x[1:])[:, :2].square().mean(1)
    assert error[changed].mean() < 0.2 * held[changed].mean()


def test_a_run_continues_where_it_stopped(run: tuple[Path, list[CloneStatus]], tmp_path: Path) -> None:
    folder, _ = run
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["options"]["steps"] = 18
    (tmp_path / "config.json").write_text(json.dumps(settings))
    statuses: list[CloneStatus] = []
    resume_cloning(tmp_path, statuses.append)
    assert [s.steps for s in statuses] == [18]
    with pytest.raises(GanglionError, match="already holds a run"):
        clone(folder, folder, SMALL, folder)


def test_its_bundle_replays_on_the_bag(run: tuple[Path, list[CloneStatus]], place: Path, tmp_path: Path) -> None:
    folder, _ = run
    report = export(folder, tmp_path / "cart.onnx")
    contract = report.contract
    assert contract.parity is not None
    assert contract.parity.max_difference <= contract.parity.tolerance
    assert contract.health.ticks > 200
    assert contract.checks.channels == {}
    assert contract.provenance.command.startswith(f"ganglion train --from-bags {place / 'one'} --contract ")
    found = replay(place / "one", Bundle.load(tmp_path / "cart.onnx"), ReplayOptions(mode="raw"))
    assert found.statuses == {"ACTIVE": found.ticks}
    assert found.compared > 500
    assert found.rmse is not None
    assert math.isfinite(found.rmse)


def test_cloning_asks_only_for_what_was_recorded(run: tuple[Path, list[CloneStatus]]) -> None:
    agent, _, _ = load_agent(run[0])
    z = agent.initial(3)["z"]
    answer = agent.act(z).detach()
    target = answer + torch.tensor([[1.0, 1.0], [math.nan, math.nan], [-1.0, 2.0]])
    assert cloning_loss(agent, z, target).item() == pytest.approx((1 + 1 + 1 + 4) / 4)
    assert cloning_loss(agent, z, torch.full_like(answer, math.nan)).item() == 0.0


def test_a_step_needs_long_enough_recordings(place: Path, tmp_path: Path) -> None:
    with pytest.raises(GanglionError, match="no recording has 1001 ticks"):
        clone(place / "one", place / "robot.yaml", LearnOptions(sequence=1000), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(GanglionError, match="held_out is 1"):
        clone(place / "one", place / "robot.yaml", LearnOptions(held_out=1.0), tmp_path / "run")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate_hz: 20", "rate_hz: fast", "rate_hz: got 'fast', expected a number"),
        ("rate_hz: 20", "", r"the fields \['rate_hz'\] are missing"),
        ("joint_velocity", "joint_speed", "has kind 'joint_speed', expected one of joint_position"),
        (", joints: [left, right]", "", "needs the names of its joints"),
        ("[vx, wz]", "[vx, yaw]", "a Twist commands vx, vy, vz, wx, wy, wz, got the joints vx, yaw"),
        ("kind: velocity", "kind: twist", "action kind 'twist' is unknown"),
        ("geometry_msgs/msg/Twist", "Twist", "action message 'Twist' is unknown"),
        ("max_age_s: 0.12", "max_age_s: -1", "max_age_s is -1"),
        ("robot: cart", "robot: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(ROBOT.replace(old, new))
    with pytest.raises(GanglionError, match=message):
        load_robot(path)
    assert ganglion.main(["train", "--from-bags", "nowhere", "--contract", str(path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_bags_that_lack_something_are_refused(place: Path, tmp_path: Path) -> None:
    for old, new, message in (
        ("topic: imu", "topic: gyro", r"has no topic 'gyro' \[sensor_msgs/msg/Imu\]"),
        ("topic: cmd_vel", "topic: drive", "has no commands on 'drive'"),
        ("joint_states, joints: [left, right]", "joint_states, joints: [left, rear]", r"never holds wheel\.rear"),
    ):
        (tmp_path / "robot.yaml").write_text(ROBOT.replace(old, new))
        with pytest.raises((BagError, GanglionError), match=message):
            clone(place / "one", tmp_path / "robot.yaml", SMALL, tmp_path / "run")


def test_missing_readings_have_no_stamp(place: Path) -> None:
    robot = drafted(load_robot(place / "robot.yaml"))
    ticks = read_bags([place / "one"], robot)[:3]
    ticks.stamp_ns[1, 0], ticks.values[1, 0] = NEVER, np.nan
    np.testing.assert_array_equal(ticks.believed(robot.layout)[:, 0], [True, False, True])
    np.testing.assert_array_equal(ticks.believed(robot.layout)[:, 1], [True, True, True])
