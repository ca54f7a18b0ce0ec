"""One file of a bag as a stream of undecoded messages: by its index where it is whole, up to the break elsewhere."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runtime.errors import BagError
from runtime.replay.files import kind
from runtime.replay.mcap import read_mcap
from runtime.replay.ros1 import read_ros1

if TYPE_CHECKING:
    from rosbags.rosbag2 import Reader

Message = tuple[str, str, int, bytes]
"""Topic, type, receive time in ns and serialised content."""
_MOST_NS = 2**62  # a later time is none
_LONGEST_NAME = 256
_LEFT_OUT = "holds messages without a sound name, time or content, which are left out"


class Source(Protocol):
    """An open file."""

    topics: dict[str, str]
    """Message type of every topic that holds messages."""
    definitions: dict[str, tuple[str, str]]
    """Text and digest of the message types that the file defines."""
    start_ns: int
    end_ns: int
    """Receive times of the first message, and of the last one plus 1 ns."""
    notice: str
    """What a reader should know of its condition, to follow its name; empty if nothing."""

    def messages(self, wanted: Collection[str]) -> Iterator[Message]:
        """Those of the wanted topics in the order of their receive times, as far as the file can be read."""

    def close(self) -> None:
        """Let go of the file."""


def open_source(path: Path, shown: Path) -> Source:
    """The file at `path`, which the user knows as `shown`. Raises BagError if nothing can be read of it."""
    if kind(path) == ".bag":
        return Scan(path, shown, read_ros1)
    try:
        return Indexed(path)
    except Exception as error:  # the storage libraries raise many unrelated types
        reason = describe(error)
    return Scan(path, shown, read_mcap if kind(path) == ".mcap" else read_sqlite, reason)


def describe(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class Indexed:
    """A whole file of ROS 2, read by rosbags."""

    def __init__(self, path: Path) -> None:
        from rosbags.rosbag2 import Reader

        self._reader: Reader = Reader(path)
        self._reader.open()
        self._connections = [c for c in self._reader.connections if c.msgcount > 0]
        if not all(_named(c.topic, c.msgtype) for c in self._connections):
            self.close()
            raise ValueError("a topic has no sound name")
        self.topics = {c.topic: c.msgtype for c in self._connections}
        self.definitions = {
            c.msgtype: (c.msgdef.data, c.digest) for c in self._connections if c.msgdef.data and c.digest
        }
        self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time
        self.notice = ""
        if self.topics and not 0 <= self.start_ns < self.end_ns <= _MOST_NS:
            self.close()
            raise ValueError(f"its messages lie between {self.start_ns} and {self.end_ns} ns")

    def messages(self, wanted: Collection[str]) -> Iterator[Message]:
        connections = [c for c in self._connections if c.topic in wanted]
        if not connections:
            return
        try:
            for connection, receive_ns, data in self._reader.messages(connections):
                if _sound(receive_ns, data):
                    yield connection.topic, connection.msgtype, receive_ns, data
                else:
                    self.notice = _LEFT_OUT
        except Exception as error:
            self.notice = _broken(error)

    def close(self) -> None:
        self._reader.close()


class Scan:
    """A file that is read from its beginning, without an index; it is gone through once to see what it holds."""

    def __init__(self, path: Path, shown: Path, read: Callable[[Path], Iterator[Message]], reason: str = "") -> None:
        """`reason` is why it has to be. Raises BagError if it holds no message and is broken."""
        self._path, self._read = path, read
        self.topics: dict[str, str] = {}
        self.definitions: dict[str, tuple[str, str]] = {}
        self.notice = f"has no index that can be used ({reason}); it is read from its beginning" if reason else ""
        self.start_ns, self.end_ns = _MOST_NS, 0
        for topic, message_type, receive_ns, _ in self._messages():
            self.topics.setdefault(topic, message_type)
            self.start_ns, self.end_ns = min(self.start_ns, receive_ns), max(self.end_ns, receive_ns + 1)
        if self.notice and not self.topics:
            raise BagError(f"{shown} holds no message that can be read: it {self.notice}; copy or record it again")

    def messages(self, wanted: Collection[str]) -> Iterator[Message]:
        return (m for m in self._messages() if m[0] in wanted)

    def _messages(self) -> Iterator[Message]:
        try:
            for message in self._read(self._path):
                if _named(*message[:2]) and _sound(*message[2:]):
                    yield message
                else:
                    self.notice = _LEFT_OUT
        except Exception as error:
            self.notice = _broken(error)

    def close(self) -> None:
        pass


def _named(topic: object, message_type: object) -> bool:
    """Whether both are names."""
    return all(isinstance(n, str) and len(n) <= _LONGEST_NAME and n.isprintable() for n in (topic, message_type))


def _sound(receive_ns: object, data: object) -> bool:
    """SQLite holds numbers where texts should be, and nothing where there should be something."""
    return isinstance(receive_ns, int) and 0 <= receive_ns <= _MOST_NS and isinstance(data, bytes)


def _broken(error: Exception) -> str:
    return f"is cut short or damaged ({describe(error)}); it is read up to the break"


def read_sqlite(path: Path) -> Iterator[Message]:
    """Messages of a SQLite file in the order in which they were written. Raises sqlite3.Error where it breaks."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as database:
        database.execute("PRAGMA writable_schema = ON")  # nothing is written, but a file with too few pages is opened
        topics = {i: (name, t) for i, name, t in database.execute("SELECT id, name, type FROM topics")}
        for topic, receive_ns, data in database.execute("SELECT topic_id, timestamp, data FROM messages"):
            if topic in topics:
                yield *topics[topic], receive_ns, data
