"""What happened over the time of a replay: every tick to whoever observes, and a summary of constant size.

Both modes make one `Row` per tick and hand it to observers: callables that take a `Row`, write it to a file or draw it.
`Timeline` is the summary that every `ReplayResult` carries, however long the bag is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from runtime.controller import Command
from runtime.safety import Status

MOST_BINS = 2000
"""Stretches of a timeline; where there would be more, neighbours are merged."""
MOST_EVENTS = 300
"""Events of one kind that are kept; all are counted."""
MOST_MOMENTS = 5
"""Worst moments by each measure."""
SEPARATION_S = 1.0
"""Between two moments that are kept by the same measure."""

MEASURES = ("surprise", "free_energy", "error")
"""By which the worst moments are found."""
SCALARS = (
    "free_energy", "surprise", "sustained_surprise", "refine", "steps", "wall_us", "tick_us", "latency_us", "error",
)  # fmt: skip
"""Series that do not belong to a channel or a joint."""


@dataclass(slots=True)
class Row:
    """One tick of a replay. Its arrays are its own: keep them, but do not change them."""

    time_s: float
    """Since the bag began, by its receive times (by header stamps where those are the clock)."""
    time_ns: int
    """The same on the bag's own clock, to stand beside the bag's messages."""
    now_ns: int
    """What the controller took for the time: the robot's monotonic clock in telemetry mode, `time_ns` in raw mode."""
    activation: int
    """Of the recorded node; 0 in raw mode."""
    tick: int
    """Counts from the activation in telemetry mode, from the first tick in raw mode."""
    values: np.ndarray
    """(D,) SI readings that the controller saw, faults included."""
    stamp_ns: np.ndarray
    """(D,) int64 receive times of the readings, on the clock of `now_ns`; -1 if never received."""
    command: Command
    """What the controller answered: status, command, reasons, free energy, innovation, K allowed and made, cause."""
    surprise: float
    """Mean square innovation of what is believed; NaN where nothing was inferred."""
    sustained_surprise: float
    """Its average over half a second, which the contract's calibration bounds."""
    wall_us: float
    """How long `Controller.tick` took in this replay."""
    recorded: np.ndarray | None = None
    """(A,) SI command to compare with: of the recorded tick, or in raw mode the newest one that the bag holds a period
    after the tick; None if there is none."""
    recorded_status: int | None = None
    """Of the recorded tick; None in raw mode."""
    late: bool = False
    """The recorded tick was late."""
    tick_us: float = np.nan
    """How long the recorded tick took; NaN in raw mode."""
    latency_us: float = np.nan
    """From the newest sensor stamp to the command, as recorded; NaN if unknown."""
    differs: tuple[str, ...] = ()
    """What is not bit for bit as recorded, of status, command, reasons, free energy and state; empty in raw mode."""

    @property
    def error(self) -> float:
        """Largest |command - recorded| of any joint, SI; NaN if there is nothing to compare."""
        if self.recorded is None or self.command.status is Status.WAITING:
            return np.nan
        return float(np.abs(self.command.values - self.recorded).max())

    def scalars(self) -> tuple[float, ...]:
        """In the order of `SCALARS`."""
        c = self.command
        return (
            c.free_energy, self.surprise, self.sustained_surprise, c.refine, c.steps, self.wall_us, self.tick_us,
            self.latency_us, self.error,
        )  # fmt: skip


Observer = Callable[[Row], None]
"""Called with every tick, in order."""


@dataclass(frozen=True)
class Band:
    """One series over the bins of a timeline, (B,) each; NaN where a bin holds no value."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Event:
    """Something that happened, at once or for a while."""

    kind: str
    """`status` (subject: its name, text: the cause), `masked` (subject: channel, text: the reasons), `request`
    (subject: ENGAGE or STOP), `late` and `differs` (text: what), `gap` (subject: topic, text: how long nothing of it
    was recorded)."""
    time_s: float
    end_s: float
    """Equal to `time_s` for what happens at once; the end of the replay where it lasted until then."""
    subject: str = ""
    text: str = ""


@dataclass(frozen=True, eq=False)
class Moment:
    """A tick that was among the worst."""

    measure: str
    """One of `MEASURES`."""
    value: float
    time_s: float
    activation: int
    tick: int
    status: str
    values: np.ndarray
    """(D,) SI readings."""
    innovation: np.ndarray
    """(D,) in predicted standard deviations, zero where masked."""
    reasons: np.ndarray
    """(D,) uint8, why a channel was masked."""
    command: np.ndarray
    """(A,) SI."""
    recorded: np.ndarray | None
    """(A,) SI; None if there is none."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """The course of a replay in at most `MOST_BINS` bins of as many ticks each, B in all; the last may hold fewer."""

    channels: tuple[str, ...]
    """D names, `observation.channel`."""
    joints: tuple[str, ...]
    """A names."""
    begin_s: np.ndarray
    """(B,) time of the first tick of each bin."""
    end_s: np.ndarray
    """(B,) time of its last tick."""
    ticks: np.ndarray
    """(B,) how many."""
    series: dict[str, Band]
    """`SCALARS`, `innovation.CHANNEL` (where believed), `command.JOINT` and `recorded.JOINT`."""
    statuses: np.ndarray
    """(B, number of `Status`) share of the ticks in each status, by its value."""
    masked: np.ndarray
    """(B, D) share of the ticks in which the channel was masked."""
    reasons: np.ndarray
    """(B, D) uint8, every `Reason` that occurred in the bin, combined by or."""
    events: tuple[Event, ...]
    """By time; the first `MOST_EVENTS` of each kind."""
    event_counts: dict[str, int]
    """How many there were of each kind, the ones that are not kept included."""
    worst: dict[str, tuple[Moment, ...]] = field(default_factory=dict)
    """The `MOST_MOMENTS` worst by each measure, the worst first, `SEPARATION_S` apart."""

    def to_json(self) -> dict[str, Any]:
        """The course in short, as plain values: means and extremes over all, events, and when it was worst."""
        share = self.ticks / max(int(self.ticks.sum()), 1)
        masked = dict(zip(self.channels, (share @ self.masked).tolist()))
        return {
            **{name: _overall(self.series[name], self.ticks) for name in SCALARS},
            "masked": {channel: part for channel, part in masked.items() if part},
            "event_counts": self.event_counts,
            "events": [asdict(e) for e in self.events],
            "worst": {
                measure: [
                    {n: getattr(m, n) for n in ("value", "time_s", "activation", "tick", "status")} for m in found
                ]
                for measure, found in self.worst.items()
            },
        }


def _overall(band: Band, ticks: np.ndarray) -> dict[str, float] | None:
    """None if there is no value."""
    known = ~np.isnan(band.mean)
    if not known.any():
        return None
    mean = float(np.average(band.mean[known], weights=ticks[known]))
    return {"mean": mean, "min": float(np.nanmin(band.low)), "max": float(np.nanmax(band.high))}
