"""How many refinement steps fit into the time that a tick has left."""

from __future__ import annotations

import time

import numpy as np

from runtime.controller import Controller
from runtime.errors import ContractError
from runtime.sample import Sample

_MEMORY = 0.05  # share of a tick in the averages
_CAUTION = 4.0  # mean deviations above the mean that a tick is expected to take
_APART_NS = 10_000_000
_LEAST_SHARE = 0.01  # of a tick, for all steps; what is less is not to be measured


class Planner:
    """Knows from the ticks so far what the next one will take: a base, and as much again for every step.

    The base is a moving average of the ticks' times less those of their steps, plus four times their mean deviation.
    A step takes the same share of the average as when it was measured, so a processor that slows down slows both.
    """

    def __init__(self, base_ns: float, step_ns: float) -> None:
        """A tick without steps takes `base_ns`, and each step `step_ns`.

        Raises ContractError if one is not positive.
        """
        if not (base_ns > 0 and step_ns > 0):
            raise ContractError(f"a tick takes {base_ns:g} ns and a step {step_ns:g} ns, expected more than zero")
        self._mean_ns, self._deviation_ns = base_ns, 0.0
        self._step_share = step_ns / base_ns

    @property
    def base_ns(self) -> float:
        """What the next tick will take without steps, ns."""
        return self._mean_ns + _CAUTION * self._deviation_ns

    @property
    def step_ns(self) -> float:
        """What a step takes, ns."""
        return self._step_share * self._mean_ns

    def observe(self, steps: int, took_ns: int) -> None:
        """A tick with so many steps took `took_ns`."""
        base_ns = max(took_ns, 0) / (1.0 + steps * self._step_share)
        self._deviation_ns += _MEMORY * (abs(base_ns - self._mean_ns) - self._deviation_ns)
        self._mean_ns += _MEMORY * (base_ns - self._mean_ns)

    def steps(self, left_ns: float, most: int) -> int:
        """The most steps, but not above `most`, with which a tick is expected to end in `left_ns`.

        None if there is no time for any: the amortized answer.
        """
        spare_ns = left_ns - self.base_ns
        return most if spare_ns >= most * self.step_ns else max(0, int(spare_ns // self.step_ns))


def measured(controller: Controller, ticks: int = 50) -> Planner:
    """What `controller` takes on this machine, from so many ticks without steps and with all; then it is reset."""
    sample, layout, largest = Sample(controller.contract), controller.layout, controller.contract.refinement.max_steps
    refine, durations = controller.refine, np.zeros((ticks, 2))
    for tick in range(ticks):
        for column, controller.refine in enumerate((0, largest)):
            now_ns = (2 * tick + column) * _APART_NS
            sample.put_flat(np.clip(layout.mean, layout.low, layout.high), now_ns)
            begin = time.perf_counter_ns()
            controller.tick(sample, now_ns)
            durations[tick, column] = time.perf_counter_ns() - begin
    controller.refine = refine
    controller.reset()
    without, with_all = np.median(durations, axis=0)
    return Planner(without, max(with_all - without, _LEAST_SHARE * without) / max(largest, 1))
