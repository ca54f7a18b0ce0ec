"""Makes a `Timeline` of rows as they come, in constant memory and a few microseconds a tick."""

from __future__ import annotations

import numpy as np

from runtime.contract import Contract
from runtime.replay.timeline import (
    MEASURES,
    MOST_BINS,
    MOST_EVENTS,
    MOST_MOMENTS,
    SCALARS,
    SEPARATION_S,
    Band,
    Event,
    Moment,
    Row,
    Timeline,
)
from runtime.safety import Request, Status
from runtime.sensing import Reason

_MOST = 1e100
_BLOCK = 250  # ticks that are reduced at a time
_MEASURED = tuple((SCALARS.index(m), m) for m in MEASURES)


class Recorder:
    """An observer that summarises what it is given."""

    def __init__(self, contract: Contract) -> None:
        layout, joints = contract.layout, contract.action.joints
        self._channels, self._joints = layout.channels, joints
        self._names = (
            *SCALARS,
            *(f"innovation.{c}" for c in layout.channels),
            *(f"command.{j}" for j in joints),
            *(f"recorded.{j}" for j in joints),
        )
        first = len(SCALARS)
        self._innovation = slice(first, first + layout.size)
        self._command = slice(first + layout.size, first + layout.size + layout.joints)
        self._recorded = slice(first + layout.size + layout.joints, len(self._names))
        self._bins = _Bins(len(self._names), layout.size)
        self._rows = np.zeros((_BLOCK, len(self._names)))
        self._reasons = np.zeros((_BLOCK, layout.size), np.uint8)
        self._statuses = np.zeros(_BLOCK, np.intp)
        self._times = np.zeros(_BLOCK)
        self._filled = 0
        self._events = _Events(layout.channels)
        self._worst = {m: _Worst(m) for m in MEASURES}

    def __call__(self, row: Row) -> None:
        """Take in one tick."""
        i, command = self._filled, row.command
        values = row.scalars()
        line = self._rows[i]
        line[: len(SCALARS)] = values
        line[self._innovation] = command.innovation
        line[self._command] = command.values
        line[self._recorded] = np.nan if row.recorded is None else row.recorded
        self._reasons[i] = command.reasons
        self._statuses[i] = command.status
        self._times[i] = row.time_s
        self._filled += 1
        self._events.add(row)
        if command.status is not Status.WAITING:
            for index, measure in _MEASURED:
                self._worst[measure].offer(values[index], row)
        if self._filled == _BLOCK:
            self._reduce()

    def gap(self, begin_s: float, end_s: float, topic: str) -> None:
        """Nothing was recorded of `topic`."""
        self._events.happened("gap", begin_s, topic, f"nothing was recorded for {end_s - begin_s:.3g} s", end_s)

    def timeline(self) -> Timeline:
        """Of all rows so far."""
        self._reduce()
        bins, events = self._bins, self._events
        n = bins.used
        ticks = bins.ticks[:n]
        with np.errstate(invalid="ignore"):
            mean = bins.total[:n] / bins.valid[:n]  # NaN where there is no value
        series = {
            name: Band(mean[:, i], bins.low[:n, i].copy(), bins.high[:n, i].copy())
            for i, name in enumerate(self._names)
        }
        return Timeline(
            channels=self._channels,
            joints=self._joints,
            begin_s=bins.begin[:n].copy(),
            end_s=bins.end[:n].copy(),
            ticks=ticks.copy(),
            series=series,
            statuses=bins.statuses[:n] / ticks[:, None],
            masked=bins.masked[:n] / ticks[:, None],
            reasons=bins.reasons[:n].copy(),
            events=events.all(float(bins.end[n - 1]) if n else 0.0),
            event_counts=dict(events.counts),
            worst={m: w.moments() for m, w in self._worst.items()},
        )

    def _reduce(self) -> None:
        n, self._filled = self._filled, 0
        if n == 0:
            return
        rows, reasons, statuses = self._rows[:n], self._reasons[:n], self._statuses[:n]
        waiting = statuses == Status.WAITING
        rows[:, self._innovation][(reasons != 0) | waiting[:, None]] = np.nan
        rows[waiting, 0] = np.nan
        np.clip(rows, -_MOST, _MOST, out=rows)  # so that no sum overflows
        self._bins.add(self._times[:n], rows, statuses, reasons)


