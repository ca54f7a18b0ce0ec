"""Every way in which a bag may lie on a disk, whole, in parts, packed, cut short or interrupted."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zstandard
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from runtime.bundle import Bundle
from runtime.errors import BagError
from runtime.replay.bags import Bag
from runtime.replay.files import find_bags
from runtime.replay.replay import replay
from tests.runtime.replay.recording import BagWriter, Recording, array, write_ros1

STORAGES = pytest.mark.parametrize(
    ("storage", "suffix"), [(StoragePlugin.MCAP, "mcap"), (StoragePlugin.SQLITE3, "db3")], ids=["mcap", "db3"]
)


def numbers(path: Path, first: int, last: int, storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """The only file of a bag that counts in /n."""
    with BagWriter(path, storage) as bag:
        for i in range(first, last):
            bag.write("/n", array([float(i)]), 10 * i + 1)
    (file,) = (p for p in path.iterdir() if p.suffix != ".yaml")
    return file


def read(path: Path) -> tuple[list[float], tuple[str, ...]]:
    with Bag(path) as bag:
        found = [float(r.message.data[0]) for r in bag.records({"/n"})]
        return found, bag.notices


@STORAGES
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
def test_compressed(mode: CompressionMode, storage: StoragePlugin, suffix: str, kuka: Bundle, tmp_path: Path) -> None:
    if (mode, suffix) == (CompressionMode.STORAGE, "db3"):
        pytest.skip("SQLite bags have no compression of their own")
    recording = Recording(kuka)
    recording.run(1, 60, seed=0)
    folder = recording.write(tmp_path / "bag", storage, mode)
    (file,) = (p for p in folder.iterdir() if p.suffix != ".yaml")
    assert file.name.endswith(".zstd") == (mode is CompressionMode.FILE)
    for path in (folder, file):
        result = replay(path, kuka)
        assert (result.bit_exact, result.ticks, result.notices) == (True, 60, ())


@STORAGES
def test_split_with_and_without_metadata(storage: StoragePlugin, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    names = [f"bag_{i}.{suffix}" for i in (0, 1, 2, 10)]  # in this order, which is not that of the alphabet
    for i, name in enumerate(names):
        numbers(tmp_path / f"part{i}", 5 * i, 5 * i + 5, storage).replace(folder / name)
    everything = [float(i) for i in range(20)]
    interrupted = f"{folder} has no metadata.yaml, as when a recording is interrupted; its files are read in order"
    assert read(folder) == (everything, (interrupted,))
    for style in ("    - {}\n", '  - "{}"\n'):
        listed = "".join(style.format(name) for name in names)
        (folder / "metadata.yaml").write_text(f"information:\n  relative_file_paths:\n{listed}  duration: 1\n")
        assert read(folder) == (everything, ())
    (folder / "metadata.yaml").write_text(f"x: {{relative_file_paths: [{', '.join(names)}], version: 9}}\n")
    assert read(folder) == (everything, ())
    (folder / names[1]).unlink()
    found, notices = read(folder)
    assert found == [*everything[:5], *everything[10:]]
    assert notices == (f"{folder} lacks its file {names[1]}, which is skipped",)
    (folder / names[2]).write_bytes(b"nothing of use")
    found, notices = read(folder)
    assert found == [*everything[:5], *everything[15:]]
    assert len(notices) == 2
    assert "bag_2" in notices[1]
    (folder / "metadata.yaml").write_bytes(b"\xff\xfe")
    assert read(folder)[0] == found


@STORAGES
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99, 0.999])
def test_cut_short(
    keep: float, storage: StoragePlugin, suffix: str, kuka: Bundle, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    recording = Recording(kuka)
    recording.run(1, 120, seed=0)
    (file,) = recording.write(tmp_path / "bag", storage).glob(f"*.{suffix}")
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data))])
    for path in (file, file.parent):
        if keep < 0.1:
            with pytest.raises(BagError, match=r"holds no message that can be read|cut short or damaged"):
                replay(path, kuka)
            continue
        result = replay(path, kuka)
        assert result.bit_exact, "what is there is whole"
        assert 120 * keep - 25 < result.ticks < 120 * keep + 5
        assert len(result.notices) == 1
        assert str(file) in result.notices[0]
    assert not recwarn.list


@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_a_packed_file_that_is_cut_short(keep: float, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", compression=CompressionMode.FILE) as bag:
        noise = np.random.default_rng(0).standard_normal((200, 300))
        for i, row in enumerate(noise):
            bag.write("/n", array(np.append(float(i), row)), i)
    (file,) = (tmp_path / "bag").glob("*.zstd")
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data))])
    found, notices = read(file)
    assert found == [float(i) for i in range(len(found))]
    assert 200 * keep - 80 < len(found) < 200 * keep + 5
    assert "cut short" in notices[0]


def test_a_recording_whose_log_was_not_moved_into_the_database(tmp_path: Path) -> None:
    """SQLite's write-ahead log, as rosbag2 leaves it where it is killed."""
    file = numbers(tmp_path / "bag", 0, 5, StoragePlugin.SQLITE3)
    folder = tmp_path / "killed"
    folder.mkdir()
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        rows = database.execute("SELECT topic_id, timestamp + 1000, data FROM messages").fetchall()
        database.executemany("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", rows)
        database.commit()
        for part in (file, file.with_name(f"{file.name}-wal")):
            shutil.copyfile(part, folder / part.name)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert read(folder)[0] == [0.0, 1.0, 2.0, 3.0, 4.0] * 2
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before, "the bag itself is not touched"


