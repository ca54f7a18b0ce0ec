"""A heartbeat in shared memory, and what a process of its own makes of it when the controller's stops.

Nothing here knows ROS. Every number is eight bytes, aligned, and written by one side alone, so no lock is needed.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

import numpy as np

_ARMED, _BEAT, _SLOT, _READY, _TRIPPED = range(5)  # the controller writes the first three, the guard the others
_COMMANDS = 10  # that it sends in the time that the controller has between two
_SHORTEST_NS = 1_000_000
_HEADER = 8  # numbers before the two slots


class Heartbeat:
    """Shared by the controller and its guard: when the last tick was, and the safe action that it asked for.

    The safe action (A,) SI has two slots, of which the guard reads the one that is not being written.
    """

    def __init__(self, joints: int, fd: int | None = None) -> None:
        """In new memory, or in that of `fd`, which another process made."""
        size = 8 * (_HEADER + 2 * joints)
        self.fd = os.memfd_create("ganglion-heartbeat") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, size)
        self._memory = mmap.mmap(self.fd, size)
        self._numbers = np.frombuffer(self._memory, np.int64, _HEADER)
        self._slots = np.frombuffer(self._memory, np.float64, 2 * joints, 8 * _HEADER).reshape(2, joints)

    def beat(self, now_ns: int, safe: np.ndarray) -> None:
        """A tick at `now_ns` of the steady clock, after which `safe` (A,) would be the safe action; arms the guard."""
        slot = 1 - self._numbers[_SLOT]
        self._slots[slot] = safe
        self._numbers[_SLOT] = slot
        self._numbers[_BEAT] = now_ns
        self._numbers[_ARMED] = 1

    def disarm(self) -> None:
        """Nothing is commanded any more, and that is right."""
        self._numbers[_ARMED] = 0

    @property
    def armed(self) -> bool:
        """Whether the guard must watch."""
        return bool(self._numbers[_ARMED])

    @property
    def last_ns(self) -> int:
        """Time of the last tick on the steady clock."""
        return int(self._numbers[_BEAT])

    @property
    def safe(self) -> np.ndarray:
        """The last safe action (A,), a copy."""
        found: np.ndarray = self._slots[self._numbers[_SLOT]].copy()
        return found

    @property
    def ready(self) -> bool:
        """Whether the guard is watching."""
        return bool(self._numbers[_READY])

    @ready.setter
    def ready(self, value: bool) -> None:
        self._numbers[_READY] = value

    @property
    def tripped(self) -> bool:
        """Whether the guard has commanded; the controller clears it once it knows."""
        return bool(self._numbers[_TRIPPED])

    @tripped.setter
    def tripped(self, value: bool) -> None:
        self._numbers[_TRIPPED] = value

    def close(self) -> None:
        """Give the memory back."""
        del self._numbers, self._slots
        self._memory.close()
        os.close(self.fd)


@dataclass
class Guard:
    """Decides when to command in the controller's place."""

    heartbeat: Heartbeat
    timeout_ns: int
    """Longest time between two ticks."""
    tripped: bool = False
    """Whether it commands now."""

    def rest_s(self, now_ns: int) -> float:
        """Seconds until it must look again: until the time could be over, or the next command is due."""
        if self.tripped:
            return self.timeout_ns * 1e-9 / _COMMANDS
        left_ns = self.heartbeat.last_ns + self.timeout_ns - now_ns if self.heartbeat.armed else self.timeout_ns
        return max(left_ns + 1, _SHORTEST_NS) * 1e-9

    def look(self, now_ns: int, controller_lives: bool) -> np.ndarray | None:
        """The safe action (A,) that is to be commanded now, None if the controller does its work or need not."""
        late = not controller_lives or now_ns - self.heartbeat.last_ns > self.timeout_ns
        self.tripped = self.heartbeat.armed and late
        if not self.tripped:
            return None
        self.heartbeat.tripped = True
        return self.heartbeat.safe
