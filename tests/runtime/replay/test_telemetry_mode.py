from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from runtime.bundle import Bundle
from runtime.errors import BagError
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.telemetry import labels
from tests.runtime.replay.recording import TYPES, BagWriter, Recording, array
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def recording(kuka: Bundle) -> Recording:
    result = Recording(kuka)
    result.run(activation=1, ticks=230, seed=1)
    result.run(activation=2, ticks=120, seed=2)
    return result


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_replay_is_bit_exact(storage: StoragePlugin, recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    told: list[tuple[float, float]] = []
    bag = recording.write(tmp_path / "bag", storage)
    result = replay(bag, kuka, progress=lambda done, total: told.append((done, total)))
    assert result.mode == "telemetry"
    assert (result.ticks, result.skipped, result.differing) == (350, 0, 0)
    assert result.bit_exact
    assert (result.rmse, result.max) == (0.0, 0.0)
    assert result.statuses["WAITING"] == 4
    assert result.statuses["ACTIVE"] > 150
    assert result.statuses["ENGAGING"] > 40
    assert result.statuses["STOPPED"] == 30
    assert result.statuses["HOLDING"] > 10
    assert result.compared == 346
    assert result.realtime_factor > 0
    assert told == sorted(told)
    assert 1.0 < told[-1][0] < told[-1][1]
    json.dumps(result.to_json(), allow_nan=False)


def test_what_the_graph_did_not_believe_is_part_of_the_record(tmp_path: Path) -> None:
    def bundle(name: str, verdicts: dict[str, float]) -> Bundle:
        return Bundle.load(write_tiny_bundle(tmp_path / name, "kuka_reach", 0.3, verdicts=verdicts))

    frozen = bundle("frozen.onnx", {"end_effector.x": 1})
    recording = Recording(frozen)
    recording.run(activation=1, ticks=60, seed=1)
    bag = recording.write(tmp_path / "bag")
    assert replay(bag, frozen).bit_exact
    other = replay(bag, bundle("gated.onnx", {"end_effector.x": 2}))
    assert other.first_difference == "reasons at activation 1, tick 2", "the first tick after the pose was seen"
    assert other.max == 0.0


def test_faults_strike_the_recorded_ticks(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    bag = recording.write(tmp_path / "bag")
    result = replay(bag, kuka, ReplayOptions(faults=("lost:joint_position@1",)))
    assert 0 < result.differing < result.ticks == 350
    activation, tick = re.findall(r"\d+", result.first_difference)
    assert (activation, int(tick) >= 95) == ("1", True)
    assert result.statuses["HOLDING"] > replay(bag, kuka).statuses["HOLDING"] + 50, "of 130, of which 30 are stopped"


def test_a_bare_file_of_a_bag(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    for storage, suffix in ((StoragePlugin.MCAP, "mcap"), (StoragePlugin.SQLITE3, "db3")):
        folder = recording.write(tmp_path / suffix, storage)
        (file,) = folder.glob(f"*.{suffix}")
        assert replay(file, kuka).bit_exact


def test_the_tests_recording_uses_every_part(recording: Recording, kuka: Bundle) -> None:
    """Otherwise the bit-exactness above would say little."""
    column = {name: i for i, name in enumerate(labels(kuka.contract))}
    table = np.array([r.vector for r in recording.ticks()])
    assert set(table[:, column["refine"]]) == {0, 1, 2, 3}
    assert np.isnan(table[10:, column["value.target.x"]]).any()
    assert (table[:, column["age_ns.target.x"]] > 9e8).any()
    assert len(np.unique(table[:, column["command.lbr_iiwa_joint_1"]])) > 100


Edit = Callable[[np.ndarray, dict[str, int]], None]


def command(vector: np.ndarray, column: dict[str, int]) -> None:
    vector[column["command.lbr_iiwa_joint_4"]] += 1e-3


def last_bit(vector: np.ndarray, column: dict[str, int]) -> None:
    where = column["command.lbr_iiwa_joint_4"]
    vector[where] = np.nextafter(vector[where], np.inf)


def free_energy(vector: np.ndarray, column: dict[str, int]) -> None:
    vector[column["free_energy"]] += 1e-6


def status(vector: np.ndarray, column: dict[str, int]) -> None:
    vector[column["status"]] = 3 - vector[column["status"]]


@pytest.mark.parametrize(
    ("edit", "named", "largest"),
    [
        (command, "command", 1e-3),
        (last_bit, "command", 1e-12),
        (free_energy, "free energy", 0.0),
        (status, "status", 0.0),
    ],
)
def test_one_falsified_number_is_found(
    edit: Edit, named: str, largest: float, recording: Recording, kuka: Bundle, tmp_path: Path
) -> None:
    column = {name: i for i, name in enumerate(labels(kuka.contract))}
    edit(recording.ticks()[77].vector, column)
    result = replay(recording.write(tmp_path / "bag"), kuka)
    assert not result.bit_exact
    assert result.differing == 1
    assert result.first_difference == f"{named} at activation 1, tick 77"
    assert result.max == pytest.approx(largest, abs=1e-12)
    assert result.ticks == 350


def test_error_by_hand(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    column = {name: i for i, name in enumerate(labels(kuka.contract))}
    for tick, size in ((50, 0.3), (60, -0.4)):
        recording.ticks()[tick].vector[column["command.lbr_iiwa_joint_2"]] += size
    result = replay(recording.write(tmp_path / "bag"), kuka)
    assert result.max == pytest.approx(0.4)
    assert result.rmse == pytest.approx(0.5 / np.sqrt(346 * 7))
    assert result.per_joint["lbr_iiwa_joint_2"]["rmse"] == pytest.approx(0.5 / np.sqrt(346))
    assert result.per_joint["lbr_iiwa_joint_1"] == {"rmse": 0.0, "max": 0.0}


def test_a_reading_that_was_altered_changes_what_follows(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    column = {name: i for i, name in enumerate(labels(kuka.contract))}
    recording.ticks()[10].vector[column["value.target.x"]] = 0.9
    result = replay(recording.write(tmp_path / "bag"), kuka)
    assert not result.bit_exact
    assert result.first_difference == "command at activation 1, tick 10"


@pytest.mark.parametrize("field", ["request", "status", "now_s"])
def test_a_damaged_record_ends_the_replay_with_one_error(
    field: str, recording: Recording, kuka: Bundle, tmp_path: Path
) -> None:
    recording.ticks()[77].vector[labels(kuka.contract).index(field)] = np.nan if field == "now_s" else 9.0
    with pytest.raises(BagError, match=f"a telemetry record is damaged: {field} is (9|nan), expected a whole number"):
        replay(recording.write(tmp_path / "bag"), kuka)


def test_starts_at_the_first_snapshot_when_recorded_from_the_middle(
    recording: Recording, kuka: Bundle, tmp_path: Path
) -> None:
    recording.records = recording.records[31:]  # the first snapshot and thirty ticks
    result = replay(recording.write(tmp_path / "bag"), kuka)
    assert (result.ticks, result.skipped) == (230 - 30 - 70 + 120, 70)
    assert result.bit_exact


def test_resumes_at_a_snapshot_after_a_gap(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    gone = {id(r) for r in recording.ticks()[150:160]}
    recording.records = [r for r in recording.records if id(r) not in gone]
    result = replay(recording.write(tmp_path / "bag"), kuka)
    assert (result.ticks, result.skipped) == (350 - 50, 40)
    assert result.bit_exact


def test_a_snapshot_may_be_written_after_its_tick(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    states = [r for r in recording.records if r.topic.endswith("/state")]
    others = [r for r in recording.records[31:] if r not in states]
    late = next(i for i, r in enumerate(others) if r.receive_ns > states[1].receive_ns) + 20
    others.insert(late, states[1])
    states[1].receive_ns = others[late - 1].receive_ns
    recording.records = others
    result = replay(recording.write(tmp_path / "bag"), kuka)
    # 130 ticks of the first activation after its snapshot; the second starts anew at tick 0 without one
    assert (result.ticks, result.skipped) == (130 + 120, 70)
    assert result.bit_exact


def test_a_snapshot_that_contradicts_is_reported(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    states = [r for r in recording.records if r.topic.endswith("/state")]
    states[2].vector[3] += 0.01
    result = replay(recording.write(tmp_path / "bag"), kuka)
    assert not result.bit_exact
    assert result.first_difference == "state at activation 1, tick 200"


def test_nothing_to_start_from(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    recording.records = recording.ticks()[30:90]
    with pytest.raises(BagError, match=r"holds 60 ticks, but neither the first of an activation nor a state"):
        replay(recording.write(tmp_path / "bag"), kuka)


def test_other_weights_are_not_identical(recording: Recording, tmp_path: Path) -> None:
    other = Bundle.load(write_tiny_bundle(tmp_path / "other.onnx", "kuka_reach", gain=0.31))
    result = replay(recording.write(tmp_path / "bag"), other)
    assert not result.bit_exact
    assert result.max is not None
    assert result.max > 0


def with_contract(recording: Recording, path: Path, text: str) -> Path:
    with BagWriter(path) as bag:
        bag.write(
            "/controller/contract", TYPES.types["std_msgs/msg/String"](data=text), recording.records[0].receive_ns
        )
        for r in recording.records:
            bag.write(r.topic, array(r.vector), r.receive_ns)
    return path


def test_the_recorded_contract_tells_which_bundle_it_was(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    bag = with_contract(recording, tmp_path / "bag", kuka.contract.to_json())
    assert replay(bag, kuka).bit_exact
    other = Bundle.load(write_tiny_bundle(tmp_path / "other.onnx", "kuka_reach", gain=0.31))
    with pytest.raises(BagError, match=rf"another bundle \(graph {kuka.contract.digest[:12]}.*--mode raw"):
        replay(bag, other, ReplayOptions(mode="telemetry"))
    with pytest.raises(BagError, match="has no topic 'joint_states'"):
        replay(bag, other)


def test_a_contract_that_is_not_json_tells_nothing(recording: Recording, kuka: Bundle, tmp_path: Path) -> None:
    for i, text in enumerate(("not json", "[]", "{}")):
        assert replay(with_contract(recording, tmp_path / f"bag{i}", text), kuka).bit_exact


def test_two_robots_in_one_bag(kuka: Bundle, tmp_path: Path) -> None:
    both = []
    for namespace in ("/left", "/right"):
        recording = Recording(kuka, namespace)
        recording.run(1, 20, seed=len(namespace))
        both += recording.records
    bag = Recording(kuka, records=sorted(both, key=lambda r: r.receive_ns)).write(tmp_path / "bag")
    with pytest.raises(
        BagError, match=r"could be any of /left/controller/telemetry, /right/controller/telemetry; choose one"
    ):
        replay(bag, kuka)
    for namespace in ("/left", "right", "/right/"):
        result = replay(bag, kuka, ReplayOptions(namespace=namespace))
        assert (result.bit_exact, result.ticks) == (True, 20)


def test_telemetry_of_another_robot(recording: Recording, cartpole: Bundle, tmp_path: Path) -> None:
    bag = recording.write(tmp_path / "bag")
    with pytest.raises(BagError, match="was recorded with another bundle"):
        replay(bag, cartpole, ReplayOptions(mode="telemetry"))
    with pytest.raises(BagError, match=r"has no topic 'joint_states'.*it has /controller/state"):
        replay(bag, cartpole)


def test_unknown_mode(kuka: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BagError, match="mode 'twice' is unknown; expected one of auto, telemetry, raw"):
        replay(tmp_path, kuka, ReplayOptions(mode="twice"))
