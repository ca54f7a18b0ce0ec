"""Bags as streams of messages, with errors that say what was got and what to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from runtime.errors import BagError
from runtime.replay.files import kind, list_files, readable
from runtime.replay.sources import Source, describe, open_source

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

Progress = Callable[[float, float], None]
"""Called with the seconds of the bag that are done, and all of them."""
_PACKED = b"\x28\xb5\x2f\xfd"  # with it begins a message that was compressed by itself (zstd), and no other
_LARGEST_MESSAGE = 2**28  # bytes, unpacked


@dataclass(frozen=True)
class Record:
    """One message of a bag."""

    topic: str
    message: Any
    """Decoded; fields as attributes, as in rclpy."""
    receive_ns: int
    """When the recorder received it."""


class Bag:
    """A bag of ROS 2 (a directory, or a bare .mcap or .db3 file) or of ROS 1 (.bag); a context manager.

    Topics of unknown types are listed but never decoded. What is cut short or damaged is read up to the break, with a
    notice. Everything else that goes wrong is a BagError. One file is open at a time, and of it one chunk in memory.
    """

    def __init__(self, path: Path, namespace: str = "", remaps: Mapping[str, str] = MappingProxyType({})) -> None:
        """Only the topics below `namespace` are seen, all of them if it is empty.

        `remaps` gives the bag's names of topics, without a leading slash, that are called otherwise there.
        """
        self.path = path
        self.namespace = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
        self.topics: dict[str, str] = {}
        """Message type of every topic that holds messages."""
        self.start_ns = self.end_ns = 0
        """Receive times of the first message, and of the last one plus 1 ns."""
        self.undecodable: dict[str, int] = {}
        """Messages per topic that could not be decoded and were left out."""
        self._remaps = remaps
        self._definitions: dict[str, tuple[str, str]] = {}
        self._notices: dict[str, None] = {}
        self._files: list[Path] = []
        self._open: tuple[Path, Source, ExitStack] | None = None
        self._types: Typestore
        self._ros1 = False

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader should know of the bag's condition, one sentence each."""
        left_out = (f"{topic}: {n} messages do not decode and were left out" for topic, n in self.undecodable.items())
        return (*self._notices, *left_out)

    def __enter__(self) -> Bag:
        self._files, notices = list_files(self.path)
        self._notices = dict.fromkeys(notices)
        self._ros1 = kind(self._files[0]) == ".bag"
        self._types = standard_types(self._ros1)
        spans = []
        for path in self._files:
            try:
                source = self._source(path)
            except BagError as error:
                if len(self._files) == 1:
                    raise
                self._notices[f"{error}; it is skipped"] = None
                continue
            self._note(path, source)
            self.topics |= {t: k for t, k in source.topics.items() if self._name(t).startswith(self.namespace)}
            self._definitions |= source.definitions
            if source.topics:
                spans.append((source.start_ns, source.end_ns))
        if not spans and len(self._notices) > len(notices):
            raise BagError(
                f"{self.path}: none of its {len(self._files)} files can be read; {next(iter(self._notices))}"
            )
        self.start_ns, self.end_ns = min((s for s, _ in spans), default=0), max((e for _, e in spans), default=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _source(self, path: Path) -> Source:
        """The open file; the one before it is closed."""
        if self._open is None or self._open[0] != path:
            self._close()
            with ExitStack() as stack:
                try:
                    source = open_source(stack.enter_context(readable(path)), path)
                except OSError as error:
                    raise BagError(f"{path} cannot be read ({describe(error)}); check it and its rights") from error
                stack.callback(source.close)
                self._open = (path, source, stack.pop_all())
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            self._open[2].close()
            self._open = None

    def _note(self, path: Path, source: Source) -> None:
        if source.notice:
            self._notices[f"{path} {source.notice}"] = None

    @staticmethod
    def _name(topic: str) -> str:
        return topic if topic.startswith("/") else f"/{topic}"  # ROS 1 has relative ones

    def find(self, topic: str, message_type: str) -> str | None:
        """The bag's name of the contract's `topic`, in whatever namespace; None if it is not there.

        Raises BagError if several topics fit, or if the only ones are of another type.
        """
        named = self._named(topic)
        fitting = sorted(t for t, k in named.items() if k == message_type)
        if len(fitting) > 1:
            raise BagError(
                f"{self.path}: '{topic}' could be any of {', '.join(fitting)}; choose one robot with its namespace, "
                "or one topic with a remap"
            )
        if named and not fitting:
            found = ", ".join(f"{t} [{k}]" for t, k in named.items())
            raise BagError(
                f"{self.path}: '{topic}' must be {message_type}, the bag has {found}; remap or record it again"
            )
        if not fitting and topic.lstrip("/") in self._remaps:
            raise BagError(
                f"{self.path} has no topic '{self._remaps[topic.lstrip('/')]}', to which '{topic}' is remapped; "
                f"it has {self.contents()}"
            )
        return fitting[0] if fitting else None

    def offers(self, topic: str, message_type: str) -> bool:
        """Whether some topic of the bag fits."""
        return message_type in self._named(topic).values()

    def _named(self, topic: str) -> dict[str, str]:
        sought = self._remaps.get(topic.lstrip("/"), topic)
        relative = sought[:1] != "/"
        return {
            t: k
            for t, k in self.topics.items()
            if self._name(t) == sought or (relative and self._name(t).endswith(f"/{sought}"))
        }

    def tell(self, progress: Progress | None, now_ns: int) -> None:
        """Progress, from the receive time of the message that was read last."""
        if progress is not None:
            progress((now_ns - self.start_ns) * 1e-9, (self.end_ns - self.start_ns) * 1e-9)

    def contents(self) -> str:
        """The topics with their types, for error messages."""
        return ", ".join(f"{t} [{k}]" for t, k in sorted(self.topics.items())) or "no messages"

    def records(self, wanted: Collection[str]) -> Iterator[Record]:
        """Messages of the wanted topics in the order of their receive times, read as they are asked for.

        Raises BagError if the first message of a topic cannot be decoded; later ones are left out and counted.
        """
        decode = self._types.deserialize_ros1 if self._ros1 else self._types.deserialize_cdr
        decoded = set()
        for topic, message_type, receive_ns, data in self.raw(wanted):
            try:
                message = decode(data, message_type)
            except Exception as error:  # of many unrelated types
                if topic not in decoded:
                    raise BagError(
                        f"{self.path}: '{topic}' cannot be decoded as {message_type} ({describe(error)}); "
                        "it was recorded with another definition of that type, or is damaged"
                    ) from error
                self.undecodable[topic] = self.undecodable.get(topic, 0) + 1
                continue
            decoded.add(topic)
            yield Record(topic, message, receive_ns)

    def raw(self, wanted: Collection[str]) -> Iterator[tuple[str, str, int, bytes]]:
        """Topic, type, receive time and serialised content of the same messages."""
        here = {t for t in wanted if t in self.topics}
        for path in self._files if here else ():
            try:
                source = self._source(path)
            except BagError:
                continue  # noticed when the bag was opened
            for topic, message_type, receive_ns, data in source.messages(here):
                if message_type == self.topics[topic]:
                    yield topic, message_type, receive_ns, _unpacked(data) if data[:4] == _PACKED else data
            self._note(path, source)

    def definition(self, message_type: str) -> tuple[str, str] | None:
        """Text and RIHS01 digest of a type for ROS 2; None if neither the bag nor ROS 2 defines what the bag holds."""
        if message_type in self._definitions:
            return self._definitions[message_type]
        types = standard_types()
        if message_type not in types.fielddefs or (self._ros1 and not _same_in_both(message_type)):
            return None
        return types.generate_msgdef(message_type, ros_version=2)[0], types.hash_rihs01(message_type)

    def as_cdr(self, message_type: str, data: bytes) -> bytes | memoryview:
        """The content of a message from `raw`, of a type that has a `definition`, as ROS 2 serialises it."""
        return standard_types().ros1_to_cdr(data, message_type) if self._ros1 else data


@cache
def standard_types(ros1: bool = False) -> Typestore:
    """The messages that come with ROS; a bag may tell nothing of its types."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)


def _same_in_both(message_type: str) -> bool:
    """Whether ROS 1 and ROS 2 define a type alike, but for the counter in the header."""
    old, new = (standard_types(r).generate_msgdef(message_type, ros_version=1)[0] for r in (True, False))
    return old.replace("uint32 seq\n", "") == new


def _unpacked(data: bytes) -> bytes:
    import zstandard

    try:
        size = zstandard.get_frame_parameters(data).content_size
        # Where the frame does not tell its size, that is the largest number.
        small = size <= _LARGEST_MESSAGE or size == zstandard.CONTENTSIZE_UNKNOWN
        return zstandard.ZstdDecompressor().decompress(data, _LARGEST_MESSAGE) if small else b""
    except zstandard.ZstdError:
        return b""  # which no message can be decoded from
