"""A node's process: one thread that spins between the deadlines of a paced node, and a clean end on signals."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any, Protocol

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions

from runtime.errors import GanglionError

FAILED, USAGE_ERROR = 1, 2
_LONGEST_NS = 10_000_000


class Spinner:
    """Runs a node's services, timers and parameters while its paced loop has time."""

    def __init__(self, node: Any) -> None:
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._last_ns = 0

    def until(self, deadline_ns: int) -> None:
        """Execute callbacks until `deadline_ns` of `time.monotonic_ns`; a slow callback may overrun it.

        One of those that wait is executed every 10 ms in any case, so that a node whose ticks leave no time for them
        can still be stopped.
        """
        now_ns = time.monotonic_ns()
        while now_ns < deadline_ns or now_ns - self._last_ns > _LONGEST_NS:
            self._executor.spin_once(timeout_sec=max(deadline_ns - now_ns, 0) * 1e-9)
            self._last_ns = now_ns = time.monotonic_ns()

    def close(self) -> None:
        """Stop executing."""
        self._executor.shutdown()


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
