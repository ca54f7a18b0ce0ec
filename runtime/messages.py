"""ROS messages to sensor readings, by attribute: the same code serves rclpy messages and those decoded from a bag.

It lives in runtime, not in ros_nodes, because replay must convert exactly as the node does and may not import rclpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.contract import Observation
from runtime.errors import ContractError
from runtime.sample import Sample


def _joint(attribute: str) -> Callable[[Any, Observation, Sample, int], None]:
    def convert(message: Any, observation: Observation, sample: Sample, stamp_ns: int) -> None:
        values = getattr(message, attribute)
        for name, value in zip(message.name, values):
            sample.put_channel(observation.name, name, float(value), stamp_ns)

    return convert


def _axes(path: str, axes: str) -> Callable[[Any, Observation, Sample, int], None]:
    def convert(message: Any, observation: Observation, sample: Sample, stamp_ns: int) -> None:
        vector = message
        for attribute in path.split("."):
            vector = getattr(vector, attribute)
        values = np.array([getattr(vector, a) for a in axes], dtype=np.float64)
        sample.put(observation.name, values, stamp_ns)

    return convert


def _twist(message: Any, observation: Observation, sample: Sample, stamp_ns: int) -> None:
    parts = {"v": message.linear, "w": message.angular}
    values = np.array([getattr(parts[c[0]], c[1]) for c in observation.channels], dtype=np.float64)
    sample.put(observation.name, values, stamp_ns)


def _gravity(message: Any, observation: Observation, sample: Sample, stamp_ns: int) -> None:
    q = message.orientation
    sample.put(observation.name, gravity_direction(np.array([q.x, q.y, q.z, q.w], dtype=np.float64)), stamp_ns)


def _array(message: Any, observation: Observation, sample: Sample, stamp_ns: int) -> None:
    if len(message.data) == len(observation.channels):
        sample.put(observation.name, np.array(message.data, dtype=np.float64), stamp_ns)


def gravity_direction(quaternion: np.ndarray) -> np.ndarray:
    """Direction of gravity (3,) in a body's frame, from its orientation (x, y, z, w).

    NaN if that is far from a unit quaternion.
    """
    length = math.hypot(*quaternion)
    if not 0.1 < length < 10.0:
        return np.full(3, np.nan)
    x, y, z, w = quaternion / length
    return np.array([2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1])


@dataclass(frozen=True)
class Kind:
    """How one kind of observation travels in ROS."""

    message_type: str
    channels: tuple[str, ...] | None
    """Fixed channel names in order; None if they are joint names."""
    convert: Callable[[Any, Observation, Sample, int], None]
    """(message, observation, sample, receive time in ns) puts the reading into the sample."""


KINDS: dict[str, Kind] = {
    "joint_position": Kind("sensor_msgs/msg/JointState", None, _joint("position")),
    "joint_velocity": Kind("sensor_msgs/msg/JointState", None, _joint("velocity")),
    "joint_effort": Kind("sensor_msgs/msg/JointState", None, _joint("effort")),
    "point": Kind("geometry_msgs/msg/PointStamped", ("x", "y", "z"), _axes("point", "xyz")),
    "orientation": Kind("sensor_msgs/msg/Imu", ("x", "y", "z", "w"), _axes("orientation", "xyzw")),
    "angular_velocity": Kind("sensor_msgs/msg/Imu", ("x", "y", "z"), _axes("angular_velocity", "xyz")),
    "linear_acceleration": Kind("sensor_msgs/msg/Imu", ("x", "y", "z"), _axes("linear_acceleration", "xyz")),
    "gravity": Kind("sensor_msgs/msg/Imu", ("x", "y", "z"), _gravity),
    "planar_twist": Kind("geometry_msgs/msg/Twist", ("vx", "vy", "wz"), _twist),
    "array": Kind("std_msgs/msg/Float64MultiArray", None, _array),
    "twist": Kind("geometry_msgs/msg/Twist", ("vx", "vy", "vz", "wx", "wy", "wz"), _twist),
}


def kind_of(observation: Observation) -> Kind:
    """The kind of an observation. Raises ContractError if it is unknown or its channels do not fit."""
    kind = KINDS.get(observation.kind)
    if kind is None:
        raise ContractError(
            f"observation '{observation.name}' has kind '{observation.kind}', expected one of {', '.join(KINDS)}"
        )
    if kind.channels is not None and kind.channels != observation.channels:
        raise ContractError(
            f"observation '{observation.name}' of kind '{observation.kind}' has channels {list(observation.channels)}, "
            f"expected {list(kind.channels)}"
        )
    return kind


def topics(observations: tuple[Observation, ...]) -> dict[str, tuple[str, tuple[Observation, ...]]]:
    """Per topic: its message type and the observations that it carries.

    Raises ContractError if one topic would need two message types.
    """
    result: dict[str, tuple[str, tuple[Observation, ...]]] = {}
    for o in observations:
        message_type = kind_of(o).message_type
        known_type, carried = result.get(o.topic, (message_type, ()))
        if known_type != message_type:
            raise ContractError(
                f"topic '{o.topic}' would carry both {known_type} and {message_type}; give each its own"
            )
        result[o.topic] = (message_type, (*carried, o))
    return result


def deliver(message: Any, observations: tuple[Observation, ...], sample: Sample, stamp_ns: int) -> None:
    """Put one message of a topic into the sample, for every observation that the topic carries."""
    for o in observations:
        KINDS[o.kind].convert(message, o, sample, stamp_ns)
