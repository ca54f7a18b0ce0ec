"""Bags that were cut, flipped, overwritten and filled with the wrong types: one clear error each, or what is left.

3,000 bags, 500 of each format and mode; GANGLION_FUZZ takes another number, and GANGLION_SEED other ones.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import GanglionError
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.replay.timeline import Row
from runtime.safety import Status
from runtime.sample import Sample
from runtime.telemetry import pack, pack_state
from tests.runtime.replay.recording import BagWriter, array, joint_state, write_ros1

BAGS = int(os.environ.get("GANGLION_FUZZ", "500"))
SEED = int(os.environ.get("GANGLION_SEED", "0"))
LONGEST_S = 20
MOST_MIB = 300
START = 1_700_000_000_000_000_000
JOINTS = ("slider_to_cart", "cart_to_pole")

Damage = Callable[[bytearray, random.Random], None]


def messages(bundle: Bundle) -> list[tuple[str, Any, int]]:
    """Sensor topics, commands, telemetry and states of forty ticks."""
    controller, sample = Controller(bundle), Sample(bundle.contract)
    found: list[tuple[str, Any, int]] = []
    for tick in range(40):
        now_ns = START + tick * 10_000_000
        angles = (0.01 * tick, 0.02 * tick)
        sample.put_flat(np.array([*angles, 0.1, -0.1]), now_ns - 1000)
        if tick % 20 == 0:
            found.append(("/controller/state", array(pack_state(controller.state(), 1, tick)), now_ns))
        command = controller.tick(sample, now_ns)
        record = pack(
            bundle.contract, sample, now_ns, command, activation=1, tick=tick, late=False, tick_us=1.0, latency_us=2.0
        )
        joints = joint_state(dict(zip(JOINTS, angles)), dict(zip(JOINTS, (0.1, -0.1))))
        joints.header.stamp.sec, joints.header.stamp.nanosec = divmod(now_ns - 2000, 10**9)
        found += [
            ("/joint_states", joints, now_ns - 1000),
            ("/controller/telemetry", array(record), now_ns + 1),
            (f"/{bundle.contract.action.topic}", array(command.values), now_ns + 2),
        ]
    return sorted(found, key=lambda m: m[2])


@pytest.fixture(scope="module")
def whole(cartpole: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Whole bags by suffix: plain ones and packed ones."""
    folder = tmp_path_factory.mktemp("whole")
    recorded = messages(cartpole)
    result: dict[str, list[bytes]] = {"mcap": [], "db3": [], "bag": []}
    for storage, suffix, packing in (
        (StoragePlugin.MCAP, "mcap", CompressionMode.NONE),
        (StoragePlugin.MCAP, "mcap", CompressionMode.STORAGE),
        (StoragePlugin.MCAP, "mcap", CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, "db3", CompressionMode.NONE),
        (StoragePlugin.SQLITE3, "db3", CompressionMode.MESSAGE),
    ):
        path = folder / f"{suffix}{packing.name}"
        with BagWriter(path, storage, packing) as bag:
            for topic, message, receive_ns in recorded:
                bag.write(topic, message, receive_ns)
        result[suffix].append(next(path.glob(f"*.{suffix}")).read_bytes())
    from rosbags.rosbag1 import Writer

    for fmt in (None, Writer.CompressionFormat.BZ2, Writer.CompressionFormat.LZ4):
        result["bag"].append(write_ros1(folder / f"{fmt}.bag", recorded, fmt).read_bytes())
    return result


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 5, 20, 200))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def huge(data: bytearray, rng: random.Random) -> None:
    """A length beyond all reason, most often where a length is."""
    width = rng.choice((4, 8))
    value = rng.choice((2**31 - 1, 2**32 - 1, 2**31, 2**20, 0, 2**63 - 1, 2**64 - 1, 2**40)) % 2 ** (8 * width)
    where = rng.randrange(max(len(data) - width, 1))
    small = [i for i in range(where, min(where + 400, len(data) - 4)) if data[i + 1 : i + 4] == b"\0\0\0"]
    where = rng.choice(small) if small and rng.random() < 0.8 else where
    data[where : where + width] = value.to_bytes(width, "little")


