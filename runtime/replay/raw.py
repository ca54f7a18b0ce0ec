"""Raw mode: the agent on the sensor topics of any bag, against the commands that the bag holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from runtime.commands import READABLE, read_command
from runtime.contract import Contract, Observation
from runtime.errors import BagError
from runtime.messages import deliver, topics
from runtime.replay.align import Inspector, Timing, TopicHealth, in_order
from runtime.replay.bags import Bag, Progress
from runtime.replay.compare import ReplayResult
from runtime.replay.options import ReplayOptions
from runtime.replay.ticking import Ticking
from runtime.replay.timeline import Row
from runtime.safety import Status
from runtime.sample import NEVER, Sample

_LONGEST_GAP_NS = 10_000_000_000  # a larger one is skipped: the recording was paused, or its clock jumped


def replay_raw(bag: Bag, ticking: Ticking, options: ReplayOptions, progress: Progress | None = None) -> ReplayResult:
    """Tick at the contract's rate on the bag's times.

    Raises BagError if an observation that the agent cannot do without has no topic, or none of its joints, in the bag.
    """
    contract = ticking.controller.contract
    found, missing = find_observations(bag, contract)
    command_topic = _find_command(bag, contract)
    wanted = {*found, command_topic} if command_topic else {*found}
    inspectors = {t: Inspector(bag.topics[t], _longest_silence_ns(found.get(t, ()))) for t in wanted}
    timing = Timing(options.clock, inspectors, ticking.gap)
    timed = timing.timed(bag.records(wanted))
    runner = _Runner(ticking, once=options.align == "drop")
    for index, (time_ns, record) in enumerate(timed if options.align == "hold" else in_order(timed)):
        if index == 0 and options.clock == "header":
            ticking.start_ns = time_ns
        runner.advance(time_ns)
        if record.topic in found:
            deliver(record.message, found[record.topic], ticking.sample, time_ns)
        if record.topic == command_topic:
            runner.command = read_command(record.message, bag.topics[record.topic], contract.action)
        if index % 500 == 0:
            bag.tell(progress, record.receive_ns)
    runner.finish()
    if timing.untimed and ticking.ticks == 0:
        raise BagError(f"{bag.path}: none of the messages has a stamp in its header; replay it with --clock receive")
    _check_received(bag, contract, ticking.sample)
    if ticking.ticks == 0:
        raise BagError(f"{bag.path}: the sensor topics last less than one tick ({1 / contract.rate_hz:g} s)")
    health = {topic: inspectors[topic].health for topic in sorted(wanted)}
    for topic, count in bag.undecodable.items():
        health[topic].undecodable = count
    return replace(ticking.result("raw"), missing=missing, topics=health, notices=tuple(_notices(health)))


def _longest_silence_ns(observations: tuple[Observation, ...]) -> int | None:
    return round(min(o.max_age_s for o in observations) * 1e9) if observations else None


def _notices(topics: dict[str, TopicHealth]) -> Iterator[str]:
    for topic, health in topics.items():
        found = [
            (health.out_of_order, "are out of order"),
            (health.zero_stamps, "have no stamp in their header"),
        ]
        for count, what in found:
            if count:
                yield f"{topic}: {count} of {health.messages} messages {what}"
        if health.gaps:
            yield f"{topic}: {health.gaps} gaps, the longest {health.longest_gap_s:.3g} s"


def find_observations(bag: Bag, contract: Contract) -> tuple[dict[str, tuple[Observation, ...]], tuple[str, ...]]:
    """Observations by the bag's topic, and the names of those without a topic that the agent can do without."""
    found: dict[str, tuple[Observation, ...]] = {}
    missing: list[str] = []
    for topic, (message_type, observations) in topics(contract.observations).items():
        name = bag.find(topic, message_type)
        if name is not None:
            found[name] = observations
            continue
        needed = [o.name for o in observations if o.min_valid > 0]
        if needed:
            raise BagError(
                f"{bag.path} has no topic '{topic}' [{message_type}], which the bundle needs for {', '.join(needed)}; "
                f"it has {bag.contents()}"
            )
        missing += [o.name for o in observations]
    if not found:
        raise BagError(f"{bag.path} has none of the bundle's sensor topics; it has {bag.contents()}")
    return found, tuple(missing)


def _find_command(bag: Bag, contract: Contract) -> str | None:
    names = [bag.find(contract.action.topic, t) for t in READABLE if bag.offers(contract.action.topic, t)]
    return next(iter(names), None)


def _check_received(bag: Bag, contract: Contract, sample: Sample) -> None:
    """A topic may be there without the joints: that is as bad as no topic."""
    for o in contract.observations:
        stamps = sample.stamp_ns[contract.layout.slices[o.name]]
        unseen = [c for c, s in zip(o.channels, stamps) if s == NEVER]
        if len(o.channels) - len(unseen) < o.min_valid:
            raise BagError(
                f"{bag.path}: '{o.topic}' never holds {unseen} of '{o.name}'; the agent needs {o.min_valid} of "
                f"{len(o.channels)}: the bag is of another robot, or its joints are named otherwise"
            )


class _Runner:
    """Ticks at absolute times of the bag's clock, from the first message on.

    Each tick continues from the recorded command, so one different answer does not make all later ones differ.
    """

    def __init__(self, ticking: Ticking, once: bool) -> None:
        """A reading counts `once`, or until it is too old."""
        self._once = once
        self._ticking, self._controller = ticking, ticking.controller
        self.command: np.ndarray | None = None
        """The latest recorded command (A,)."""
        self._waiting: Row | None = None
        """The last tick, to be compared with the command that the recording holds a period later."""
        self._period_ns = round(1e9 / self._controller.contract.rate_hz)
        self._next_ns: int | None = None

    def advance(self, now_ns: int) -> None:
        """Run the ticks that are due before a message received at `now_ns`."""
        if self._next_ns is None or abs(now_ns - self._next_ns) > _LONGEST_GAP_NS:
            self._next_ns = now_ns + self._period_ns
        while self._next_ns < now_ns:
            self._tick(self._next_ns)
            self._next_ns += self._period_ns

    def finish(self) -> None:
        """After the last message."""
        self._show(None)

    def _tick(self, now_ns: int) -> None:
        ticking = self._ticking
        self._show(self.command)
        if self.command is not None:
            self._controller.follow(self.command)
        command = ticking.tick(now_ns)
        ticking.recorded_ns += self._period_ns
        self._waiting = ticking.row(now_ns, now_ns, 0, ticking.ticks - 1, command)
        if self._once:
            ticking.sample.values[:] = np.nan

    def _show(self, recorded: np.ndarray | None) -> None:
        row, self._waiting = self._waiting, None
        if row is None:
            return
        row.recorded = recorded
        if recorded is not None and row.command.status is not Status.WAITING:
            self._ticking.errors.add(row.command.values, recorded)
        self._ticking.show(row)
