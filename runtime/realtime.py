"""What keeps a paced process on time, as far as the system permits: priority, cores, memory and garbage.

What the system refuses is left as it is; the caller gets one line for it, with the cause and the remedy.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import GanglionError

_CURRENT, _FUTURE, _ON_FAULT = 1, 2, 4  # of mlockall(2)
_MOST_CPUS = 1 << 13  # what Linux can be built for
_LIMITS = "/etc/security/limits.conf"


@dataclass(frozen=True)
class Realtime:
    """What to ask of the system, for every thread of this process."""

    priority: int = 0
    """SCHED_FIFO priority, 1 to 99; 0 leaves the scheduling alone."""
    cpus: tuple[int, ...] = ()
    """Cores to run on; all that the process may use if empty."""
    lock_memory: bool = False
    """Keep every page that was touched in memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.priority <= 99:
            raise GanglionError(f"the real-time priority is {self.priority}, expected 0 to 99")
        if not all(0 <= cpu < _MOST_CPUS for cpu in self.cpus):
            raise GanglionError(f"cpus is {list(self.cpus)}, expected numbers of cores, from 0")


def prepare(wanted: Realtime) -> list[str]:
    """Ask the system for what is `wanted`; one line for everything that it refuses.

    Threads that exist get it, and those that they start inherit it, so call this when all libraries are loaded.
    """
    refused = []
    if wanted.cpus and (error := _refusal(lambda: _each_thread(lambda i: os.sched_setaffinity(i, wanted.cpus)))):
        allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        refused.append(
            f"the cores {', '.join(map(str, wanted.cpus))} are refused ({error}): this process may use {allowed}; "
            "name some of those, or none"
        )
    if wanted.lock_memory and (error := _refusal(_lock_memory)):
        refused.append(
            f"memory cannot be locked ({error}), so a page that was swapped out can make a tick late: allow it with "
            f"'memlock unlimited' for this user in {_LIMITS}, or do not ask for it"
        )
    if wanted.priority and (error := _refusal(lambda: _each_thread(lambda i: _raise_priority(i, wanted.priority)))):
        refused.append(
            f"real-time priority {wanted.priority} is refused ({error}), so ticks can be late on a busy machine: allow "
            f"it with an rtprio limit for this user in {_LIMITS}, or ask for priority 0"
        )
    return refused


def _refusal(ask: Callable[[], None]) -> str:
    """Why the system refuses; empty if it does not."""
    try:
        ask()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _each_thread(ask: Callable[[int], None]) -> None:
    for task in Path("/proc/self/task").iterdir():
        ask(int(task.name))


def _raise_priority(thread: int, priority: int) -> None:
    os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))


def _lock_memory() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_CURRENT | _FUTURE | _ON_FAULT):  # on fault: libraries map far more than they use
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def quieten_memory() -> None:
    """Keep what is loaded by now out of every later garbage collection, which would take tens of milliseconds."""
    gc.collect()
    gc.freeze()
