"""Commands as the messages that drivers take: made once, and filled in every tick."""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Twist
from rclpy.clock import Clock
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ros_nodes.conversion import named_vector
from runtime.commands import ARRAY, POINT_FIELDS, TWIST, TWIST_AXES
from runtime.contract import Contract
from runtime.errors import ContractError

JOINT_STATE = "sensor_msgs/msg/JointState"
COMMAND_TYPES: dict[str, type] = {
    ARRAY: Float64MultiArray,
    "trajectory_msgs/msg/JointTrajectory": JointTrajectory,
    JOINT_STATE: JointState,
    TWIST: Twist,
}
"""Python class of every message type in which commands can be sent."""


def command_qos() -> QoSProfile:
    """Reliable, and the newest command alone: an older one is of no use."""
    return QoSProfile(depth=1)


def check_type(message_type: str) -> None:
    """Raises ContractError unless commands can be sent so."""
    if message_type not in COMMAND_TYPES:
        raise ContractError(f"command_type is '{message_type}', expected one of {', '.join(COMMAND_TYPES)}")


@dataclass(frozen=True)
class CommandFormat:
    """How commands are sent. Raises ContractError unless `order` are the `joints` in some order."""

    message_type: str
    """A key of COMMAND_TYPES."""
    kind: str
    """That of the contract's action."""
    joints: Sequence[str]
    """As in the vectors (A,)."""
    order: Sequence[str]
    """As in the message."""
    period_s: float

    @staticmethod
    def of(
        contract: Contract, message_type: str = ARRAY, order: Sequence[str] = (), rate_hz: float = 0.0
    ) -> CommandFormat:
        """For the contract's action; its own order and rate where none is given."""
        action, period_s = contract.action, 1.0 / (rate_hz or contract.rate_hz)
        return CommandFormat(message_type, action.kind, action.joints, order or action.joints, period_s)

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(self.joints):
            raise ContractError(
                f"command_joints is {', '.join(self.order)}; expected the bundle's {len(self.joints)} joints in the "
                f"driver's order, each once: {', '.join(self.joints)}"
            )
        if self.message_type == TWIST and not set(self.joints) <= {*TWIST_AXES}:
            raise ContractError(
                f"command_type is '{TWIST}', which commands {', '.join(TWIST_AXES)}; the bundle commands "
                f"{', '.join(self.joints)}: choose another of {', '.join(COMMAND_TYPES)}"
            )


class CommandMessage:
    """One message, filled anew for every command."""

    def __init__(self, form: CommandFormat, clock: Clock) -> None:
        """`clock` stamps joint states.

        A trajectory is one point, due in a period. Its stamp stays zero, which means from now on: a trajectory
        controller throws away what ended in the past, as a stamped command that is a little late would have.
        """
        self._index = np.array([form.joints.index(j) for j in form.order])
        self._clock: Clock | None = None
        self._axes: tuple[str, ...] = ()
        self._message: Any
        self._values: Any  # the part of it that holds the numbers
        names = list(form.order)
        if form.message_type == ARRAY:
            self._message = self._values = named_vector(names)
            self._attribute = "data"
        elif form.message_type == TWIST:
            self._message, self._axes = Twist(), tuple(names)
        elif form.message_type == JOINT_STATE:
            self._message = self._values = JointState(name=names)
            self._attribute, self._clock = form.kind, clock
        else:
            self._values = JointTrajectoryPoint(time_from_start=Duration(seconds=form.period_s).to_msg())
            self._message = JointTrajectory(joint_names=names, points=[self._values])
            self._attribute = POINT_FIELDS[form.kind]

    def fill(self, values: np.ndarray) -> Any:
        """The message with `values` (A,) in the order of `joints`; the same object every time."""
        if self._axes:
            for axis, value in zip(self._axes, values[self._index].tolist()):
                setattr(self._message.linear if axis[0] == "v" else self._message.angular, axis[1], value)
            return self._message
        setattr(self._values, self._attribute, array.array("d", values[self._index].tobytes()))
        if self._clock is not None:
            self._message.header.stamp = self._clock.now().to_msg()
        return self._message
