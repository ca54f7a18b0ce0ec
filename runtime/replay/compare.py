"""Recorded against replayed commands."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from runtime.replay.align import TopicHealth
from runtime.replay.timeline import Timeline


class Errors:
    """Running root mean square and largest |replayed - recorded| per joint; constant memory."""

    def __init__(self, joints: int) -> None:
        self.count = 0
        self._squares = np.zeros(joints)
        self._largest = np.zeros(joints)

    def add(self, replayed: np.ndarray, recorded: np.ndarray) -> None:
        """Count one pair of commands (A,) in SI units."""
        difference = np.abs(replayed - recorded)
        self.count += 1
        self._squares += difference**2
        self._largest = np.maximum(self._largest, difference)

    def per_joint(self, joints: tuple[str, ...]) -> dict[str, dict[str, float]]:
        """`rmse` and `max` by joint; empty if nothing was compared."""
        if self.count == 0:
            return {}
        rmse = np.sqrt(self._squares / self.count)
        return {j: {"rmse": float(r), "max": float(m)} for j, r, m in zip(joints, rmse, self._largest)}

    def overall(self) -> tuple[float | None, float | None]:
        """Root mean square over all joints, and the largest; None if nothing was compared."""
        if self.count == 0:
            return None, None
        return math.sqrt(float(self._squares.mean()) / self.count), float(self._largest.max())


@dataclass(frozen=True)
class ReplayResult:
    """What a replay found."""

    mode: str
    """`telemetry`: every recorded tick again, from what it saw; `raw`: the agent on the sensor topics alone."""
    ticks: int
    """Ticks that were run."""
    bit_exact: bool
    """Command, status, reasons and free energy of every tick were the recorded ones, bit for bit; never in raw mode."""
    rmse: float | None
    """SI; None if the bag holds no commands to compare with."""
    max: float | None
    realtime_factor: float
    """Recorded time over the time that the replay took."""
    compared: int
    """Ticks whose command was compared."""
    skipped: int = 0
    """Recorded ticks before the first snapshot of the controller's state, or after a gap until the next one."""
    differing: int = 0
    """Ticks that were not bit-exact."""
    first_difference: str = ""
    """Where and what the first difference was."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Ticks per status of the command."""
    missing: tuple[str, ...] = ()
    """Observations without a topic in the bag, which were masked."""
    per_joint: dict[str, dict[str, float]] = field(default_factory=dict)
    refine: int | None = None
    """Refinement steps that were asked for; None: as recorded, or the bundle's default in raw mode."""
    topics: dict[str, TopicHealth] = field(default_factory=dict)
    """Condition of every topic that was read in raw mode."""
    notices: tuple[str, ...] = ()
    """What a reader should know of the bag, one sentence each."""
    timeline: Timeline | None = None
    """What happened over time; in short in the JSON."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "ticks": self.ticks,
            "bit_exact": self.bit_exact,
            "action_error": {"rmse": self.rmse, "max": self.max},
            "realtime_factor": self.realtime_factor,
            "mode": self.mode,
            "compared": self.compared,
            "skipped": self.skipped,
            "differing": self.differing,
            "first_difference": self.first_difference,
            "statuses": self.statuses,
            "missing": list(self.missing),
            "per_joint": self.per_joint,
            "refine": self.refine,
            "topics": {name: asdict(health) for name, health in self.topics.items()},
            "notices": list(self.notices),
            "course": None if self.timeline is None else self.timeline.to_json(),
        }
