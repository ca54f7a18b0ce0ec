from __future__ import annotations

import gc

import numpy as np
import pytest

from runtime import bench as module
from runtime.bench import bench
from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import ContractError, GanglionError
from runtime.safety import Status
from runtime.sample import Sample


def test_percentiles_are_exact(kuka: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_time_ticks", lambda controller, readings, ticks: np.arange(1.0, ticks + 1))
    calls: list[tuple[int, int]] = []
    result = bench(kuka, [0, 4], ticks=101, progress=lambda *count: calls.append(count))
    assert result["ticks"] == 101
    assert result["refine"] == {k: {"p50_us": 51.0, "p99_us": 100.0, "max_us": 101.0} for k in ("0", "4")}
    assert calls == [(101, 202), (202, 202)]


def test_the_ticks_that_are_timed_are_those_of_an_acting_agent(kuka: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Status, int]] = []
    tick = Controller.tick

    def spy(self: Controller, sample: Sample, now_ns: int) -> object:
        assert not gc.isenabled()
        command = tick(self, sample, now_ns)
        seen.append((command.status, command.refine))
        return command

    monkeypatch.setattr(Controller, "tick", spy)
    bench(kuka, [0, 3], ticks=80)
    assert seen == [(Status.ACTIVE, 0)] * 80 + [(Status.ACTIVE, 3)] * 80
    assert gc.isenabled()


def test_bad_requests(kuka: Bundle) -> None:
    with pytest.raises(ContractError, match="refine is 9"):
        bench(kuka, [9], ticks=5)
    with pytest.raises(GanglionError, match="ticks is 0"):
        bench(kuka, [0], ticks=0)
    assert gc.isenabled()
