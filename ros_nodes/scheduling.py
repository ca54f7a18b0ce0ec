"""What keeps a paced node on time: real-time priority where it is permitted, and a quiet garbage collector."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.node import Node

PARAMETER = "realtime_priority"


def declare_priority(node: Node, default: int) -> None:
    """Declare the node's parameter for `raise_priority`."""
    text = (
        "real-time priority (SCHED_FIFO, 1 to 99) of every thread, where it is permitted; 0 leaves the scheduling alone"
    )
    valid = IntegerRange(from_value=0, to_value=99)
    node.declare_parameter(
        PARAMETER, default, ParameterDescriptor(description=text, read_only=True, integer_range=[valid])
    )


def raise_priority(node: Node) -> None:
    """Give all threads of this process, those of DDS too, the declared priority; one warning if that is refused."""
    priority = int(node.get_parameter(PARAMETER).value)
    if priority == 0:
        return
    try:
        for task in Path("/proc/self/task").iterdir():
            os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        logger: Any = node.get_logger()
        logger.warning(
            f"real-time priority {priority} is refused ({error.strerror}), so ticks can be late on a busy machine: "
            f"allow it with an rtprio limit for this user in /etc/security/limits.conf, or set {PARAMETER} to 0"
        )


def quieten_memory() -> None:
    """Keep what is loaded by now out of every later garbage collection, which would take tens of milliseconds."""
    gc.collect()
    gc.freeze()
