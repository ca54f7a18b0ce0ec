"""What the system grants, asked of the system itself, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import GanglionError
from runtime.realtime import Realtime

_CHILD = """
import json, os, resource, sys, threading
from pathlib import Path
from runtime.realtime import Realtime, prepare
threading.Thread(target=threading.Event().wait, daemon=True).start()
wanted, unprivileged = json.loads(sys.argv[1]), json.loads(sys.argv[2])
if unprivileged:
    for limit in (resource.RLIMIT_MEMLOCK, resource.RLIMIT_RTPRIO):
        resource.setrlimit(limit, (0, 0))
    if os.getuid() == 0:
        os.setresuid(65534, 65534, 65534)
refused = prepare(Realtime(**wanted))
threads = [int(t.name) for t in Path("/proc/self/task").iterdir()]
status = Path("/proc/self/status").read_text()
print(json.dumps({
    "refused": refused,
    "cpus": [sorted(os.sched_getaffinity(t)) for t in threads],
    "policies": [os.sched_getscheduler(t) for t in threads],
    "locked_kb": int(status.split("VmLck:")[1].split()[0]),
}))
"""
_ROOT = Path(__file__).parents[2]
ALLOWED = sorted(os.sched_getaffinity(0))


def ask(unprivileged: bool = False, **wanted: object) -> dict[str, Any]:
    """What a process with two threads has after asking for it."""
    command = [sys.executable, "-c", _CHILD, json.dumps(wanted), json.dumps(unprivileged)]
    found: dict[str, Any] = json.loads(subprocess.run(command, cwd=_ROOT, check=True, capture_output=True).stdout)
    assert len(found["cpus"]) >= 2
    return found


def test_nothing_is_asked_by_default() -> None:
    found = ask()
    assert found["refused"] == []
    assert found["cpus"] == [ALLOWED] * len(found["cpus"])
    assert set(found["policies"]) == {os.SCHED_OTHER}
    assert found["locked_kb"] == 0


def test_every_thread_runs_on_the_cores_that_were_named() -> None:
    found = ask(cpus=[ALLOWED[-1]])
    assert found["refused"] == []
    assert found["cpus"] == [[ALLOWED[-1]]] * len(found["cpus"])


def test_a_core_that_is_not_there_is_told_and_changes_nothing() -> None:
    found = ask(cpus=[4000])
    (line,) = found["refused"]
    assert line.startswith("the cores 4000 are refused (Invalid argument): this process may use ")
    assert line.endswith(f"{', '.join(map(str, ALLOWED))}; name some of those, or none")
    assert found["cpus"] == [ALLOWED] * len(found["cpus"])


@pytest.mark.skipif(os.getuid() != 0, reason="only root may raise its priority and lock all its memory without limits")
def test_root_gets_priority_and_locked_memory() -> None:
    found = ask(priority=5, lock_memory=True)
    if found["refused"]:  # a container may withhold it even from root
        assert all("Operation not permitted" in line for line in found["refused"])
    else:
        assert set(found["policies"]) == {os.SCHED_FIFO}
        assert found["locked_kb"] > 1000


def test_what_is_refused_is_told_with_its_remedy_one_line_each() -> None:
    found = ask(unprivileged=True, priority=5, lock_memory=True)
    memory, priority = found["refused"]
    assert memory.startswith("memory cannot be locked (")
    assert "'memlock unlimited'" in memory
    assert priority.startswith("real-time priority 5 is refused (Operation not permitted)")
    assert "rtprio" in priority
    assert set(found["policies"]) == {os.SCHED_OTHER}
    assert found["locked_kb"] == 0


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [({"priority": 100}, "priority is 100, expected 0 to 99"), ({"cpus": (0, -1)}, r"cpus is \[0, -1\], expected")],
)
def test_nonsense_is_refused_before_anything_is_asked(wanted: dict[str, Any], complaint: str) -> None:
    with pytest.raises(GanglionError, match=complaint):
        Realtime(**wanted)
