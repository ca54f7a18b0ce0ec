"""PyBullet, without what it prints when it is imported and when it merges links."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Send what C code writes to `descriptor` (1 or 2) nowhere."""
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(nowhere)


class _Absent:
    """Stands for PyBullet where it is not installed: tasks and robots can be told there, only not simulated."""

    def __init__(self, error: ModuleNotFoundError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error


try:
    with silenced(2):
        import pybullet
    import pybullet_data
except ModuleNotFoundError as error:
    pybullet = pybullet_data = _Absent(error)

__all__ = ["pybullet", "pybullet_data", "silenced"]
