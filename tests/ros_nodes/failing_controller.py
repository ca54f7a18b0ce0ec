"""The controller node with a fault in its tick, run as a process by a test."""

from __future__ import annotations

import sys

from ros_nodes.controller_node import main
from runtime.controller import Command, Controller
from runtime.sample import Sample

FAILING_TICK = 30
_tick = Controller.tick
_count = 0


def _fail(self: Controller, sample: Sample, now_ns: int) -> Command:
    global _count
    if _count == FAILING_TICK:
        raise ZeroDivisionError(f"at tick {_count}")
    _count += 1
    return _tick(self, sample, now_ns)


if __name__ == "__main__":
    Controller.tick = _fail  # type: ignore[method-assign]
    sys.exit(main())
