"""Ranges of settings: the type of a field tells its range, which is checked where the settings are made.

`learning_rate: Positive = 1e-3` in a dataclass whose `__post_init__` calls `check_ranges` is above zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, get_type_hints

from runtime.errors import GanglionError


@dataclass(frozen=True)
class Range:
    """What a number must be, in words and as a test."""

    expected: str
    holds: Callable[[float], bool]


Count = Annotated[int, Range("a whole number of at least 1", lambda n: n >= 1)]
Natural = Annotated[int, Range("a whole number of at least 0", lambda n: n >= 0)]
Positive = Annotated[float, Range("a number above 0", lambda x: x > 0)]
NonNegative = Annotated[float, Range("a number of at least 0", lambda x: x >= 0)]
Share = Annotated[float, Range("a number from 0 to 1", lambda x: 0 <= x <= 1)]
OpenShare = Annotated[float, Range("a number above 0 and below 1", lambda x: 0 < x < 1)]
UpToOne = Annotated[float, Range("a number above 0, at most 1", lambda x: 0 < x <= 1)]
Finite = Annotated[float, Range("a finite number", lambda x: True)]


@lru_cache
def ranges(kind: type) -> dict[str, Range]:
    """Range of every field of a dataclass that has one."""
    hints = get_type_hints(kind, include_extras=True)
    return {n: r for n, hint in hints.items() for r in getattr(hint, "__metadata__", ()) if isinstance(r, Range)}


def check_ranges(settings: Any) -> None:
    """Raises GanglionError that names the first field of a dataclass that is out of its range, or not finite."""
    kind: type = type(settings)
    for name, known in ranges(kind).items():
        value = getattr(settings, name)
        if not (math.isfinite(value) and known.holds(value)):
            raise GanglionError(f"{name} is {value}, expected {known.expected}")
