"""When a recorded message counts: its time, its order, and what is wrong with both.

Two choices. The clock says which time a message has: `receive`, when it was recorded, or `header`, the stamp in its
header. Topics without headers take the receive time, shifted as the newest stamped message is, so that a recording in
simulated time hangs together. The alignment says what a tick sees:

    hold   of every topic the message that arrived last, as the node does; it ages until the contract's largest age
    asof   of every topic the message with the newest time not after the tick, whenever it arrived
    drop   as `asof`, but a message serves for one tick only; where there is no fresh one, its channels are masked

With `hold`, a message that arrives late replaces a newer one, as it does on the robot. The other two bring messages
into the order of their times as far as they are at most a second late; one that is later still is left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from runtime.replay.bags import Record

_WINDOW_NS = 1_000_000_000
_MOST_WAITING = 20_000  # messages


@dataclass
class TopicHealth:
    """What was found of one topic's messages."""

    type: str
    messages: int = 0
    undecodable: int = 0
    """Messages that were left out because they do not decode."""
    out_of_order: int = 0
    """Messages with an earlier time than one before: the header's stamp where there is one, else the receive time."""
    zero_stamps: int = 0
    """Messages whose header has no stamp."""
    gaps: int = 0
    """Silences longer than the contract lets a reading age."""
    longest_gap_s: float = 0.0
    """The longest silence between two messages, by receive times."""


class Inspector:
    """Counts what is wrong with the messages of one topic."""

    def __init__(self, message_type: str, gap_ns: int | None) -> None:
        """A silence of more than `gap_ns` is a gap; None for topics that may be silent."""
        self.health = TopicHealth(message_type)
        self._gap_ns = gap_ns
        self._received_ns: int | None = None
        self._newest_ns: int | None = None

    def see(self, receive_ns: int, stamp_ns: int | None) -> int:
        """The next message, with the stamp of its header if it has one; the silence before it in ns, if it is a gap."""
        health, before = self.health, self._received_ns
        self._received_ns = receive_ns
        health.messages += 1
        if stamp_ns == 0:
            health.zero_stamps += 1
        time_ns = stamp_ns or receive_ns
        if self._newest_ns is not None and time_ns < self._newest_ns:
            health.out_of_order += 1
        self._newest_ns = time_ns if self._newest_ns is None else max(self._newest_ns, time_ns)
        if before is None:
            return 0
        silent_ns = receive_ns - before
        health.longest_gap_s = max(health.longest_gap_s, silent_ns * 1e-9)
        if self._gap_ns is None or silent_ns <= self._gap_ns:
            return 0
        health.gaps += 1
        return silent_ns


def stamp_of(message: Any) -> int | None:
    """The header's stamp in ns, None if the message has no header."""
    header = getattr(message, "header", None)
    return None if header is None else int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


class Timing:
    """Gives messages their times on the chosen clock."""

    def __init__(self, clock: str, inspectors: dict[str, Inspector], gap: Callable[[str, int, int], None]) -> None:
        """`gap` is told the topic of every gap, its beginning and its end, in ns on the chosen clock."""
        self._by_header, self._inspectors, self._gap = clock == "header", inspectors, gap
        self._shift_ns: int | None = None if self._by_header else 0
        self.untimed = 0
        """Messages that were left out because no stamped one came before them."""

    def timed(self, records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
        """Every message with its time in ns."""
        for record in records:
            stamp_ns = stamp_of(record.message)
            silent_ns = self._inspectors[record.topic].see(record.receive_ns, stamp_ns)
            if self._by_header and stamp_ns:
                self._shift_ns = stamp_ns - record.receive_ns
            if self._shift_ns is None:
                self.untimed += 1
                continue
            time_ns = record.receive_ns + self._shift_ns
            if silent_ns:
                self._gap(record.topic, time_ns - silent_ns, time_ns)
            yield time_ns, record


def in_order(timed: Iterable[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
    """Sorted by time as far as the window goes; what is later still is left out."""
    waiting: list[tuple[int, int, Record]] = []
    newest_ns = passed_ns = -(2**63)
    for count, (time_ns, record) in enumerate(timed):
        if time_ns < passed_ns:
            continue
        heapq.heappush(waiting, (time_ns, count, record))
        newest_ns = max(newest_ns, time_ns)
        while waiting and (waiting[0][0] < newest_ns - _WINDOW_NS or len(waiting) > _MOST_WAITING):
            passed_ns, _, next_record = heapq.heappop(waiting)
            yield passed_ns, next_record
    while waiting:
        time_ns, _, next_record = heapq.heappop(waiting)
        yield time_ns, next_record
