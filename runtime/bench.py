"""How long one tick takes on this machine, at several numbers of refinement steps."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.contract import Layout
from runtime.controller import Controller
from runtime.errors import GanglionError
from runtime.sample import Sample

_READINGS = 64
_WARM_UP = 50


def bench(
    bundle: Bundle,
    refine: Sequence[int],
    ticks: int = 2000,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time `Controller.tick` on synthetic readings within the contract's ranges.

    Returns `{"refine": {"K": {"p50_us", "p99_us", "max_us"}}, "provider", "notice", "ticks"}` with exact percentiles
    over `ticks` ticks for each K, what computed them, and what did not start. `progress` is called with the ticks done
    and the total. Raises ContractError for a K beyond the bundle's largest, GanglionError if there is nothing to time
    or the bundle's provider cannot be had.
    """
    if ticks < 1:
        raise GanglionError(f"ticks is {ticks}, expected at least 1")
    controller = Controller(bundle)
    readings = _readings(controller.layout)
    results = {}
    for index, steps in enumerate(refine):
        controller.refine = steps
        controller.warm_up(_WARM_UP)
        with _quiet_memory():
            durations = _time_ticks(controller, readings, ticks)
        p50, p99 = np.percentile(durations, (50, 99))
        results[str(steps)] = {"p50_us": float(p50), "p99_us": float(p99), "max_us": float(durations.max())}
        if progress is not None:
            progress((index + 1) * ticks, len(refine) * ticks)
    inference = controller.inference
    return {"refine": results, "provider": inference.provider, "notice": inference.notice, "ticks": ticks}


def _readings(layout: Layout) -> np.ndarray:
    """SI values (_READINGS, D) around the contract's means, inside its valid ranges."""
    spread = np.random.default_rng(0).standard_normal((_READINGS, layout.size)) * layout.scale
    return np.clip(layout.mean + 0.5 * spread, layout.low, layout.high)


def _time_ticks(controller: Controller, readings: np.ndarray, ticks: int) -> np.ndarray:
    """Durations (ticks,) in microseconds."""
    sample = Sample(controller.contract)
    period_ns = round(1e9 / controller.contract.rate_hz)
    durations = np.zeros(ticks)
    for i in range(ticks):
        now_ns = i * period_ns
        sample.put_flat(readings[i % _READINGS], now_ns)
        begin = time.perf_counter_ns()
        controller.tick(sample, now_ns)
        durations[i] = (time.perf_counter_ns() - begin) * 1e-3
    return durations


@contextmanager
def _quiet_memory() -> Iterator[None]:
    """No garbage collection meanwhile, as in the control loop."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
