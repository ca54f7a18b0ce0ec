"""Raw mode: the agent on the sensor topics of any bag, against the commands that the bag holds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.commands import READABLE, read_command
from runtime.contract import Contract
from runtime.controller import Controller
from runtime.errors import BagError
from runtime.faults import RunningFault
from runtime.messages import deliver, topics
from runtime.replay.bags import Bag
from runtime.replay.compare import Errors, ReplayResult
from runtime.safety import Status
from runtime.sample import NEVER, Sample

_LONGEST_GAP_NS = 10_000_000_000  # a longer silence is skipped: the recording was paused, or its clock jumped


def replay_raw(
    bag: Bag, bundle: Bundle, faults: list[RunningFault], progress: Callable[[float], None] | None = None
) -> ReplayResult:
    """Tick at the contract's rate on the bag's receive times, the readings corrupted by `faults`.

    Raises BagError if an observation that the agent cannot do without has no topic, or none of its joints, in the bag.
    """
    contract = bundle.contract
    found, missing = find_observations(bag, contract)
    command_topic = _find_command(bag, contract)
    runner = _Runner(Controller(bundle), faults)
    begin = time.perf_counter()
    for index, record in enumerate(bag.records({*found, command_topic} if command_topic else {*found})):
        runner.advance(record.receive_ns)
        if record.topic in found:
            deliver(record.message, found[record.topic], runner.sample, record.receive_ns)
        if record.topic == command_topic:
            runner.command = read_command(record.message, bag.topics[record.topic], contract.action)
        if progress is not None and index % 500 == 0:
            progress(runner.recorded_ns * 1e-9)
    _check_received(bag, contract, runner.sample)
    if runner.ticks == 0:
        raise BagError(f"{bag.path}: the sensor topics last less than one tick ({1 / contract.rate_hz:g} s)")
    return runner.result(time.perf_counter() - begin, missing)


def find_observations(bag: Bag, contract: Contract) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Observations by the bag's topic, and the names of those without a topic that the agent can do without."""
    found: dict[str, Any] = {}
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

    def __init__(self, controller: Controller, faults: list[RunningFault]) -> None:
        self.controller = controller
        self.sample = Sample(controller.contract)
        self._faults, self._shown = faults, Sample(controller.contract)
        self.errors = Errors(controller.layout.joints)
        self.statuses: Counter[str] = Counter()
        self.command: np.ndarray | None = None
        """The latest recorded command (A,)."""
        self._answer: np.ndarray | None = None
        """Our command of the last tick, to be compared with the one that the recording holds a period later."""
        self.ticks = 0
        self._period_ns = round(1e9 / controller.contract.rate_hz)
        self._next_ns: int | None = None

    @property
    def recorded_ns(self) -> int:
        """Recorded time that the ticks cover."""
        return self.ticks * self._period_ns

    def advance(self, now_ns: int) -> None:
        """Run the ticks that are due before a message received at `now_ns`."""
        if self._next_ns is None or now_ns - self._next_ns > _LONGEST_GAP_NS:
            self._next_ns = now_ns + self._period_ns
        while self._next_ns < now_ns:
            self._tick(self._next_ns)
            self._next_ns += self._period_ns

    def _tick(self, now_ns: int) -> None:
        if self.command is not None:
            if self._answer is not None:
                self.errors.add(self._answer, self.command)
            self.controller.follow(self.command)
        command = self.controller.tick(self._corrupted(), now_ns)
        self.ticks += 1
        self.statuses[command.status.name] += 1
        self._answer = None if command.status is Status.WAITING else command.values

    def _corrupted(self) -> Sample:
        """The readings as the faults leave them, on a copy: a reading may last for several ticks."""
        shown = self._shown
        shown.values[:], shown.stamp_ns[:] = self.sample.values, self.sample.stamp_ns
        for fault in self._faults:
            fault.apply(shown.values, shown.stamp_ns, self.recorded_ns * 1e-9)
        return shown

    def result(self, wall_s: float, missing: tuple[str, ...]) -> ReplayResult:
        rmse, largest = self.errors.overall()
        return ReplayResult(
            mode="raw",
            ticks=self.ticks,
            bit_exact=False,
            rmse=rmse,
            max=largest,
            realtime_factor=self.recorded_ns * 1e-9 / wall_s,
            compared=self.errors.count,
            statuses=dict(self.statuses),
            missing=missing,
            per_joint=self.errors.per_joint(self.controller.contract.action.joints),
        )
