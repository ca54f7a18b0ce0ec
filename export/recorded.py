"""The bundle of a run from bags, driven by the held-out part of its recordings in the place of a simulation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from export.record import FailingSensors, Recording, join, record_ticks
from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.sample import Sample
from sim.episode import Disturbance
from training.bag_config import BagConfig
from training.from_bags import Ticks, load_ticks
from training.recorded import TICKS


class HeldOut:
    """The later part of every recording of a run."""

    def __init__(self, run: Path, config: BagConfig) -> None:
        """Raises GanglionError if the run's recordings cannot be read."""
        _, later = load_ticks(run / TICKS).split(config.options.held_out)
        begins = np.flatnonzero(later.first)
        self._parts = [later[a:b] for a, b in zip(begins, [*begins[1:], len(later)])]
        self._config = config

    def healthy(self, bundle: Bundle, refine: int, names: Sequence[str] | None = None) -> Recording:
        """Every recording once, the sensors as they were, at K = `refine`."""
        controller = Controller(bundle, refine)
        return join([record_ticks(controller, drive(controller, part), names) for part in self._parts])

    def faulty(self, bundle: Bundle, refine: Sequence[int], ticks: int = 1000) -> Recording:
        """The recordings again and again, with failing sensors, until there are `ticks`; each draws its K."""
        controller, rng = Controller(bundle), np.random.default_rng(self._config.seed)
        failing = FailingSensors(bundle.contract.observations, controller.layout.scale, rng)
        parts: list[Recording] = []
        for part in itertools.cycle(self._parts):
            controller.refine = int(rng.choice(refine))
            parts.append(record_ticks(controller, drive(controller, part, failing)))
            if sum(map(len, parts)) >= ticks:
                return join(parts).first(ticks)
        raise AssertionError("a run has at least one recording")


def drive(controller: Controller, ticks: Ticks, disturb: Disturbance | None = None) -> Iterator[int]:
    """Run the controller in each of the recorded `ticks`, after the recorded commands; yields their index."""
    sample = Sample(controller.contract)
    for i in range(len(ticks)):
        sample.values[:], sample.stamp_ns[:] = ticks.values[i], ticks.stamp_ns[i]
        if disturb is not None:
            disturb(sample, i)
        if np.isfinite(ticks.command[i]).all():
            controller.follow(ticks.command[i])
        controller.tick(sample, int(ticks.now_ns[i]))
        yield i
