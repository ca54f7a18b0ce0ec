"""Asks a running controller, for `ganglion stop`, `engage` and `status`: no ROS 2 command line comes with pip."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool, Trigger

from ros_nodes.spinning import interruptible
from runtime.errors import GanglionError

_PATIENCE_S = 10.0
_CONTROLLER = "controller"

Wait = Callable[[Callable[[], bool], str], None]
"""Executes callbacks until the first argument is true. Raises GanglionError that names the second after ten seconds."""


def stop(ros_arguments: Sequence[str] = ()) -> str:
    """Make it hold the safe action. Returns its answer; raises GanglionError if it refuses or is not there."""
    return _call(Trigger, "stop", Trigger.Request(), ros_arguments)


def engage(ros_arguments: Sequence[str] = ()) -> str:
    """Let it act again. Returns its answer; raises GanglionError if it refuses or is not there."""
    return _call(SetBool, "engage", SetBool.Request(data=True), ros_arguments)


def newest_diagnostics(ros_arguments: Sequence[str] = ()) -> DiagnosticStatus:
    """What the controller tells about itself next, within a second. Raises GanglionError if it is not there."""
    found: list[DiagnosticStatus] = []
    with _asking(ros_arguments) as (node, wait):
        name = f"{_full_name(node)}: controller"
        node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: found.extend(s for s in m.status if s.name == name), 10
        )
        wait(lambda: bool(found), f"diagnostics of {_full_name(node)}")
    return found[0]


def _full_name(node: Node) -> str:
    return f"{node.get_namespace().rstrip('/')}/{_CONTROLLER}"


def _call(service: Any, name: str, request: Any, ros_arguments: Sequence[str]) -> str:
    with _asking(ros_arguments) as (node, wait):
        client = node.create_client(service, f"{_full_name(node)}/{name}")
        wait(client.service_is_ready, f"the service {client.service_name}")
        future = client.call_async(request)
        wait(future.done, f"an answer of {client.service_name}")
        response = future.result()
    if not response.success:
        raise GanglionError(str(response.message))
    return str(response.message)


@contextmanager
def _asking(ros_arguments: Sequence[str]) -> Iterator[tuple[Node, Wait]]:
    context = Context()
    rclpy.init(args=list(ros_arguments), context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node(f"asking_{os.getpid()}", context=context, enable_rosout=False)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def wait(condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise GanglionError(
                    f"waited {_PATIENCE_S:g} s in vain for {what}; is the controller running, in this ROS domain "
                    f"({context.get_domain_id()}) and below this namespace ({node.get_namespace()})?"
                )
            executor.spin_once(timeout_sec=0.05)

    try:
        with interruptible():
            yield node, wait
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
