"""Nothing that ticks allocates what grows."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.latency import LatencyHistogram
from runtime.safety import Request
from runtime.sample import Sample
from runtime.telemetry import pack

PERIOD = 10_000_000
WARM_UP, TICKS = 5_000, 100_000
ALLOWED = 8_192
"""Bytes in all ticks together; eight bytes that every tick left behind would make a hundred times as many."""


class Run:
    """A controller with its records, through good and bad readings and every state."""

    def __init__(self, bundle: Bundle) -> None:
        self.controller = Controller(bundle, engage_s=0.05)
        self.sample = Sample(bundle.contract)
        self.histogram = LatencyHistogram()
        layout = bundle.contract.layout
        noise = 0.3 * np.random.default_rng(0).standard_normal((997, layout.size))
        self.readings = layout.mean + noise * layout.scale
        self.readings[::7, 3] = np.nan
        self.readings[100:140] = np.nan  # everything is lost
        self.tick = 0

    def go_on(self, ticks: int) -> None:
        for tick in range(self.tick, self.tick + ticks):
            now_ns = tick * PERIOD
            if tick % 500 in (300, 350):
                self.controller.request(Request.STOP if tick % 500 == 300 else Request.ENGAGE, "somebody asks")
            self.sample.put_flat(self.readings[tick % len(self.readings)], now_ns)
            command = self.controller.tick(self.sample, now_ns)
            pack(
                self.controller.contract, self.sample, now_ns, command,
                activation=1, tick=tick, late=False, tick_us=1.0, latency_us=2.0,
            )  # fmt: skip
            self.histogram.record(float(tick % 1000))
        self.tick += ticks


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_a_hundred_thousand_ticks_keep_nothing(kuka: Bundle) -> None:
    run = Run(kuka)
    tracemalloc.start()
    try:
        run.go_on(WARM_UP)
        before = held()
        run.go_on(TICKS)
        growth = held() - before
    finally:
        tracemalloc.stop()
    assert growth < ALLOWED
