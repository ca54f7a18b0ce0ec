"""Telemetry mode: every recorded tick again, from exactly what it saw."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from runtime.commands import sane
from runtime.controller import Command, Controller
from runtime.errors import BagError
from runtime.replay.bags import Bag, Progress
from runtime.replay.compare import ReplayResult
from runtime.replay.options import ReplayOptions
from runtime.replay.ticking import Ticking
from runtime.safety import Request, Status
from runtime.telemetry import Tick, unpack, unpack_state

MESSAGE_TYPE = "std_msgs/msg/Float64MultiArray"
_LOOK_AHEAD = 64  # ticks; a recorder may write a snapshot after the tick that it precedes
_REMEMBERED = 64  # snapshots, of which there is at most one per tick

Snapshot = dict[str, np.ndarray]


class Recorded:
    """Ticks in their order, each with the snapshot of the state before it when the bag holds one."""

    def __init__(self, bag: Bag, topic: str, controller: Controller) -> None:
        self._bag, self._topic, self._controller = bag, topic, controller
        self._state_topic = f"{topic.rpartition('/')[0]}/state"
        self._snapshots: dict[tuple[int, int], Snapshot] = {}

    def __iter__(self) -> Iterator[tuple[Tick, int, Snapshot | None]]:
        """Ticks, their receive times, and snapshots."""
        contract = self._controller.contract
        like = self._controller.state()
        waiting: deque[tuple[Tick, int]] = deque()
        for record in self._bag.records({self._topic, self._state_topic}):
            vector = np.asarray(record.message.data, dtype=np.float64)
            if record.topic == self._state_topic:
                activation, tick, state = unpack_state(like, vector)
                self._remember((activation, tick), state)
                continue
            waiting.append((unpack(contract, vector), record.receive_ns))
            if len(waiting) > _LOOK_AHEAD:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def _next(self, waiting: deque[tuple[Tick, int]]) -> tuple[Tick, int, Snapshot | None]:
        tick, receive_ns = waiting.popleft()
        return tick, receive_ns, self._snapshots.pop((tick.activation, tick.tick), None)

    def _remember(self, key: tuple[int, int], state: Snapshot) -> None:
        self._snapshots.pop(key, None)
        self._snapshots[key] = state
        while len(self._snapshots) > _REMEMBERED:
            del self._snapshots[next(iter(self._snapshots))]


def replay_telemetry(
    bag: Bag, topic: str, ticking: Ticking, options: ReplayOptions, progress: Progress | None = None
) -> ReplayResult:
    """Run the ticks of the telemetry `topic` again. Raises BagError if it was not made by this bundle."""
    replayer = _Replayer(ticking, options)
    for tick, receive_ns, snapshot in Recorded(bag, topic, ticking.controller):
        replayer.advance(tick, receive_ns, snapshot)
        if ticking.ticks % 100 == 0:
            bag.tell(progress, receive_ns)
    if ticking.ticks == 0:
        raise BagError(
            f"{bag.path}: '{topic}' holds {replayer.skipped} ticks, but neither the first of an activation nor a state "
            "snapshot to start from; record the state topic beside the telemetry"
        )
    return replayer.result()


class _Replayer:
    """Follows the recording; what it cannot reconstruct after a gap is skipped until the next snapshot.

    Where something is changed, each tick continues from the recorded command, as the readings do: they tell nothing of
    what another command would have done.
    """

    def __init__(self, ticking: Ticking, options: ReplayOptions) -> None:
        self.ticking, self._options = ticking, options
        self.controller = ticking.controller
        self.skipped = self.differing = 0
        self.first_difference = ""
        self._last: Tick | None = None
        self._received_ns = 0

    def advance(self, tick: Tick, receive_ns: int, snapshot: Snapshot | None) -> None:
        last, received_ns, self._received_ns = self._last, self._received_ns, receive_ns
        follows = last is not None and (tick.activation, tick.tick) == (last.activation, last.tick + 1)
        if last is not None and not follows and tick.activation == last.activation:
            self.ticking.gap("telemetry", received_ns, receive_ns)
        state_differs = False
        if follows and last is not None:
            changed = self._options.counterfactual
            state_differs = not changed and snapshot is not None and not _same_state(self.controller.state(), snapshot)
            self.ticking.recorded_ns += tick.now_ns - last.now_ns
        elif snapshot is not None:
            self.controller.restore(snapshot)
        elif tick.tick == 0:
            self.controller.reset()
        else:
            self.skipped += 1
            self._last = None
            return
        self._last = tick
        self._compare(tick, receive_ns, self._run(tick), state_differs)

    def _run(self, tick: Tick) -> Command:
        sample, refine = self.ticking.sample, self._options.refine
        sample.values[:], sample.stamp_ns[:] = tick.values, tick.stamp_ns
        self.controller.refine = tick.refine if refine is None else refine
        self.controller.tolerance = tick.tolerance
        self.controller.request(Request(tick.request), "as recorded")
        return self.ticking.tick(tick.now_ns)

    def _compare(self, tick: Tick, receive_ns: int, command: Command, state_differs: bool) -> None:
        found = _differences(tick, command, state_differs)
        if found:
            self.differing += 1
            where = f"activation {tick.activation}, tick {tick.tick}"
            if not sane(tick.command):
                raise BagError(
                    f"the telemetry is damaged: the command at {where} is {tick.command.tolist()}; copy it again"
                )
            self.first_difference = self.first_difference or f"{', '.join(found)} at {where}"
        row = self.ticking.row(receive_ns, tick.now_ns, tick.activation, tick.tick, command)
        row.recorded_status, row.late, row.differs = tick.status, tick.late, found
        row.tick_us, row.latency_us = tick.tick_us, tick.latency_us
        if tick.status != Status.WAITING:
            row.recorded = tick.command
            if command.status is not Status.WAITING:
                self.ticking.errors.add(command.values, tick.command)
        self.ticking.show(row)
        if "command" in found and self._options.counterfactual and row.recorded is not None:
            self.controller.follow(tick.command)

    def result(self) -> ReplayResult:
        return replace(
            self.ticking.result("telemetry"),
            bit_exact=self.differing == 0,
            skipped=self.skipped,
            differing=self.differing,
            first_difference=self.first_difference,
        )


def _differences(tick: Tick, command: Command, state_differs: bool) -> tuple[str, ...]:
    """What is not as recorded, to the last bit."""
    ours, recorded = command.free_energy, tick.free_energy
    both_nan = ours != ours and recorded != recorded
    differs = (
        ("status", command.status != tick.status),
        ("command", command.values.tobytes() != tick.command.tobytes()),
        ("reasons", command.reasons.tobytes() != tick.reasons.tobytes()),
        ("free energy", ours != recorded and not both_nan),
        ("state", state_differs),
    )
    return tuple(name for name, different in differs if different)


def _same_state(ours: Snapshot, recorded: Snapshot) -> bool:
    return all(np.array_equal(value, recorded[name], equal_nan=True) for name, value in ours.items())