@pytest.mark.parametrize("packing", [None, Ros1Writer.CompressionFormat.BZ2, Ros1Writer.CompressionFormat.LZ4])
def test_ros1(packing: Ros1Writer.CompressionFormat | None, kuka: Bundle, tmp_path: Path) -> None:
    recording = Recording(kuka)
    recording.run(1, 120, seed=0)
    messages = [(r.topic, array(r.vector), r.receive_ns) for r in recording.records]
    path = write_ros1(tmp_path / "recorded.bag", messages, packing)
    result = replay(path, kuka)
    assert (result.bit_exact, result.ticks, result.notices) == (True, 120, ())
    with Bag(path) as bag:
        assert bag.topics == {f"/controller/{t}": "std_msgs/msg/Float64MultiArray" for t in ("state", "telemetry")}
        assert (bag.start_ns, bag.end_ns) == (messages[0][2], messages[-1][2] + 1)
    data = path.read_bytes()
    path.rename(tmp_path / "recorded.bag.active")
    (tmp_path / "recorded.bag.active").write_bytes(data[:-200])
    again = replay(tmp_path / "recorded.bag.active", kuka)
    assert (again.bit_exact, again.ticks) == (True, 120), "only its index is gone"
    assert "cut short or damaged" in again.notices[0]


def test_a_ros1_bag_that_is_cut_in_its_second_chunk(tmp_path: Path) -> None:
    """Chunks of rosbags' writer hold a mebibyte."""
    big = np.zeros(20_000)
    messages = [("n", array(np.append(float(i), big)), 10 * i) for i in range(12)]
    path = write_ros1(tmp_path / "n.bag", messages)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.8 * len(data))])
    with Bag(path) as bag:
        topic = bag.find("n", "std_msgs/msg/Float64MultiArray")
        assert topic is not None
        found = [float(r.message.data[0]) for r in bag.records({topic})]
    assert found == [float(i) for i in range(len(found))]
    assert 0 < len(found) < 12


def test_mcap_of_another_profile_and_without_an_index(tmp_path: Path) -> None:
    """As other recorders write it; rosbags takes neither."""
    file = numbers(tmp_path / "bag", 0, 5)
    data = file.read_bytes()
    assert data.count(b"ros2") >= 1
    file.write_bytes(data.replace(b"\x04\x00\x00\x00ros2", b"\x04\x00\x00\x00test", 1))
    found, notices = read(file)
    assert found == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert notices == (f"{file} has no index that can be used (Profile is not ros2.); it is read from its beginning",)


def test_a_damaged_chunk_ends_the_reading(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", compression=CompressionMode.STORAGE) as bag:
        for i in range(5):
            bag.write("/n", array(np.full(100_000, float(i))), i)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    data = bytearray(file.read_bytes())
    second = data.index(b"\x28\xb5\x2f\xfd", data.index(b"\x28\xb5\x2f\xfd") + 4)
    data[second + 40] ^= 255
    file.write_bytes(data)
    found, notices = read(file)
    assert found == [float(i) for i in range(len(found))]
    assert 0 < len(found) < 5
    assert "it is read up to the break" in notices[0]


def test_bags_of_a_folder(tmp_path: Path) -> None:
    numbers(tmp_path / "b" / "whole", 0, 2)
    single = numbers(tmp_path / "x", 0, 2).replace(tmp_path / "a_single.mcap")
    shutil.rmtree(tmp_path / "x")
    split = tmp_path / "c"
    split.mkdir()
    for i in range(2):
        shutil.copyfile(single, split / f"walk_{i}.mcap")
    other = tmp_path / "d"
    other.mkdir()
    for name in ("one.mcap", "two.mcap"):
        shutil.copyfile(single, other / name)
    (tmp_path / "notes.txt").write_text("no bag")
    assert find_bags(tmp_path) == [single, tmp_path / "b" / "whole", split, other / "one.mcap", other / "two.mcap"]
    assert find_bags(split) == [split]
    assert find_bags(single) == [single]
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "there is no bag in"), (tmp_path / "notes.txt", "is not a bag")):
        with pytest.raises(BagError, match=message):
            find_bags(path)


def test_a_message_that_claims_to_unpack_to_more_than_there_is_memory(tmp_path: Path) -> None:
    packed = zstandard.compress(bytes(1000))
    assert packed[4] >> 6 == 1, "the frame tells its size in two bytes"
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/n", array([1.0]), 1)
        header = b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little") + packed[7:]
        bag._writer.write(bag._connections["/n"], 2, header)
    found, notices = read(tmp_path / "bag")
    assert found == [1.0]
    assert notices == ("/n: 1 messages do not decode and were left out",)
