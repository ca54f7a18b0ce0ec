"""Bags written by the tests: a controller's own recording, and raw sensor topics."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rosbags import rosbag1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.safety import Request
from runtime.sample import Sample
from runtime.telemetry import pack, pack_state

TYPES = get_typestore(Stores.ROS2_JAZZY)
EPOCH = 1_700_000_000_000_000_000
PERIOD = 10_000_000
ARRAY = "std_msgs/msg/Float64MultiArray"


def array(values: Iterable[float]) -> Any:
    layout = TYPES.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return TYPES.types[ARRAY](layout=layout, data=np.array(list(values), dtype=np.float64))


def named_array(values: list[float], label: str) -> Any:
    """Whose layout names the numbers, as the node's vectors do."""
    message = array(values)
    size = len(values)
    message.layout.dim.append(TYPES.types["std_msgs/msg/MultiArrayDimension"](label=label, size=size, stride=size))
    return message


def trajectory(names: list[str], **columns: list[float]) -> Any:
    """One point with `positions`, `velocities`, `accelerations` or `effort`; no point if there is none of them."""
    fields = {name: np.array(columns.get(name, [])) for name in ("positions", "velocities", "accelerations", "effort")}
    zero = TYPES.types["builtin_interfaces/msg/Duration"](sec=0, nanosec=0)
    point = TYPES.types["trajectory_msgs/msg/JointTrajectoryPoint"](**fields, time_from_start=zero)
    return TYPES.types["trajectory_msgs/msg/JointTrajectory"](header(), names, [point] if columns else [])


def header() -> Any:
    return TYPES.types["std_msgs/msg/Header"](
        stamp=TYPES.types["builtin_interfaces/msg/Time"](sec=0, nanosec=0), frame_id=""
    )


def joint_state(positions: dict[str, float], velocities: dict[str, float] | None = None) -> Any:
    speeds = list((velocities or {}).values())
    return TYPES.types["sensor_msgs/msg/JointState"](
        header=header(),
        name=list(positions),
        position=np.array(list(positions.values())),
        velocity=np.array(speeds),
        effort=np.zeros(0),
    )


def twist(vx: float, wz: float) -> Any:
    vector = TYPES.types["geometry_msgs/msg/Vector3"]
    return TYPES.types["geometry_msgs/msg/Twist"](linear=vector(x=vx, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=wz))


class BagWriter:
    """Messages by topic; a context manager."""

    def __init__(
        self,
        path: Path,
        storage: StoragePlugin = StoragePlugin.MCAP,
        compression: CompressionMode = CompressionMode.NONE,
    ) -> None:
        self._writer = Writer(path, version=9, storage_plugin=storage)
        self._writer.set_compression(compression, CompressionFormat.ZSTD)
        self._connections: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> BagWriter:
        self._stack.enter_context(self._writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, topic: str, message: Any, receive_ns: int) -> None:
        name = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, name, typestore=TYPES)
        self._writer.write(self._connections[topic], receive_ns, TYPES.serialize_cdr(message, name))


TYPES1 = get_typestore(Stores.ROS1_NOETIC)


def write_ros1(
    path: Path, messages: Iterable[tuple[str, Any, int]], packing: rosbag1.Writer.CompressionFormat | None = None
) -> Path:
    """A ROS 1 bag of (topic, ROS 2 message, receive time)."""
    writer = rosbag1.Writer(path)
    if packing is not None:
        writer.set_compression(packing)
    connections: dict[str, Any] = {}
    with writer:
        for topic, message, receive_ns in messages:
            name = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=TYPES1)
            data = TYPES.cdr_to_ros1(TYPES.serialize_cdr(message, name), name)
            writer.write(connections[topic], receive_ns, data)
    return path


@dataclass(eq=False)
class Record:
    """One recorded vector."""

    topic: str
    vector: np.ndarray
    receive_ns: int


@dataclass
class Recording:
    """What a controller node would have recorded; edit `records`, then write."""

    bundle: Bundle
    namespace: str = ""
    records: list[Record] = field(default_factory=list)
    now_ns: int = EPOCH

    def run(self, activation: int, ticks: int, seed: int) -> None:
        """One activation: noisy readings, some lost, some stale, K changed on the way, a pose that comes late.

        It engages smoothly, and is stopped from tick 150 to 179.
        """
        controller = Controller(self.bundle, engage_s=0.2)
        layout, rng = controller.layout, np.random.default_rng(seed)
        sample = Sample(self.bundle.contract)
        self._add("state", pack_state(controller.state(), activation, 0))
        for tick in range(ticks):
            if tick in (150, 180):
                controller.request(Request.STOP if tick == 150 else Request.ENGAGE, "somebody asks")
            self.now_ns += PERIOD + int(rng.integers(0, 50_000))
            if tick >= 2:
                sample.put_flat(layout.mean + 0.3 * layout.scale * rng.standard_normal(layout.size), self.now_ns - 500)
                lost = rng.random(layout.size) < 0.03
                sample.values[lost & (tick > 2)] = np.nan
                sample.stamp_ns[rng.random(layout.size) < 0.02 * (tick > 2)] -= 10**9
                if 40 <= tick < 100:
                    sample.values[layout.slices["target"]] = np.nan
            controller.refine = tick // 50 % 4
            command = controller.tick(sample, self.now_ns)
            vector = pack(
                self.bundle.contract,
                sample,
                self.now_ns,
                command,
                activation=activation,
                tick=tick,
                late=False,
                tick_us=100.0,
                latency_us=np.nan,
            )
            self._add("telemetry", vector)
            if (tick + 1) % 100 == 0:
                self._add("state", pack_state(controller.state(), activation, tick + 1))

    def _add(self, topic: str, vector: np.ndarray) -> None:
        self.records.append(Record(f"{self.namespace}/controller/{topic}", vector, self.now_ns))

    def ticks(self) -> list[Record]:
        return [r for r in self.records if r.topic.endswith("/telemetry")]

    def write(
        self,
        path: Path,
        storage: StoragePlugin = StoragePlugin.MCAP,
        compression: CompressionMode = CompressionMode.NONE,
    ) -> Path:
        with BagWriter(path, storage, compression) as bag:
            for r in self.records:
                bag.write(r.topic, array(r.vector), r.receive_ns)
        return path
