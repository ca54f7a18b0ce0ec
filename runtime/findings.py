"""What does not fit when a robot is compared with a contract, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHOWN = 6


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit."""

    level: str
    """`error`: the robot would not act, or would act wrongly; `warning`: it acts, with less than it could have."""
    where: str
    """Topic, or `observation.channel`, or joints."""
    got: str
    expected: str
    remedy: str
    passing: bool = False
    """It may pass by itself: something is not there yet, or late; nothing contradicts the contract for good."""

    @property
    def text(self) -> str:
        """One line."""
        return f"{self.where}: {self.got}; expected {self.expected}. {self.remedy}"


def listed(names: Iterable[str]) -> str:
    """The names, or the first six of them and how many more."""
    known = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more


def errors(findings: Sequence[Finding], lenient: bool = False) -> list[Finding]:
    """Those that speak against running; `lenient` forgives what may pass."""
    return [f for f in findings if f.level == "error" and not (lenient and f.passing)]