class _Bins:
    """At most MOST_BINS bins of `width` ticks each; the width doubles when they are full."""

    def __init__(self, series: int, channels: int) -> None:
        self.width, self.used = 1, 0
        self.ticks = np.zeros(MOST_BINS, np.int64)
        self.begin, self.end = np.zeros(MOST_BINS), np.zeros(MOST_BINS)
        self.low, self.high = (np.full((MOST_BINS, series), np.nan) for _ in range(2))
        self.total, self.valid = np.zeros((MOST_BINS, series)), np.zeros((MOST_BINS, series), np.int64)
        self.statuses = np.zeros((MOST_BINS, len(Status)), np.int64)
        self.masked = np.zeros((MOST_BINS, channels), np.int64)
        self.reasons = np.zeros((MOST_BINS, channels), np.uint8)

    def add(self, times: np.ndarray, rows: np.ndarray, statuses: np.ndarray, reasons: np.ndarray) -> None:
        """Ticks at `times` (n,): series (n, S), statuses (n,) and reasons (n, D)."""
        done = 0
        while done < len(times):
            if self.used == MOST_BINS and self.ticks[-1] == self.width:
                self._merge()
            filling = self.used > 0 and self.ticks[self.used - 1] < self.width
            where = self.used - 1 if filling else self.used
            take = (MOST_BINS - where) * self.width - (int(self.ticks[where]) if filling else 0)
            stop = min(len(times), done + take)
            part = slice(done, stop)
            self._add(where, times[part], rows[part], statuses[part], reasons[part])
            done = stop

    def _add(self, where: int, times: np.ndarray, rows: np.ndarray, statuses: np.ndarray, reasons: np.ndarray) -> None:
        n, before = len(times), int(self.ticks[where])
        first = self.width - before if before else 0  # ticks that complete the bin in which the last block ended
        starts = np.arange(first, n, self.width)
        if before:
            starts = np.concatenate(([0], starts))
        counts = np.diff(np.append(starts, n))
        bins = slice(where, where + len(starts))
        if not before:
            self.begin[where] = times[0]
        self.begin[where + 1 : bins.stop] = times[starts[1:]]
        self.end[bins] = times[starts + counts - 1]
        self.ticks[bins] += counts
        known = ~np.isnan(rows)
        np.fmin(self.low[bins], np.fmin.reduceat(rows, starts), out=self.low[bins])
        np.fmax(self.high[bins], np.fmax.reduceat(rows, starts), out=self.high[bins])
        self.total[bins] += np.add.reduceat(np.where(known, rows, 0.0), starts)
        self.valid[bins] += np.add.reduceat(known.astype(np.int64), starts)
        self.statuses[bins] += np.add.reduceat((statuses[:, None] == np.arange(len(Status))).astype(np.int64), starts)
        self.masked[bins] += np.add.reduceat((reasons != 0).astype(np.int64), starts)
        self.reasons[bins] |= np.bitwise_or.reduceat(reasons, starts)
        self.used = bins.stop

    def _merge(self) -> None:
        """Every two neighbours into one."""
        half = MOST_BINS // 2
        self.begin[:half] = self.begin[::2]
        self.end[:half] = self.end[1::2]
        self.low[:half] = np.fmin(self.low[::2], self.low[1::2])
        self.high[:half] = np.fmax(self.high[::2], self.high[1::2])
        self.reasons[:half] = self.reasons[::2] | self.reasons[1::2]
        for summed in (self.ticks, self.total, self.valid, self.statuses, self.masked):
            summed[:half] = summed[::2] + summed[1::2]
            summed[half:] = 0
        self.low[half:] = self.high[half:] = np.nan
        self.reasons[half:] = 0
        self.width, self.used = 2 * self.width, half


