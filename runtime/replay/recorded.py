"""Telemetry mode: every recorded tick again, from exactly what it saw."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

import numpy as np

from runtime.bundle import Bundle
from runtime.controller import Command, Controller
from runtime.errors import BagError
from runtime.faults import RunningFault
from runtime.replay.bags import Bag
from runtime.replay.compare import Errors, ReplayResult
from runtime.safety import Request, Status
from runtime.sample import Sample
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

    def __iter__(self) -> Iterator[tuple[Tick, Snapshot | None]]:
        contract = self._controller.contract
        like = self._controller.state()
        waiting: deque[Tick] = deque()
        for record in self._bag.records({self._topic, self._state_topic}):
            vector = np.asarray(record.message.data, dtype=np.float64)
            if record.topic == self._state_topic:
                activation, tick, state = unpack_state(like, vector)
                self._remember((activation, tick), state)
                continue
            waiting.append(unpack(contract, vector))
            if len(waiting) > _LOOK_AHEAD:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def _next(self, waiting: deque[Tick]) -> tuple[Tick, Snapshot | None]:
        tick = waiting.popleft()
        return tick, self._snapshots.pop((tick.activation, tick.tick), None)

    def _remember(self, key: tuple[int, int], state: Snapshot) -> None:
        self._snapshots.pop(key, None)
        self._snapshots[key] = state
        while len(self._snapshots) > _REMEMBERED:
            del self._snapshots[next(iter(self._snapshots))]


def replay_telemetry(
    bag: Bag,
    topic: str,
    bundle: Bundle,
    faults: list[RunningFault],
    progress: Callable[[float], None] | None = None,
) -> ReplayResult:
    """Run the ticks of the telemetry `topic` again, what they saw corrupted by `faults`.

    Raises BagError if it was not made by this bundle.
    """
    controller = Controller(bundle)
    replayer = _Replayer(controller, faults)
    begin = time.perf_counter()
    for tick, snapshot in Recorded(bag, topic, controller):
        replayer.advance(tick, snapshot)
        if progress is not None and replayer.ticks % 100 == 0:
            progress(replayer.recorded_ns * 1e-9)
    if replayer.ticks == 0:
        raise BagError(
            f"{bag.path}: '{topic}' holds {replayer.skipped} ticks, but neither the first of an activation nor a state "
            "snapshot to start from; record the state topic beside the telemetry"
        )
    return replayer.result(time.perf_counter() - begin)


class _Replayer:
    """Follows the recording; what it cannot reconstruct after a gap is skipped until the next snapshot."""

    def __init__(self, controller: Controller, faults: list[RunningFault]) -> None:
        self.controller, self._faults = controller, faults
        self.sample = Sample(controller.contract)
        self.errors = Errors(controller.layout.joints)
        self.statuses: Counter[str] = Counter()
        self.ticks = self.skipped = self.differing = 0
        self.first_difference = ""
        self.recorded_ns = 0
        self._last: Tick | None = None

    def advance(self, tick: Tick, snapshot: Snapshot | None) -> None:
        last = self._last
        follows = last is not None and (tick.activation, tick.tick) == (last.activation, last.tick + 1)
        state_differs = False
        if follows:
            state_differs = snapshot is not None and not _same_state(self.controller.state(), snapshot)
        elif snapshot is not None:
            self.controller.restore(snapshot)
        elif tick.tick == 0:
            self.controller.reset()
        else:
            self.skipped += 1
            self._last = None
            return
        if follows and last is not None:
            self.recorded_ns += tick.now_ns - last.now_ns
        self._last = tick
        self._compare(tick, self._run(tick), state_differs)

    def _run(self, tick: Tick) -> Command:
        self.sample.values[:] = tick.values
        self.sample.stamp_ns[:] = tick.stamp_ns
        for fault in self._faults:
            fault.apply(self.sample.values, self.sample.stamp_ns, self.recorded_ns * 1e-9)
        self.controller.refine, self.controller.tolerance = tick.refine, tick.tolerance
        self.controller.request(Request(tick.request), "as recorded")
        return self.controller.tick(self.sample, tick.now_ns)

    def _compare(self, tick: Tick, command: Command, state_differs: bool) -> None:
        self.ticks += 1
        self.statuses[command.status.name] += 1
        found = [
            name
            for name, same in (
                ("status", command.status == tick.status),
                ("command", np.array_equal(command.values, tick.command, equal_nan=True)),
                ("reasons", np.array_equal(command.reasons, tick.reasons)),
                ("free energy", np.array_equal(command.free_energy, tick.free_energy, equal_nan=True)),
                ("state", not state_differs),
            )
            if not same
        ]
        if found:
            self.differing += 1
            where = f"activation {tick.activation}, tick {tick.tick}"
            self.first_difference = self.first_difference or f"{', '.join(found)} at {where}"
        if Status.WAITING not in (command.status, tick.status):
            self.errors.add(command.values, tick.command)

    def result(self, wall_s: float) -> ReplayResult:
        rmse, largest = self.errors.overall()
        return ReplayResult(
            mode="telemetry",
            ticks=self.ticks,
            bit_exact=self.differing == 0,
            rmse=rmse,
            max=largest,
            realtime_factor=self.recorded_ns * 1e-9 / wall_s,
            compared=self.errors.count,
            skipped=self.skipped,
            differing=self.differing,
            first_difference=self.first_difference,
            statuses=dict(self.statuses),
            per_joint=self.errors.per_joint(self.controller.contract.action.joints),
        )


def _same_state(ours: Snapshot, recorded: Snapshot) -> bool:
    return all(np.array_equal(value, recorded[name], equal_nan=True) for name, value in ours.items())
