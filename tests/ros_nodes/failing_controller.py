"""The controller node with a fault in its tick, run as a process by a test."""

from __future__ import annotations

import sys

from ros_nodes.control_loop import ControlLoop
from ros_nodes.controller_node import main
from runtime.controller import Command, Controller
from runtime.sample import Sample

FAILING_TICK = 30
_tick, _start = Controller.tick, ControlLoop.start
_count = -1000


def _begin(self: ControlLoop) -> None:
    """Ticks before an activation only measure how long they take."""
    global _count
    _count = 0
    _start(self)


def _fail(self: Controller, sample: Sample, now_ns: int) -> Command:
    global _count
    if _count == FAILING_TICK:
        raise ZeroDivisionError(f"at tick {_count}")
    _count += 1
    return _tick(self, sample, now_ns)


if __name__ == "__main__":
    Controller.tick, ControlLoop.start = _fail, _begin  # type: ignore[method-assign]
    sys.exit(main())
