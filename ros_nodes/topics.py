"""Topics of the controller whose names and quality of service are parameters.

`topics.NAME` is the name of the contract's topic NAME, read when configuring; remapping works on top of it. The
standard `qos_overrides./TOPIC.publisher.reliability`, and so on, are given when the node is started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidTopicNameException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

from ros_nodes.polling import PolledSubscription, Waiter
from runtime.errors import ContractError

NAMES = "topics."
"""Prefix of the parameters with the topics' names."""


def overriding() -> QoSOverridingOptions:
    """Reliability, history and depth are parameters."""
    return QoSOverridingOptions.with_default_policies()


def subscribe(node: Node, message_type: type, topic: str, qos: QoSProfile) -> PolledSubscription:
    """A subscription with its QoS as parameters. Raises ContractError if ROS refuses the name or the QoS."""
    with _explained(topic):
        return PolledSubscription(node, message_type, topic, qos, overriding=overriding())


class Topics:
    """The topics of one configuration; `close` leaves them."""

    def __init__(self, node: Any) -> None:
        """Only of a lifecycle node can publishers be made."""
        self._node = node
        self._opened = ExitStack()

    def named(self, topic: str) -> str:
        """What the node's parameter calls the contract's `topic`; the parameter is declared if it is not yet."""
        parameter = NAMES + topic
        if not self._node.has_parameter(parameter):
            description = f"name of the topic that the bundle calls '{topic}'; read when configuring"
            self._node.declare_parameter(parameter, topic, ParameterDescriptor(description=description))
        return str(self._node.get_parameter(parameter).value)

    def resolved(self, topic: str) -> str:
        """Full name of the contract's `topic` on the graph. Raises ContractError if ROS refuses it."""
        name = self.named(topic)
        with _explained(name):
            return str(self._node.resolve_topic_name(name))

    def publisher(self, message_type: type, topic: str, qos: QoSProfile) -> Any:
        """A lifecycle publisher. Raises ContractError if ROS refuses the name or the QoS."""
        with _explained(topic):
            made = self._node.create_lifecycle_publisher(message_type, topic, qos, qos_overriding_options=overriding())
        self._opened.callback(self._node.destroy_lifecycle_publisher, made)
        return made

    def subscription(self, message_type: type, topic: str, qos: QoSProfile) -> PolledSubscription:
        """A subscription. Raises ContractError if ROS refuses the name or the QoS."""
        made = subscribe(self._node, message_type, topic, qos)
        self._opened.callback(made.destroy)
        return made

    def waiter(self, subscriptions: Sequence[PolledSubscription]) -> Waiter:
        """Waits for any of the `subscriptions`."""
        made = Waiter(self._node, subscriptions)
        self._opened.callback(made.close)
        return made

    def close(self) -> None:
        """Leave every topic."""
        self._opened.close()


@contextmanager
def _explained(topic: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, InvalidTopicNameException, InvalidParameterTypeException) as error:
        reason = " ".join(str(error).split())
        raise ContractError(
            f"the topic '{topic}' cannot be opened ({reason}); correct its name ({NAMES}NAME) or its qos_overrides: "
            "reliability is 'reliable' or 'best_effort', history 'keep_last' or 'keep_all', depth a number"
        ) from error
