"""The parameters of a node by which it asks the system for real time, see `runtime.realtime`."""

from __future__ import annotations

import os

from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from runtime.errors import GanglionError
from runtime.realtime import Realtime, prepare

CORES = tuple(sorted(os.sched_getaffinity(0)))
"""What this process was allowed when it began, before `go_realtime` pinned it."""


def declare_realtime(node: Node, priority: int) -> None:
    """Declare the parameters for `go_realtime`; `priority` is the default one."""
    where = "of every thread, where it is permitted"
    valid = IntegerRange(from_value=0, to_value=99)
    text = f"real-time priority (SCHED_FIFO, 1 to 99) {where}; 0 leaves the scheduling alone"
    node.declare_parameter(
        "realtime_priority", priority, ParameterDescriptor(description=text, read_only=True, integer_range=[valid])
    )
    text = f"cores {where}, e.g. [2, 3]; empty is all"
    none = Parameter("cpus", Parameter.Type.INTEGER_ARRAY, []).value
    node.declare_parameter("cpus", none, ParameterDescriptor(description=text, read_only=True, dynamic_typing=True))
    text = "keep every page that was touched in memory, where it is permitted"
    node.declare_parameter("lock_memory", True, ParameterDescriptor(description=text, read_only=True))


def go_realtime(node: Node) -> None:
    """Ask for what the parameters say; one warning for everything that is refused.

    Raises GanglionError for a parameter that makes no sense.
    """
    priority, cpus, lock = (node.get_parameter(name) for name in ("realtime_priority", "cpus", "lock_memory"))
    if cpus.type_ != Parameter.Type.INTEGER_ARRAY and cpus.value not in ([], None):
        raise GanglionError(f"cpus is {cpus.value!r}, expected a list of cores, e.g. [2, 3]")
    for line in prepare(Realtime(priority.value, tuple(cpus.value or ()), lock.value)):
        node.get_logger().warning(line)
