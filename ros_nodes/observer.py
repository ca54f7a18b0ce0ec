"""Sees what a robot publishes, who obeys its commands and who else gives them, for `runtime.preflight`."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from ros_nodes.commands import COMMAND_TYPES, CommandFormat, command_qos
from ros_nodes.conversion import MESSAGE_TYPES
from ros_nodes.polling import PolledSubscription
from ros_nodes.sensors import sensor_qos
from ros_nodes.topics import Topics
from runtime.contract import Contract
from runtime.messages import topics
from runtime.preflight import CommandTopic, Endpoint, SensorTopic, Window

_DEEP = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
_POLL_S = 0.005
_ANSWER_S = 1.0
UNNAMED = "_NODE_NAME_UNKNOWN_"
"""What ROS calls the node of an endpoint that is discovered before its node."""


def _endpoint(node: str, message_type: str, qos: QoSProfile) -> Endpoint:
    return Endpoint(node, message_type, qos.reliability.name.lower(), qos.durability.name.lower())


class Observer:
    """A node beside `owner`, whose names it resolves, that sees the contract's topics; a context manager.

    It needs no executor of its owner, so that it can be used in a callback.
    """

    def __init__(self, owner: Node, contract: Contract, form: CommandFormat) -> None:
        """Commands are of the `form`; the owner and its guard do not count among those who give them.

        Raises ContractError if ROS refuses the name of a topic.
        """
        self._owner, self._form = owner, form
        own, named = owner.get_fully_qualified_name(), Topics(owner)
        self._ignored = {own, f"{own}_guard"}
        self._node = Node(
            f"{owner.get_name()}_observer", context=owner.context, namespace=owner.get_namespace(),
            use_global_arguments=False, enable_rosout=False, start_parameter_services=False,
        )  # fmt: skip
        self._executor = SingleThreadedExecutor(context=owner.context)
        self._executor.add_node(self._node)
        self._topics = {
            name: PolledSubscription(self._node, MESSAGE_TYPES[message_type], named.resolved(name), _DEEP)
            for name, (message_type, _) in topics(contract.observations).items()
        }
        command_type = COMMAND_TYPES[form.message_type]
        self._command = PolledSubscription(self._node, command_type, named.resolved(contract.action.topic), _DEEP)
        self.simulated = False
        """Whether only Ganglion's own simulators obey the commands, as of the last `look`."""

    def look(self, seconds: float, patience_s: float) -> Window:
        """What is seen in `seconds`, which begin when every topic has its other side, or after `patience_s`."""
        end = time.monotonic() + patience_s
        while not self._complete() and time.monotonic() < end:
            time.sleep(_POLL_S)
        for subscription in (*self._topics.values(), self._command):
            subscription.discard()
        messages: dict[str, list[tuple[Any, int]]] = {name: [] for name in self._topics}
        commands = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(_POLL_S)
            for name, subscription in self._topics.items():
                messages[name] += subscription.take()
            commands += sum(1 for _ in self._command.take())
        return Window(
            seconds=seconds,
            topics={name: self._sensor_topic(name, received) for name, received in messages.items()},
            command=self._command_topic(commands),
            requested=_endpoint(self._owner.get_name(), "", sensor_qos()),
            offered=_endpoint(self._owner.get_name(), self._form.message_type, command_qos()),
            order=tuple(self._form.order),
        )

    def _complete(self) -> bool:
        ends = (*self._subscribers(), *self.commanders())
        named = all(not e.node.endswith(UNNAMED) for e in ends)
        return named and bool(self._subscribers()) and all(t.publishers for t in self._topics.values())

    def _sensor_topic(self, name: str, received: list[tuple[Any, int]]) -> SensorTopic:
        subscription, clock = self._topics[name], self._owner.get_clock()
        offset_ns = clock.now().nanoseconds - time.monotonic_ns()
        times = tuple(ns for _, ns in received)
        return SensorTopic(
            name=subscription.topic,
            publishers=self._ends(self._node.get_publishers_info_by_topic(subscription.topic)),
            messages=tuple(message for message, _ in received),
            received_ns=times,
            # A simulated clock stands still while nobody executes its callback.
            clock_ns=() if clock.ros_time_is_active else tuple(ns + offset_ns for ns in times),
        )

    def _ends(self, infos: list[Any]) -> tuple[Endpoint, ...]:
        """Those of other nodes."""
        found = ((f"{i.node_namespace.rstrip('/')}/{i.node_name}", i) for i in infos)
        own = self._node.get_fully_qualified_name()
        return tuple(_endpoint(name, i.topic_type, i.qos_profile) for name, i in found if name != own)

    def _subscribers(self) -> tuple[Endpoint, ...]:
        return self._ends(self._node.get_subscriptions_info_by_topic(self._command.topic))

    def commanders(self) -> tuple[Endpoint, ...]:
        """Who else can command the robot now."""
        publishers = self._ends(self._node.get_publishers_info_by_topic(self._command.topic))
        return tuple(p for p in publishers if p.node not in self._ignored)

    def _command_topic(self, messages: int) -> CommandTopic:
        subscribers = self._subscribers()
        message_type = self._form.message_type
        fitting = (s.node for s in subscribers if s.message_type == message_type and not s.node.endswith(UNNAMED))
        nodes = list(dict.fromkeys(fitting))
        values = self._ask([(node, name) for node in nodes for name in ("joints", "interface_name", "task")])
        self.simulated = bool(nodes) and all((node, "task") in values for node in nodes)
        return CommandTopic(
            name=self._command.topic,
            subscribers=subscribers,
            publishers=self.commanders(),
            messages=messages,
            joints={n: tuple(v.string_array_value) for (n, p), v in values.items() if p == "joints"},
            interfaces={n: v.string_value for (n, p), v in values.items() if p == "interface_name" and v.string_value},
        )

    def _ask(self, questions: list[tuple[str, str]]) -> dict[tuple[str, str], ParameterValue]:
        """Values by (node, parameter), of those that are set and answered in time."""
        nodes = dict.fromkeys(node for node, _ in questions)
        clients = {node: self._node.create_client(GetParameters, f"{node}/get_parameters") for node in nodes}
        end = time.monotonic() + _ANSWER_S
        self._spin_until(lambda: all(c.service_is_ready() for c in clients.values()), end)
        futures = {
            (node, name): clients[node].call_async(GetParameters.Request(names=[name]))
            for node, name in questions
            if clients[node].service_is_ready()
        }
        self._spin_until(lambda: all(f.done() for f in futures.values()), end)
        answers = {question: f.result().values for question, f in futures.items() if f.done()}
        for client in clients.values():
            self._node.destroy_client(client)
        return {question: values[0] for question, values in answers.items() if values and values[0].type}

    def _spin_until(self, condition: Callable[[], bool], end: float) -> None:
        while not condition() and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=_POLL_S)

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
