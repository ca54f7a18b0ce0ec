"""A node's process: one thread that spins between the deadlines of a paced node, and a clean end on signals."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Protocol

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions

from runtime.errors import GanglionError

FAILED, USAGE_ERROR = 1, 2
_OVERDUE_NS, _LONGEST_NS = 10_000_000, 100_000_000


class Spinner:
    """Runs a node's services, timers and parameters while its paced loop has time.

    It waits on a wait set of its own and calls the executor when there is something to execute. The executor's own
    waiting takes 0.3 to 0.4 ms of processor time more, every time.
    """

    def __init__(self, node: Any) -> None:
        self._node = node
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._sizes: tuple[int, ...] = ()
        self._looked_ns = 0

    def until(self, deadline_ns: int) -> None:
        """Execute callbacks until `deadline_ns` of `time.monotonic_ns`; a slow callback may overrun it.

        One callback is executed every 10 ms even if the deadline has passed, so that a node whose ticks leave no time
        can still be stopped; and one every 100 ms in any case, when QoS events are told.
        """
        now_ns = time.monotonic_ns()
        if now_ns - self._looked_ns > (_OVERDUE_NS if now_ns >= deadline_ns else _LONGEST_NS):
            self._looked_ns = now_ns
            self._executor.spin_once(timeout_sec=0)
        while (remaining := deadline_ns - time.monotonic_ns()) > 0:
            if self._wait(remaining):
                self._executor.spin_once(timeout_sec=0)

    def _wait(self, timeout_ns: int) -> bool:
        """Whether a callback has become due."""
        node = self._node
        subscriptions = [s for s in node.subscriptions if s.callback_group.can_execute(s)]
        timers, clients, services = list(node.timers), list(node.clients), list(node.services)
        sizes = (len(subscriptions), 0, len(timers), len(clients), len(services), 0)
        if sizes != self._sizes:
            self._sizes, self._wait_set = sizes, rclpy_implementation.WaitSet(*sizes, node.context.handle)
        waiting = self._wait_set
        waiting.clear_entities()
        for add, entities in (
            (waiting.add_subscription, subscriptions),
            (waiting.add_timer, timers),
            (waiting.add_client, clients),
            (waiting.add_service, services),
        ):
            for entity in entities:
                add(entity.handle)
        waiting.wait(timeout_ns)
        return any(waiting.get_ready_entities(kind) for kind in ("service", "subscription", "timer", "client"))

    def close(self) -> None:
        """Stop executing."""
        self._executor.shutdown()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that what it has begun is ended in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class PacedNode(Protocol):
    """What `run` needs of a node."""

    def cycle(self, spinner: Spinner) -> None:
        """Spin to the next deadline and do the work that is due there."""

    def close(self) -> None:
        """Leave the robot safe; ROS still works."""

    def destroy_node(self) -> None:
        """Release the ROS entities."""


class StopRequest:
    """Set by SIGINT or SIGTERM. rclpy's own handlers would shut ROS down before the safe action is published."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def run(make_node: Callable[[], PacedNode], args: list[str] | None = None) -> int:
    """Make the node and cycle it until SIGINT or SIGTERM.

    Returns the exit status: 2 if it could not be made, 1 if it could not go on.
    """
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        stop = StopRequest()
        try:
            node = make_node()
        except (GanglionError, InvalidParameterTypeException, InvalidParameterValueException) as error:
            get_logger("ganglion").fatal(str(error))
            return USAGE_ERROR
        spinner = Spinner(node)
        try:
            with ExitStack() as stack:
                for end in (node.destroy_node, spinner.close, node.close):  # the last one first
                    stack.callback(end)
                while not stop.requested:
                    node.cycle(spinner)
        except GanglionError as error:
            get_logger("ganglion").fatal(str(error))
            return FAILED
        return 0
    finally:
        rclpy.shutdown()
