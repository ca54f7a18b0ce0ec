from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from runtime.bundle import Bundle
from runtime.errors import BagError, GanglionError
from runtime.replay.bags import Progress
from runtime.replay.batch import jobs, replay_many
from runtime.replay.compare import ReplayResult
from runtime.replay.exports import Exports
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.replay.streams import mcap_streams
from runtime.replay.tables import cells, columns, csv_rows, parquet_rows
from runtime.replay.timeline import Row
from tests.runtime.replay.recording import TYPES, Recording, joint_state, write_ros1

TURTLEBOT = Path(__file__).resolve().parents[4] / "shared" / "data" / "turtlebot3_gazebo"
Message = tuple[str, int, bytes]


@pytest.fixture
def bag(kuka: Bundle, tmp_path: Path) -> Path:
    recording = Recording(kuka)
    recording.run(activation=1, ticks=230, seed=1)
    return recording.write(tmp_path / "bag")


def contents(path: Path) -> tuple[dict[str, str], list[Message]]:
    """Type of every topic, and all messages."""
    with Reader(path) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        assert all(c.msgdef.data for c in reader.connections)
        return types, [(c.topic, time, bytes(data)) for c, time, data in reader.messages()]


def test_a_csv_holds_every_tick_to_the_last_bit(kuka: Bundle, bag: Path, tmp_path: Path) -> None:
    rows: list[Row] = []
    with csv_rows(tmp_path / "new" / "ticks.csv", kuka.contract) as write:
        replay(bag, kuka, observers=(rows.append, write))
    with (tmp_path / "new" / "ticks.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows) == 230
    kinds = columns(kuka.contract)
    for row, line in zip(rows, read):
        assert list(line) == list(kinds)
        for (name, kind), value in zip(kinds.items(), cells(row)):
            text = line[name]
            if kind == "float":
                np.testing.assert_equal(float(text or "nan"), value)
            else:
                assert text == str(value)
    last, layout = rows[-1], kuka.contract.layout
    assert float(read[-1][f"value.{layout.channels[0]}"]) == last.values[0]
    assert float(read[-1][f"command.{kuka.contract.action.joints[-1]}"]) == last.command.values[-1]
    assert {line["status"] for line in read} == {"WAITING", "ENGAGING", "ACTIVE", "HOLDING", "STOPPED"}


def test_parquet_holds_the_same_table(kuka: Bundle, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("runtime.replay.tables._BATCH", 100)  # two full row groups, and one that is not
    rows: list[Row] = []
    with parquet_rows(tmp_path / "ticks.parquet", kuka.contract) as write:
        replay(bag, kuka, observers=(rows.append, write))
    table = parquet.read_table(tmp_path / "ticks.parquet")
    assert parquet.ParquetFile(tmp_path / "ticks.parquet").num_row_groups == 3
    assert table.column_names == list(columns(kuka.contract))
    expected = zip(*(cells(row) for row in rows))
    for name, values in zip(table.column_names, expected):
        read = [np.nan if v is None else v for v in table[name].to_pylist()]
        np.testing.assert_array_equal(read, list(values), err_msg=name)


def test_an_mcap_holds_the_bag_and_the_policy_side_by_side(kuka: Bundle, bag: Path, tmp_path: Path) -> None:
    rows: list[Row] = []
    path = tmp_path / "streams.mcap"
    with mcap_streams(path, kuka.contract, bag) as write:
        replay(bag, kuka, observers=(rows.append, write))
    original_types, originals = contents(bag)
    types, messages = contents(path)
    assert sorted(m for m in messages if not m[0].startswith("/ganglion/")) == sorted(originals)
    assert {t: k for t, k in types.items() if not t.startswith("/ganglion/")} == original_types
    assert [time for _, time, _ in messages] == sorted(time for _, time, _ in messages)

    def told(topic: str) -> list[tuple[int, Any]]:
        name = f"/ganglion/{topic}"
        return [(time, TYPES.deserialize_cdr(data, types[name])) for t, time, data in messages if t == name]

    acting = [r for r in rows if r.command.status.name != "WAITING"]
    assert [time for time, _ in told("command")] == [r.time_ns for r in acting]
    for row, (_, message) in zip(acting, told("command")):
        assert message.name == list(kuka.contract.action.joints)
        np.testing.assert_array_equal(message.position, row.command.values)
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == row.time_ns
    assert [m.data for _, m in told("free_energy")] == [r.command.free_energy for r in rows]
    assert [m.data for _, m in told("error")] == [r.error for r in rows if not np.isnan(r.error)]
    for row, (_, masked), (_, innovation) in zip(rows, told("masked"), told("innovation")):
        assert masked.layout.dim[0].label == ",".join(kuka.contract.layout.channels)
        np.testing.assert_array_equal(masked.data, row.command.reasons)
        np.testing.assert_array_equal(innovation.data, row.command.innovation)
    stopped = next(m.status[0] for _, m in told("diagnostics") if m.status[0].message.startswith("stopped"))
    assert (stopped.level, stopped.message) == (2, "stopped: as recorded")
    assert any("non-finite" in v.value for _, m in told("diagnostics") for v in m.status[0].values)


def test_a_replay_that_fails_leaves_no_file_and_no_file_is_lost(kuka: Bundle, bag: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    old = tmp_path / "ticks.csv"
    old.write_text("old")
    exports = Exports((), old, tmp_path / "ticks.parquet", tmp_path / "ticks.mcap")
    wanted = jobs([bag], ReplayOptions(faults=("lost:nothing",)))
    (outcome,) = replay_many(wanted, kuka, work=replace(exports, jobs=tuple(wanted)))
    assert "'nothing' names no sensor channel" in outcome.error
    assert old.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", "ticks.csv"]


def test_several_replays_have_files_of_their_own(kuka: Bundle, bag: Path, tmp_path: Path) -> None:
    wanted = jobs([bag], ReplayOptions(), refine=(0, 1))
    outcomes = replay_many(wanted, kuka, 2, work=Exports(tuple(wanted), csv=tmp_path / "out" / "ticks.csv"))
    assert [o.error for o in outcomes] == ["", ""]
    written = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in written] == ["ticks_0_bag.csv", "ticks_1_bag.csv"]
    for steps, path in enumerate(written):
        with path.open(newline="") as file:
            assert {line["refine"] for line in csv.DictReader(file)} == {str(steps)}


class Stuck(Exports):
    """Gets no farther than the first progress that it tells."""

    def __call__(self, bag: Path, bundle: Bundle, options: ReplayOptions, progress: Progress) -> ReplayResult:
        def tell(done: float, total: float) -> None:
            progress(done, total)
            time.sleep(60)

        return super().__call__(bag, bundle, options, tell)


def test_an_interrupted_replay_leaves_no_half_written_file(kuka: Bundle, bag: Path, tmp_path: Path) -> None:
    def interrupt(done: float, total: float) -> None:
        assert len(list((tmp_path / "out").iterdir())) >= 2
        raise KeyboardInterrupt

    wanted = jobs([bag], ReplayOptions(), refine=(0, 1))
    exports = Stuck(tuple(wanted), tmp_path / "out" / "ticks.csv", mcap=tmp_path / "out" / "ticks.mcap")
    with pytest.raises(KeyboardInterrupt):
        replay_many(wanted, kuka, 2, interrupt, exports)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_made(kuka: Bundle, bag: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for writer in (csv_rows, parquet_rows):
        if writer is parquet_rows:
            pytest.importorskip("pyarrow")
        with pytest.raises(GanglionError, match="cannot write"), writer(tmp_path / "file" / "a", kuka.contract):
            pass
    with pytest.raises(GanglionError, match="cannot write"), mcap_streams(tmp_path / "file" / "a", kuka.contract, bag):
        pass
    with pytest.raises(BagError), mcap_streams(tmp_path / "a.mcap", kuka.contract, tmp_path / "nowhere"):
        pass
    assert not (tmp_path / "a.mcap").exists()


def test_a_bag_of_ros_1_becomes_one_of_ros_2(kuka: Bundle, tmp_path: Path) -> None:
    state = joint_state({"a": 0.5, "b": -0.25})
    source = write_ros1(tmp_path / "old.bag", [("/joint_states", state, 10**9 + i) for i in range(3)])
    with mcap_streams(tmp_path / "new.mcap", kuka.contract, source):
        pass
    types, messages = contents(tmp_path / "new.mcap")
    assert types == {"/joint_states": "sensor_msgs/msg/JointState"}
    assert [time for _, time, _ in messages] == [10**9 + i for i in range(3)]
    read: Any = TYPES.deserialize_cdr(messages[0][2], types["/joint_states"])
    assert (read.name, read.position.tolist()) == (["a", "b"], [0.5, -0.25])


@pytest.mark.skipif(not TURTLEBOT.is_dir(), reason="needs shared/data/turtlebot3_gazebo")
def test_topics_without_a_definition_are_left_out(kuka: Bundle, tmp_path: Path) -> None:
    with mcap_streams(tmp_path / "new.mcap", kuka.contract, TURTLEBOT):
        pass
    types, messages = contents(tmp_path / "new.mcap")
    assert "/performance_metrics" not in types, "gazebo_msgs is no standard package"
    assert sum(topic == "/imu" for topic, _, _ in messages) == 4016
