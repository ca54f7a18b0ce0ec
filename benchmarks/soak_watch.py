"""Watches a controller from outside: is every command safe, and every reaction in time? For `benchmarks.soak`."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from runtime.contract import Contract
from runtime.limits import Limits
from runtime.safety import Request, Status
from runtime.sensing import Reason, mask_reasons
from runtime.telemetry import Tick

TICKS_TO_HOLD = 2
"""After an observation's maximum age, as docs/safety.md says."""
_SEEN = int(Reason.MISSING | Reason.STALE | Reason.NON_FINITE | Reason.OUT_OF_RANGE)
_MOST_TOLD = 20
_BEHIND = 100  # ticks by which the record of a command may come after it


class Watcher:
    """Takes ticks and published commands in their order, and notes what docs/safety.md does not allow."""

    def __init__(self, contract: Contract) -> None:
        self._contract, self._layout = contract, contract.layout
        self._limits = Limits(contract.action, contract.rate_hz)
        self._max_age_ns = contract.layout.max_age_ns[contract.layout.starts]
        self.ticks = self.late = self.commands = self.gaps = self.violations = 0
        self.told: list[str] = []
        """The first violations in words."""
        self.status: dict[str, int] = {}
        """Ticks in each status."""
        self.slowest_hold = 0
        """Most ticks from when an observation's maximum age was over to holding."""
        self.last: Tick | None = None
        zero = np.clip(np.zeros(contract.layout.joints), contract.action.low, contract.action.high)
        self._zero = zero.tobytes() if contract.action.safe == "zero" else b""
        self._stopped = False
        self._recent: deque[bytes] = deque(maxlen=3 * _BEHIND)
        self._pending: deque[tuple[int, int, bytes]] = deque()
        self._enough_ns = np.full(len(contract.observations), -1, np.int64)
        self._overdue = 0

    def observe(self, tick: Tick) -> None:
        """One record of the telemetry."""
        last, self.last = self.last, tick
        self.ticks += 1
        self.late += tick.late
        name = Status(tick.status).name.lower()
        self.status[name] = self.status.get(name, 0) + 1
        follows = last is not None and (tick.activation, tick.tick) == (last.activation, last.tick + 1)
        self.gaps += last is not None and not follows
        self._check_masks(tick)
        self._check_stop(tick)
        self._check_hold(tick, last.now_ns if last is not None and follows else tick.now_ns)
        if tick.status != Status.WAITING:
            before = last.command if last is not None and follows and last.status != Status.WAITING else None
            self._check_command(tick, before)
            self._recent.append(tick.command.tobytes())
        self._match()

    def published(self, command: np.ndarray) -> None:
        """One message on the command topic. Its tick has been judged, or will be."""
        self.commands += 1
        self._pending.append((self.ticks, self.gaps, command.tobytes()))

    def _match(self) -> None:
        """Every command is that of a tick; the guard, too, repeats one, or commands zero where that is safe."""
        while self._pending:
            ticks, gaps, command = self._pending[0]
            if command not in self._recent and command != self._zero:
                if self.ticks - ticks < _BEHIND:
                    return
                if self.gaps == gaps:
                    self._note(f"{np.frombuffer(command).tolist()} was published, which no tick has commanded")
            self._pending.popleft()

    def _note(self, what: str) -> None:
        self.violations += 1
        if len(self.told) < _MOST_TOLD:
            self.told.append(what if self.last is None else f"tick {self.last.tick}: {what}")

    def _check_masks(self, tick: Tick) -> None:
        expected = mask_reasons(tick.values, tick.stamp_ns, tick.now_ns, self._layout)
        wrong = np.flatnonzero((tick.reasons & _SEEN) != expected)
        if len(wrong):
            self._note(f"{self._layout.channels[wrong[0]]} is not masked as it should be")

    def _check_stop(self, tick: Tick) -> None:
        if tick.request == Request.STOP:
            self._stopped = True
        elif tick.request == Request.ENGAGE:
            self._stopped = False
        if self._stopped and tick.status not in (Status.STOPPED, Status.WAITING):
            self._note(f"a stop was asked for, but its status is {tick.status}")

    def _check_hold(self, tick: Tick, before_ns: int) -> None:
        starts = self._layout.starts
        enough = np.add.reduceat((tick.reasons == 0).astype(np.int64), starts) >= self._layout.min_valid
        newest = np.maximum.reduceat(tick.stamp_ns, starts)
        self._enough_ns[enough] = newest[enough]
        lost = ~enough & (tick.now_ns - self._enough_ns > self._max_age_ns)
        holds = tick.status not in (Status.ACTIVE, Status.ENGAGING)
        self._overdue = 0 if holds or not lost.any() else self._overdue + 1
        self.slowest_hold = max(self.slowest_hold, self._overdue)
        if self._overdue > TICKS_TO_HOLD:
            self._note(f"{self._contract.observations[int(np.argmax(lost))].name} is lost, and the agent acts")

    def _check_command(self, tick: Tick, before: np.ndarray | None) -> None:
        command, limits = tick.command, self._limits
        if not np.isfinite(command).all():
            self._note(f"the command is {command.tolist()}")
            return
        outside = np.maximum(limits.low - command, command - limits.high)
        if before is None:
            return
        slack = 1e-9 * (1 + np.abs(before))
        if (np.abs(command - before) > limits.max_step + slack).any():
            self._note(f"the command changes by {np.abs(command - before).max():g}")
        was_outside = np.maximum(limits.low - before, before - limits.high)
        if ((outside > slack) & (outside > was_outside + slack)).any():
            self._note(f"the command leaves its limits by {outside.max():g}")

    def summary(self) -> dict[str, Any]:
        """Numbers and words for the report."""
        return {
            "ticks": self.ticks, "late_ticks": self.late, "commands": self.commands, "lost_records": self.gaps,
            "status": self.status, "slowest_hold_ticks": self.slowest_hold, "violations": self.violations,
            "told": self.told,
        }  # fmt: skip


def rss_bytes(process: int) -> int:
    """Memory of a process that is in RAM."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024
