"""The course of a replay as topics of an MCAP file, beside the topics of the bag: for Foxglove and PlotJuggler."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.contract import Contract
from runtime.files import replacing
from runtime.replay.bags import Bag, standard_types
from runtime.replay.timeline import Observer, Row
from runtime.safety import Status
from runtime.sensing import Reason

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.rosbag2 import Writer

PREFIX = "/ganglion"
_JOINT_STATE, _NUMBER, _VECTOR = "sensor_msgs/msg/JointState", "std_msgs/msg/Float64", "std_msgs/msg/Float64MultiArray"
_DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
_LEVELS = {Status.ACTIVE: 0, Status.ENGAGING: 0, Status.WAITING: 1, Status.HOLDING: 1, Status.STOPPED: 2}
_DIAGNOSTICS_NS = 1_000_000_000  # between two that tell the same


@contextmanager
def mcap_streams(path: Path, contract: Contract, bag: Path) -> Iterator[Observer]:
    """An observer that writes every tick to an MCAP file, which is there when the replay has ended well.

    The messages of the bag are copied as they are, with their times; topics whose type is defined neither in the bag
    nor by ROS are left out. Raises GanglionError if it cannot be written.
    """
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    with replacing(path) as temporary, tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        writer = Writer(Path(folder) / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with Bag(bag) as source, writer:
            originals, ticks = _Originals(source, writer), _Ticks(writer, contract)

            def observe(row: Row) -> None:
                originals.copy_until(row.time_ns)
                ticks.write(row)

            yield observe
            originals.copy_until(2**63 - 1)
        (written,) = (Path(folder) / "bag").glob("*.mcap")
        written.replace(temporary)


class _Originals:
    """Copies the messages of the bag in their order."""

    def __init__(self, bag: Bag, writer: Writer) -> None:
        self._writer, self._bag = writer, bag
        self._connections = {t: c for t, kind in bag.topics.items() if (c := self._connection(t, kind)) is not None}
        self._messages = bag.raw(self._connections)
        self._next = next(self._messages, None)

    def _connection(self, topic: str, message_type: str) -> Connection | None:
        name = topic if topic.startswith("/") else f"/{topic}"
        if name.startswith(f"{PREFIX}/"):
            return None  # from a replay before
        definition = self._bag.definition(message_type)
        if definition is None:
            return None
        text, digest = definition
        return self._writer.add_connection(name, message_type, msgdef=text, rihs01=digest)

    def copy_until(self, time_ns: int) -> None:
        while self._next is not None and self._next[2] <= time_ns:
            topic, message_type, receive_ns, data = self._next
            with suppress(Exception):  # of many unrelated types: a damaged message of ROS 1 is left out
                content = self._bag.as_cdr(message_type, data)
                self._writer.write(self._connections[topic], receive_ns, content)
            self._next = next(self._messages, None)


class _Ticks:
    """Writes what a tick saw and did as messages of standard types."""

    def __init__(self, writer: Writer, contract: Contract) -> None:
        self._writer, self._contract = writer, contract
        self._types = standard_types()
        self._connections: dict[str, Connection] = {}
        self._told: tuple[Any, ...] = ()
        self._told_ns = -_DIAGNOSTICS_NS
        self._names = self._layout(contract.layout.channels)

    def _layout(self, names: tuple[str, ...]) -> Any:
        """Whose label names the elements of a vector, as the telemetry's does."""
        dimension = self._message(
            "std_msgs/msg/MultiArrayDimension", label=",".join(names), size=len(names), stride=len(names)
        )
        return self._message("std_msgs/msg/MultiArrayLayout", dim=[dimension], data_offset=0)

    def _message(self, message_type: str, **fields: Any) -> Any:
        return self._types.types[message_type](**fields)

    def _write(self, topic: str, time_ns: int, message: Any) -> None:
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(f"{PREFIX}/{topic}", kind, typestore=self._types)
        self._writer.write(self._connections[topic], time_ns, self._types.serialize_cdr(message, kind))

    def write(self, row: Row) -> None:
        c, time_ns = row.command, row.time_ns
        if c.status is not Status.WAITING:
            self._write("command", time_ns, self._joint_state(time_ns, c.values))
        if row.recorded is not None:
            self._write("recorded_command", time_ns, self._joint_state(time_ns, row.recorded))
        numbers = {
            "free_energy": c.free_energy,
            "surprise": row.surprise,
            "sustained_surprise": row.sustained_surprise,
            "refine": c.refine,
            "steps": c.steps,
            "status": c.status,
            "error": row.error,
            "tick_ms": 1e-3 * row.tick_us,
            "latency_ms": 1e-3 * row.latency_us,
        }
        for name, value in numbers.items():
            if value == value:
                self._write(name, time_ns, self._message(_NUMBER, data=float(value)))
        self._write(
            "innovation", time_ns, self._message(_VECTOR, layout=self._names, data=c.innovation.astype(np.float64))
        )
        self._write("masked", time_ns, self._message(_VECTOR, layout=self._names, data=c.reasons.astype(np.float64)))
        self._diagnose(row)

    def _diagnose(self, row: Row) -> None:
        """When the status or what is masked changes, and every second."""
        told = (row.command.status, row.command.reasons.tobytes())
        if told == self._told and row.time_ns - self._told_ns < _DIAGNOSTICS_NS:
            return
        self._told, self._told_ns = told, row.time_ns
        c = row.command
        masked = [(n, Reason(int(r)).text) for n, r in zip(self._contract.layout.channels, c.reasons) if r]
        status = self._message(
            "diagnostic_msgs/msg/DiagnosticStatus",
            level=max(_LEVELS[c.status], int(bool(masked))),
            name="ganglion replay",
            message=f"{c.status.name.lower()}{': ' if c.cause else ''}{c.cause}",
            hardware_id=self._contract.robot,
            values=[self._message("diagnostic_msgs/msg/KeyValue", key=f"masked {n}", value=text) for n, text in masked],
        )
        message = self._message(_DIAGNOSTICS, header=self._header(row.time_ns), status=[status])
        self._write("diagnostics", row.time_ns, message)

    def _header(self, time_ns: int) -> Any:
        seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
        stamp = self._message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._message("std_msgs/msg/Header", stamp=stamp, frame_id="")

    def _joint_state(self, time_ns: int, values: np.ndarray) -> Any:
        columns = dict.fromkeys(("position", "velocity", "effort"), np.zeros(0))
        columns[self._contract.action.kind] = np.asarray(values, np.float64)
        return self._message(
            _JOINT_STATE, header=self._header(time_ns), name=list(self._contract.action.joints), **columns
        )
