from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from runtime.bundle import Bundle
from runtime.errors import BagError
from runtime.replay.bags import Bag
from runtime.replay.replay import replay
from tests.runtime.replay.recording import TYPES, BagWriter, Recording, array, twist


def test_not_a_bag(kuka: Bundle, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no bag")
    fake = tmp_path / "fake.mcap"
    fake.write_bytes(b"no bag either")
    database = tmp_path / "fake.db3"
    database.write_bytes(b"nor this" * 100)
    empty = tmp_path / "empty"
    empty.mkdir()
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "metadata.yaml").write_text("[1, 2")
    for path, message in (
        (tmp_path / "none", "there is no bag at .*none; check the path"),
        (text, r"cannot be read as a ROS 2 bag \(Unrecognized storage format '.txt'\); expected a bag directory"),
        (fake, "fake.mcap cannot be read as a ROS 2 bag"),
        (database, "fake.db3 cannot be read as a ROS 2 bag"),
        (empty, "is a directory without metadata.yaml"),
        (odd, "odd cannot be read as a ROS 2 bag"),
    ):
        with pytest.raises(BagError, match=message):
            replay(path, kuka)


@pytest.mark.parametrize(("storage", "suffix"), [(StoragePlugin.MCAP, "mcap"), (StoragePlugin.SQLITE3, "db3")])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_truncated(
    keep: float, storage: StoragePlugin, suffix: str, kuka: Bundle, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    recording = Recording(kuka)
    recording.run(1, 120, seed=0)
    (file,) = recording.write(tmp_path / "bag", storage).glob(f"*.{suffix}")
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data))])
    for path in (file, file.parent):
        with pytest.raises(BagError, match=r"cannot be read as a ROS 2 bag|neither the first of an activation"):
            replay(path, kuka)
    assert not recwarn.list


def test_message_that_does_not_decode(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/numbers", array([1.0]), 5)
        bag._writer.write(bag._connections["/numbers"], 6, b"\x00\x01\x00\x00\x01")
    with (
        Bag(tmp_path / "bag") as opened,
        pytest.raises(BagError, match="cannot be read as a ROS 2 bag"),
    ):
        assert len(list(opened.records({"/numbers"}))) == 2


def test_unknown_types_are_listed_and_skipped(tmp_path: Path) -> None:
    from rosbags.rosbag2 import Writer

    with Writer(tmp_path / "bag", version=9) as writer:
        strange = writer.add_connection("/strange", "acme_msgs/msg/Thing", msgdef="int32 x", rihs01="RIHS01_0")
        known = writer.add_connection("/cmd_vel", "geometry_msgs/msg/Twist", typestore=TYPES)
        writer.write(strange, 1, b"\x00\x01\x00\x00\x05\x00\x00\x00")
        writer.write(known, 2, TYPES.serialize_cdr(twist(1.5, 0.0), "geometry_msgs/msg/Twist"))
    with Bag(tmp_path / "bag") as bag:
        assert bag.topics == {"/strange": "acme_msgs/msg/Thing", "/cmd_vel": "geometry_msgs/msg/Twist"}
        assert [(r.topic, r.message.linear.x, r.receive_ns) for r in bag.records({"/cmd_vel"})] == [
            ("/cmd_vel", 1.5, 2)
        ]
        assert list(bag.records({"/nothing"})) == []


def test_find_matches_whole_names_in_any_namespace(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for topic in ("/a/state", "/b/state", "/c/restate", "/d/twist"):
            bag.write(topic, twist(0, 0) if topic == "/d/twist" else array([1.0]), 1)
    kind = "std_msgs/msg/Float64MultiArray"
    with Bag(tmp_path / "bag") as bag_:
        assert bag_.find("restate", kind) == "/c/restate"
        assert bag_.find("/a/state", kind) == "/a/state"
        assert bag_.find("/state", kind) is None
        assert bag_.find("tate", kind) is None
        with pytest.raises(BagError, match="'state' could be any of /a/state, /b/state; choose"):
            bag_.find("state", kind)
        with pytest.raises(
            BagError, match=rf"'twist' must be {kind}, the bag has /d/twist \[geometry_msgs/msg/Twist\]"
        ):
            bag_.find("twist", kind)
    with Bag(tmp_path / "bag", "b") as bag_:
        assert bag_.find("state", kind) == "/b/state"


def test_records_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    times = np.random.default_rng(0).permutation(50)
    with BagWriter(tmp_path / "bag") as bag:
        for t in times:
            bag.write(f"/topic{t % 3}", array([float(t)]), int(t))
    with Bag(tmp_path / "bag") as opened:
        got = [(r.receive_ns, r.message.data[0]) for r in opened.records({"/topic0", "/topic1", "/topic2"})]
    assert got == [(t, float(t)) for t in range(50)]
