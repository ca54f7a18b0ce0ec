"""What both modes of a replay share: ticks on readings that faults may corrupt, counted, summarised and observed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from runtime.bundle import Bundle
from runtime.controller import Command, Controller
from runtime.faults import start_faults
from runtime.replay.compare import Errors, ReplayResult
from runtime.replay.options import ReplayOptions
from runtime.replay.summary import Recorder
from runtime.replay.timeline import Observer, Row
from runtime.safety import Status
from runtime.sample import Sample


class Ticking:
    """One controller on its way through a recording."""

    def __init__(self, bundle: Bundle, options: ReplayOptions, observers: Sequence[Observer], start_ns: int) -> None:
        """`start_ns` is when the bag begins, on its own clock.

        Raises ContractError for a fault that is not known, or more refinement steps than the bundle has.
        """
        self.controller = Controller(bundle, options.refine)
        self.sample = Sample(bundle.contract)
        """The readings as recorded."""
        self.ticks = self.recorded_ns = 0
        """Ticks that were run, and the recorded time that they cover."""
        self.errors = Errors(self.controller.layout.joints)
        self.summary = Recorder(bundle.contract)
        self.wall_us = 0.0
        """How long the last tick took."""
        self.start_ns = start_ns
        self._faults = start_faults(options.faults, bundle.contract.layout)
        self._shown = Sample(bundle.contract) if self._faults else self.sample
        self._observers: tuple[Observer, ...] = (self.summary, *observers)
        self._statuses: Counter[int] = Counter()
        self._began_s = time.perf_counter()

    def tick(self, now_ns: int) -> Command:
        """The controller on the present readings, as the faults leave them."""
        shown = self._shown
        if self._faults:
            shown.values[:], shown.stamp_ns[:] = self.sample.values, self.sample.stamp_ns
            for fault in self._faults:
                fault.apply(shown.values, shown.stamp_ns, self.recorded_ns * 1e-9)
        begin = time.perf_counter()
        command = self.controller.tick(shown, now_ns)
        self.wall_us = 1e6 * (time.perf_counter() - begin)
        self.ticks += 1
        self._statuses[command.status] += 1
        return command

    def row(self, time_ns: int, now_ns: int, activation: int, tick: int, command: Command) -> Row:
        """Of the tick that was just made, for `show`."""
        shown, surprise = self._shown, self.controller.surprise
        return Row(
            (time_ns - self.start_ns) * 1e-9, time_ns, now_ns, activation, tick, shown.values.copy(),
            shown.stamp_ns.copy(), command, surprise.latest, surprise.average, self.wall_us,
        )  # fmt: skip

    def gap(self, topic: str, begin_ns: int, end_ns: int) -> None:
        """Nothing was recorded of `topic` for long."""
        self.summary.gap((begin_ns - self.start_ns) * 1e-9, (end_ns - self.start_ns) * 1e-9, topic)

    def show(self, row: Row) -> None:
        """To all who observe."""
        for observer in self._observers:
            observer(row)

    def result(self, mode: str) -> ReplayResult:
        """What both modes tell."""
        wall_s = time.perf_counter() - self._began_s
        rmse, largest = self.errors.overall()
        return ReplayResult(
            mode=mode,
            ticks=self.ticks,
            bit_exact=False,
            rmse=rmse,
            max=largest,
            realtime_factor=self.recorded_ns * 1e-9 / wall_s,
            compared=self.errors.count,
            statuses={Status(s).name: n for s, n in self._statuses.items()},
            per_joint=self.errors.per_joint(self.controller.contract.action.joints),
            timeline=self.summary.timeline(),
        )
