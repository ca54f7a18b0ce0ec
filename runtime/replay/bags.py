"""ROS 2 bags as streams of messages, with errors that say what was got and what to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from runtime.errors import BagError

if TYPE_CHECKING:
    from rosbags.rosbag2 import Reader
    from rosbags.typesys.store import Typestore

T = TypeVar("T")

Progress = Callable[[float, float], None]
"""Called with the seconds of the bag that are done, and all of them."""


@dataclass(frozen=True)
class Record:
    """One message of a bag."""

    topic: str
    message: Any
    """Decoded; fields as attributes, as in rclpy."""
    receive_ns: int
    """When the recorder received it."""


class Bag:
    """A bag directory, or a bare .mcap or .db3 file; a context manager.

    Topics of unknown types are listed but never decoded. Everything that goes wrong is a BagError.
    """

    def __init__(self, path: Path, namespace: str = "") -> None:
        """Only the topics below `namespace` are seen, all of them if it is empty."""
        self.path = path
        self.namespace = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
        self.topics: dict[str, str] = {}
        """Message type of every topic that holds messages."""
        self.start_ns = self.end_ns = 0
        """Receive times of the first message, and of the last one plus 1 ns."""
        self._reader: Reader
        self._types: Typestore

    def __enter__(self) -> Bag:
        from rosbags.rosbag2 import Reader
        from rosbags.typesys import Stores, get_typestore

        self._types = get_typestore(Stores.ROS2_JAZZY)
        if not self.path.exists():
            raise BagError(f"there is no bag at {self.path}; check the path")
        if self.path.is_dir() and not (self.path / "metadata.yaml").exists():
            raise BagError(
                f"{self.path} is a directory without metadata.yaml, so not a complete bag; "
                "give the .mcap or .db3 file inside it, or run 'ros2 bag reindex' on it"
            )
        self._reader = self._try(lambda: Reader(self.path))
        self._try(self._reader.open)
        connections = [c for c in self._reader.connections if c.topic.startswith(self.namespace) and c.msgcount > 0]
        self.topics = {c.topic: c.msgtype for c in connections}
        self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def _try(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except Exception as error:  # the storage libraries raise many unrelated types
            detail = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BagError(
                f"{self.path} cannot be read as a ROS 2 bag ({detail}); expected a bag directory, or an .mcap or .db3 "
                "file that is complete: copy or record it again"
            ) from error

    def find(self, topic: str, message_type: str) -> str | None:
        """The bag's name of the contract's `topic`, in whatever namespace; None if it is not there.

        Raises BagError if several topics fit, or if the only ones are of another type.
        """
        named = self._named(topic)
        fitting = sorted(t for t, k in named.items() if k == message_type)
        if len(fitting) > 1:
            raise BagError(
                f"{self.path}: '{topic}' could be any of {', '.join(fitting)}; choose one robot with its namespace"
            )
        if named and not fitting:
            found = ", ".join(f"{t} [{k}]" for t, k in named.items())
            raise BagError(
                f"{self.path}: '{topic}' must be {message_type}, the bag has {found}; remap or record it again"
            )
        return fitting[0] if fitting else None

    def offers(self, topic: str, message_type: str) -> bool:
        """Whether some topic of the bag fits."""
        return message_type in self._named(topic).values()

    def _named(self, topic: str) -> dict[str, str]:
        return {t: k for t, k in self.topics.items() if t == topic or (topic[:1] != "/" and t.endswith(f"/{topic}"))}

    def tell(self, progress: Progress | None, now_ns: int) -> None:
        """Progress, from the receive time of the message that was read last."""
        if progress is not None:
            progress((now_ns - self.start_ns) * 1e-9, (self.end_ns - self.start_ns) * 1e-9)

    def contents(self) -> str:
        """The topics with their types, for error messages."""
        return ", ".join(f"{t} [{k}]" for t, k in sorted(self.topics.items())) or "no messages"

    def records(self, wanted: Collection[str]) -> Iterator[Record]:
        """Messages of the wanted topics in the order of their receive times, read as they are asked for."""
        connections = [c for c in self._reader.connections if c.topic in wanted]
        if not connections:
            return
        stream = self._try(lambda: iter(self._reader.messages(connections)))
        while (item := self._try(lambda: next(stream, None))) is not None:
            connection, receive_ns, data = item
            message = self._try(lambda c=connection, d=data: self._types.deserialize_cdr(d, c.msgtype))  # type: ignore[misc]
            yield Record(connection.topic, message, receive_ns)
