from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.errors import BagError
from runtime.replay.bags import Bag
from runtime.replay.replay import replay
from tests.runtime.replay.recording import TYPES, BagWriter, array, twist


def test_not_a_bag(kuka: Bundle, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no bag")
    fake = tmp_path / "fake.mcap"
    fake.write_bytes(b"no bag either")
    database = tmp_path / "fake.db3"
    database.write_bytes(b"nor this" * 100)
    ros1 = tmp_path / "fake.bag"
    ros1.write_bytes(b"#ROSBAG V1.2\n" * 9)
    empty = tmp_path / "empty"
    empty.mkdir()
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "metadata.yaml").write_text("[1, 2")
    for path, message in (
        (tmp_path / "none", "there is no bag at .*none; check the path"),
        (text, r"notes.txt is not a bag: expected a bag directory, or a file that ends with .mcap, .db3, .bag"),
        (fake, "fake.mcap holds no message that can be read: it is cut short or damaged"),
        (database, "fake.db3 holds no message that can be read: it is cut short or damaged"),
        (ros1, "fake.bag holds no message that can be read: it is cut short or damaged"),
        (empty, "is a directory without metadata.yaml and without a bag's files"),
        (odd, "odd cannot be read as a bag: neither its metadata.yaml nor any of its files"),
    ):
        with pytest.raises(BagError, match=message):
            replay(path, kuka)


def test_messages_that_do_not_decode_are_left_out_and_counted(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/numbers", array([1.0]), 5)
        bag._writer.write(bag._connections["/numbers"], 6, b"\x00\x01\x00\x00\x01")
        bag.write("/numbers", array([2.0]), 7)
        bag.write("/others", array([1.0]), 4)
    with Bag(tmp_path / "bag") as opened:
        assert [r.receive_ns for r in opened.records({"/numbers"})] == [5, 7]
        assert opened.notices == ("/numbers: 1 messages do not decode and were left out",)


def test_a_topic_that_never_decodes_is_an_error(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/numbers", array([1.0]), 5)
        bag._writer.write(bag._connections["/numbers"], 1, b"\x00\x01\x00\x00\x01")
    with (
        Bag(tmp_path / "bag") as opened,
        pytest.raises(BagError, match=r"'/numbers' cannot be decoded as std_msgs/msg/Float64MultiArray .*definition"),
    ):
        list(opened.records({"/numbers"}))


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


def test_remaps_name_topics_of_the_bag(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for topic in ("/left/joints", "/right/joints"):
            bag.write(topic, array([1.0]), 1)
    kind = "std_msgs/msg/Float64MultiArray"
    for name, found in (("/left/joints", "/left/joints"), ("right/joints", "/right/joints")):
        with Bag(tmp_path / "bag", remaps={"joint_states": name}) as opened:
            assert opened.find("joint_states", kind) == opened.find("/joint_states", kind) == found
    with (
        Bag(tmp_path / "bag", remaps={"joint_states": "/joints"}) as opened,
        pytest.raises(BagError, match="no topic '/joints', to which 'joint_states' is remapped; it has /left/joints"),
    ):
        opened.find("joint_states", kind)
