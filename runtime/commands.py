"""Commands read from ROS messages, by attribute: simulated robot and replay understand the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from runtime.contract import Action

ARRAY = "std_msgs/msg/Float64MultiArray"
"""The type whose numbers have no names of their own."""
TWIST = "geometry_msgs/msg/Twist"
"""The type that commands a body instead of joints."""
TWIST_AXES = ("vx", "vy", "vz", "wx", "wy", "wz")
"""Names of its numbers, m/s and rad/s, in the place of joints."""
POINT_FIELDS = {"position": "positions", "velocity": "velocities", "effort": "effort"}
"""Attribute of a trajectory's point for every kind of action."""


def _from_array(message: Any, action: Action) -> Iterable[float]:
    """By name if the layout lists the joints, as Ganglion's own commands do; else in the contract's order."""
    names = [name for dimension in message.layout.dim for name in dimension.label.split(",")]
    if sorted(names) == sorted(action.joints):
        return _by_name(names, message.data, action)
    return message.data


def _from_joint_state(message: Any, action: Action) -> Iterable[float]:
    return _by_name(message.name, getattr(message, action.kind), action)


def _from_trajectory(message: Any, action: Action) -> Iterable[float]:
    point = message.points[0] if message.points else None
    return _by_name(message.joint_names, getattr(point, POINT_FIELDS[action.kind], ()), action)


def _from_twist(message: Any, action: Action) -> Iterable[float]:
    v, w = message.linear, message.angular
    return _by_name(TWIST_AXES, (v.x, v.y, v.z, w.x, w.y, w.z), action)


def _by_name(names: Iterable[str], values: Iterable[float], action: Action) -> Iterable[float]:
    found = dict(zip(names, values))
    return [found.get(joint, np.nan) for joint in action.joints]


_READERS: dict[str, Callable[[Any, Action], Iterable[float]]] = {
    ARRAY: _from_array,
    "trajectory_msgs/msg/JointTrajectory": _from_trajectory,
    "sensor_msgs/msg/JointState": _from_joint_state,
    TWIST: _from_twist,
}
_LARGEST = 1e9
READABLE = tuple(_READERS)
"""Message types that `read_command` takes."""


def read_command(message: Any, message_type: str, action: Action) -> np.ndarray | None:
    """SI command (A,) in the action's order; None if it does not hold a sane value for every joint."""
    values = np.array(_READERS[message_type](message, action), dtype=np.float64)
    return values if values.shape == (len(action.joints),) and sane(values) else None


def sane(command: np.ndarray) -> bool:
    """Whether a recorded command is finite, and below what no joint does in any SI unit."""
    return bool((np.abs(command) <= _LARGEST).all())
