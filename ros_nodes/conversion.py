"""ROS messages from arrays: vectors with names, and sensor readings (the way back from `runtime.messages`)."""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped, Twist
from rclpy.time import Time
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from runtime.contract import Observation

MESSAGE_TYPES: dict[str, type] = {
    "sensor_msgs/msg/JointState": JointState,
    "geometry_msgs/msg/PointStamped": PointStamped,
    "sensor_msgs/msg/Imu": Imu,
    "geometry_msgs/msg/Twist": Twist,
    "std_msgs/msg/Float64MultiArray": Float64MultiArray,
}
"""Python class of every message type in `runtime.messages.KINDS`."""

Readings = list[tuple[Observation, np.ndarray]]
"""Observations of one topic, each with its SI values (n,)."""


def named_vector(names: Sequence[str]) -> Float64MultiArray:
    """An empty message for vectors of `len(names)` numbers; the label of its one dimension lists the names."""
    message = Float64MultiArray()
    message.layout.dim = [MultiArrayDimension(label=",".join(names), size=len(names), stride=len(names))]
    return message


def fill(message: Float64MultiArray, values: np.ndarray) -> Float64MultiArray:
    """Put `values` (n,) into the message and return it; ten times faster than a list."""
    message.data = array.array("d", np.asarray(values, dtype=np.float64).tobytes())
    return message


def stamp_ns(message: Any) -> int | None:
    """Time of the message's header in ns; None if it has no header or the stamp was left zero."""
    header = getattr(message, "header", None)
    if header is None:
        return None
    return (header.stamp.sec * 1_000_000_000 + header.stamp.nanosec) or None


def _joint_state(readings: Readings, stamp: Time) -> JointState:
    names = list(dict.fromkeys(name for observation, _ in readings for name in observation.channels))
    message = JointState(name=names)
    message.header.stamp = stamp.to_msg()
    for observation, values in readings:
        column = dict(zip(observation.channels, values.tolist()))
        setattr(message, observation.kind.removeprefix("joint_"), [column.get(name, float("nan")) for name in names])
    return message


def _point(readings: Readings, stamp: Time) -> PointStamped:
    message = PointStamped()
    message.header.stamp = stamp.to_msg()
    message.point.x, message.point.y, message.point.z = readings[0][1].tolist()
    return message


def _imu(readings: Readings, stamp: Time) -> Imu:
    message = Imu()
    message.header.stamp = stamp.to_msg()
    for observation, values in readings:
        kind, axes, numbers = observation.kind, observation.channels, values
        if kind == "gravity":
            kind, axes, numbers = "orientation", ("x", "y", "z", "w"), _tilt(values)
        vector = getattr(message, kind)
        for axis, value in zip(axes, numbers.tolist()):
            setattr(vector, axis, value)
    return message


def _tilt(gravity: np.ndarray) -> np.ndarray:
    """Orientation (x, y, z, w) without yaw of a body that sees gravity in the direction (3,)."""
    x, y, z = -gravity
    roll, pitch = 0.5 * np.arctan2(y, z), -0.5 * np.arctan2(x, np.hypot(y, z))
    cr, sr, cp, sp = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch)
    return np.array([sr * cp, cr * sp, -sr * sp, cr * cp])


def _twist(readings: Readings, stamp: Time) -> Twist:
    message = Twist()
    parts = {"v": message.linear, "w": message.angular}
    for observation, values in readings:
        for channel, value in zip(observation.channels, values.tolist()):
            setattr(parts[channel[0]], channel[1], value)
    return message


def _array(readings: Readings, stamp: Time) -> Float64MultiArray:
    observation, values = readings[0]
    return fill(named_vector(observation.channels), values)


_BUILDERS: dict[str, Callable[[Readings, Time], Any]] = {
    "sensor_msgs/msg/JointState": _joint_state,
    "geometry_msgs/msg/PointStamped": _point,
    "sensor_msgs/msg/Imu": _imu,
    "geometry_msgs/msg/Twist": _twist,
    "std_msgs/msg/Float64MultiArray": _array,
}


def sensor_message(message_type: str, readings: Readings, stamp: Time) -> Any:
    """The message of one topic from the readings that it carries; absent quantities are NaN or the ROS default."""
    return _BUILDERS[message_type](readings, stamp)
