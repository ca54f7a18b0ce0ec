"""When the guard commands, with times by hand; and the heartbeat through a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.guard import Guard, Heartbeat

MS = 1_000_000
SAFE = np.array([0.5, -1.5, 2.5])


@pytest.fixture
def heartbeat() -> Iterator[Heartbeat]:
    made = Heartbeat(3)
    yield made
    made.close()


def tripped(heartbeat: Heartbeat) -> bool:
    return heartbeat.tripped


def test_it_commands_the_last_safe_action_once_the_time_is_over(heartbeat: Heartbeat) -> None:
    guard = Guard(heartbeat, timeout_ns=50 * MS)
    assert guard.look(1000 * MS, True) is None, "nothing was commanded yet"
    heartbeat.beat(1000 * MS, 2 * SAFE)
    heartbeat.beat(1010 * MS, SAFE)
    assert guard.look(1060 * MS, True) is None
    assert not tripped(heartbeat)
    late = guard.look(1060 * MS + 1, True)
    assert late is not None
    assert late.tolist() == SAFE.tolist()
    assert tripped(heartbeat)
    heartbeat.beat(1070 * MS, 3 * SAFE)
    assert guard.look(1071 * MS, True) is None, "the controller ticks again"
    assert not guard.tripped
    assert tripped(heartbeat), "until the controller has read it"


def test_it_does_not_wait_when_the_controller_is_gone(heartbeat: Heartbeat) -> None:
    guard = Guard(heartbeat, timeout_ns=50 * MS)
    heartbeat.beat(1000 * MS, SAFE)
    assert guard.look(1001 * MS, True) is None
    gone = guard.look(1002 * MS, False)
    assert gone is not None
    assert gone.tolist() == SAFE.tolist()


@pytest.mark.parametrize("lives", [True, False])
def test_it_rests_while_nothing_is_commanded(heartbeat: Heartbeat, lives: bool) -> None:
    guard = Guard(heartbeat, timeout_ns=50 * MS)
    heartbeat.beat(1000 * MS, SAFE)
    heartbeat.disarm()
    assert guard.look(9000 * MS, lives) is None
    assert not tripped(heartbeat)


def test_it_rests_until_the_time_could_be_over(heartbeat: Heartbeat) -> None:
    guard = Guard(heartbeat, timeout_ns=50 * MS)
    assert guard.rest_s(1000 * MS) == pytest.approx(0.05)
    heartbeat.beat(1000 * MS, SAFE)
    assert guard.rest_s(1030 * MS) == pytest.approx(0.02)
    later = 1030 * MS + round(guard.rest_s(1030 * MS) * 1e9)
    assert guard.look(later, True) is not None, "not a nanosecond too soon"
    assert guard.rest_s(later) == pytest.approx(0.005), "ten commands in the time"
    heartbeat.beat(1080 * MS, SAFE)
    assert guard.look(1080 * MS, True) is None
    assert guard.rest_s(1130 * MS) == pytest.approx(0.001), "never without a rest"


def test_another_process_sees_the_same_numbers(heartbeat: Heartbeat) -> None:
    heartbeat.beat(123_456_789_012_345_678, SAFE)
    code = (
        "import sys; from runtime.guard import Heartbeat; h = Heartbeat(3, int(sys.argv[1])); "
        "h.ready = h.tripped = True; print(h.armed, h.last_ns, h.safe.tolist())"
    )
    command = [sys.executable, "-c", code, str(heartbeat.fd)]
    done = subprocess.run(
        command, pass_fds=[heartbeat.fd], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True 123456789012345678 [0.5, -1.5, 2.5]\n"
    assert heartbeat.ready
    assert tripped(heartbeat)
    heartbeat.tripped = False
    assert not tripped(heartbeat)