class _Events:
    """Changes from tick to tick; of each kind the first ones are kept and all are counted."""

    def __init__(self, channels: tuple[str, ...]) -> None:
        self.counts: dict[str, int] = {}
        self._channels = channels
        self._kept: list[Event] = []
        self._status: Status | None = None
        self._cause = ""
        self._status_since = 0.0
        self._reasons = np.zeros(len(channels), np.uint8)
        self._reason_bytes = self._reasons.tobytes()
        self._masked: dict[int, float] = {}

    def add(self, row: Row) -> None:
        command = row.command
        if command.status is not self._status:
            self._end_status(row.time_s)
            self._status, self._cause, self._status_since = command.status, command.cause, row.time_s
        if command.reasons.tobytes() != self._reason_bytes:
            self._mask(command.reasons, row.time_s)
        if command.request is not Request.NONE:
            self.happened("request", row.time_s, command.request.name)
        if row.late:
            self.happened("late", row.time_s, text=f"tick {row.tick} of activation {row.activation} was late")
        if row.differs:
            where = f"activation {row.activation}, tick {row.tick}"
            self.happened("differs", row.time_s, text=f"{', '.join(row.differs)} at {where}")

    def happened(self, kind: str, time_s: float, subject: str = "", text: str = "", end_s: float | None = None) -> None:
        count = self.counts[kind] = self.counts.get(kind, 0) + 1
        if count <= MOST_EVENTS:
            self._kept.append(Event(kind, time_s, time_s if end_s is None else end_s, subject, text))

    def all(self, end_s: float) -> tuple[Event, ...]:
        """By time, what still goes on until `end_s`."""
        self._end_status(end_s)
        self._status = None
        self._mask(np.zeros_like(self._reasons), end_s)
        return tuple(sorted(self._kept, key=lambda e: e.time_s))

    def _end_status(self, time_s: float) -> None:
        if self._status is not None:
            self.happened("status", self._status_since, self._status.name, self._cause, time_s)

    def _mask(self, reasons: np.ndarray, time_s: float) -> None:
        for i in np.flatnonzero(reasons != self._reasons).tolist():
            if since := self._reasons[i]:
                text = Reason(int(since)).text
                self.happened("masked", self._masked.pop(i), self._channels[i], text, time_s)
            if reasons[i]:
                self._masked[i] = time_s
        self._reasons = reasons.copy()
        self._reason_bytes = self._reasons.tobytes()


class _Worst:
    """The largest values of one measure that lie apart in time."""

    def __init__(self, measure: str) -> None:
        self._measure = measure
        self._kept: list[Moment] = []
        self._floor = self._least = -np.inf if measure == "free_energy" else 0.0  # no error is no bad moment

    def offer(self, value: float, row: Row) -> None:
        if not value > self._least:  # NaN is none
            return
        near = [m for m in self._kept if abs(m.time_s - row.time_s) < SEPARATION_S]
        if any(m.value >= value for m in near):
            return
        kept = [m for m in self._kept if m not in near] + [self._moment(value, row)]
        kept.sort(key=lambda m: -m.value)
        self._kept = kept[:MOST_MOMENTS]
        self._least = self._kept[-1].value if len(self._kept) == MOST_MOMENTS else self._floor

    def moments(self) -> tuple[Moment, ...]:
        return tuple(self._kept)

    def _moment(self, value: float, row: Row) -> Moment:
        command = row.command
        return Moment(
            self._measure, value, row.time_s, row.activation, row.tick, command.status.name, row.values,
            command.innovation, command.reasons, command.values, row.recorded,
        )  # fmt: skip