def wrong_type(data: bytearray, rng: random.Random) -> None:
    """Messages of one type under the name of another, as long."""
    names = (
        b"sensor_msgs/msg/JointState",
        b"std_msgs/msg/Float64MultiArray",
        b"sensor_msgs/JointState",
        b"cdr",
        b"ros2",
    )
    for name in rng.sample(names, rng.randint(1, 3)):
        other = rng.choice(
            (b"geometry_msgs/msg/Twist", b"sensor_msgs/msg/Imu", b"std_msgs/msg/String", b"\0\xff", b"x/y")
        )
        data[:] = data.replace(name, other[: len(name)].ljust(len(name), rng.choice((b"\0", b"x"))))


def shuffle(data: bytearray, rng: random.Random) -> None:
    """A block is gone, twice there, zero or noise."""
    start = rng.randrange(len(data))
    block = data[start : start + rng.choice((1, 7, 64, 500, 4096))]
    what = rng.randrange(4)
    new = (b"", bytes(block) * 2, bytes(len(block)), rng.randbytes(len(block)))[what]
    data[start : start + len(block)] = new


DAMAGES: tuple[Damage, ...] = (cut, flip, huge, wrong_type, shuffle)


def sql(path: Path, rng: random.Random) -> None:
    """What SQLite lets into its tables without a word."""
    value = rng.choice(("NULL", "'text'", "-1", "9223372036854775807", "1.5e300", "x'00'", "zeroblob(70000)", "0"))
    column, table = rng.choice(
        (("timestamp", "messages"), ("data", "messages"), ("topic_id", "messages"), ("name", "topics"),
         ("id", "topics"), ("type", "topics"), ("serialization_format", "topics"), ("offered_qos_profiles", "topics"),
         ("schema_version", "schema"), ("encoding", "message_definitions"))
    )  # fmt: skip
    with closing(sqlite3.connect(path)) as database:
        try:
            database.execute("PRAGMA writable_schema = ON")
            if rng.random() < 0.5:  # without the constraints that would refuse
                database.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
                database.commit()
            database.execute(f"UPDATE {table} SET {column} = {value} WHERE rowid % {rng.choice((1, 2, 7))} = 0")
            if rng.random() < 0.2:
                database.execute(
                    rng.choice(("DROP TABLE topics", "DROP TABLE schema", "DELETE FROM topics WHERE id > 1"))
                )
            database.commit()
        except sqlite3.Error:
            pass


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what hangs, after seconds of computing: the machine may have other users."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"it hangs: {seconds} s were not enough")

    before = signal.signal(signal.SIGPROF, hangs)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("mode", ["auto", "raw"])
@pytest.mark.parametrize("suffix", ["mcap", "db3", "bag"])
def test_damaged_bags(suffix: str, mode: str, whole: dict[str, list[bytes]], cartpole: Bundle, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()

    def safe(row: Row) -> None:
        assert row.command.status is Status.WAITING or np.isfinite(row.command.values).all()

    def attempt(path: Path, options: ReplayOptions) -> str:
        try:
            result = replay(path, cartpole, options, observers=(safe,))
        except GanglionError as error:
            text = str(error)
            assert text
            assert "\n" not in text
            assert len(text) < 2000
            return "refused"
        assert result.ticks > 0
        assert result.rmse is None or np.isfinite(result.rmse)
        return "partial" if result.notices else "whole"

    for intact in whole[suffix]:
        (tmp_path / f"whole.{suffix}").write_bytes(intact)
        assert attempt(tmp_path / f"whole.{suffix}", ReplayOptions(mode)) == "whole"
    before = peak_mib()
    for number in range(BAGS):
        rng = random.Random(f"{SEED} {suffix} {mode} {number}")
        data = bytearray(rng.choice(whole[suffix]))
        path = tmp_path / f"{number}.{suffix}"
        if suffix == "db3" and rng.random() < 0.3:
            path.write_bytes(data)
            sql(path, rng)
        else:
            for damage in rng.choices(DAMAGES, k=rng.choice((1, 1, 1, 2))):
                if data:
                    damage(data, rng)
            path.write_bytes(data)
        align = rng.choice(("hold", "asof", "drop"))
        try:
            with at_most(LONGEST_S):
                outcomes[attempt(path, ReplayOptions(mode, clock=rng.choice(("receive", "header")), align=align))] += 1
        except BaseException as error:
            error.add_note(f"bag {number} of {suffix} {mode}, GANGLION_SEED={SEED}") if hasattr(
                error, "add_note"
            ) else None
            raise
        path.unlink()
    assert peak_mib() - before < MOST_MIB
    assert outcomes["refused"] > BAGS // 20
    assert outcomes["partial"] + outcomes["whole"] > BAGS // 20
