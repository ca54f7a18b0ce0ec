"""The soak's judge by hand, two minutes of the soak itself, and what an interrupt leaves."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.safety import Request, Status
from runtime.sample import Sample
from runtime.telemetry import Tick, pack, unpack

if importlib.util.find_spec("rclpy") is None:
    pytest.skip("needs ROS 2", allow_module_level=True)

from benchmarks.soak_watch import Watcher

ROOT = Path(__file__).parents[2]
PERIOD = 10_000_000


def flight(bundle: Bundle) -> list[Tick]:
    """Two seconds of a controller whose target is lost from tick 50 to 119, and which is stopped from 150 to 169."""
    controller, sample, found = Controller(bundle), Sample(bundle.contract), []
    for tick in range(200):
        now_ns = 10**12 + tick * PERIOD
        sample.put_flat(controller.layout.mean, now_ns)
        if 50 <= tick < 120:
            sample.values[controller.layout.slices["target"]] = np.nan
        if tick in (150, 170):
            controller.request(Request.STOP if tick == 150 else Request.ENGAGE, "somebody asks")
        command = controller.tick(sample, now_ns)
        vector = pack(
            bundle.contract, sample, now_ns, command, activation=1, tick=tick, late=False, tick_us=1.0, latency_us=1.0
        )
        found.append(unpack(bundle.contract, vector))
    return found


def watch(bundle: Bundle, ticks: list[Tick]) -> Watcher:
    watcher = Watcher(bundle.contract)
    for tick in ticks:
        watcher.published(tick.command)
        watcher.observe(tick)
    return watcher


def test_a_flight_as_it_should_be(kuka: Bundle) -> None:
    watcher = watch(kuka, flight(kuka))
    assert watcher.told == []
    assert watcher.status == {"active": 200 - 45 - 20, "holding": 45, "stopped": 20}  # 70 lost, of which 25 are bridged
    assert (watcher.ticks, watcher.commands, watcher.gaps, watcher.slowest_hold) == (200, 200, 0, 0)


def jump(tick: Tick) -> Tick:
    return replace(tick, command=tick.command + 0.1)


def broken(tick: Tick) -> Tick:
    return replace(tick, command=np.full(7, np.nan))


def acts(tick: Tick) -> Tick:
    return replace(tick, status=int(Status.ACTIVE))


def unmasked(tick: Tick) -> Tick:
    return replace(tick, reasons=np.zeros_like(tick.reasons))


@pytest.mark.parametrize(
    ("where", "edit", "complaint", "count"),
    [
        (range(30, 31), jump, "tick 30: the command changes by", 2),
        (range(30, 31), broken, "tick 30: the command is [nan", 1),
        (range(150, 170), acts, "tick 150: a stop was asked for, but its status is 1", 20),
        (range(60, 61), unmasked, "tick 60: target.x is not masked as it should be", 1),
        (range(75, 78), acts, "tick 77: target is lost, and the agent acts", 1),
    ],
)
def test_what_is_not_as_stated_is_seen(
    where: range, edit: Callable[[Tick], Tick], complaint: str, count: int, kuka: Bundle
) -> None:
    ticks = [edit(t) if i in where else t for i, t in enumerate(flight(kuka))]
    watcher = watch(kuka, ticks)
    assert watcher.told[0].startswith(complaint)
    assert watcher.violations == count


def test_a_command_beyond_its_limits_is_seen(kuka: Bundle) -> None:
    ticks = flight(kuka)
    away = np.linspace(0.0, 9.0, 1000)  # slowly, so that only the limit is broken
    watcher = watch(kuka, [replace(ticks[0], tick=i, command=ticks[0].command + a) for i, a in enumerate(away)])
    assert "the command leaves its limits by" in watcher.told[0]


def test_a_command_that_no_tick_gave_is_seen(kuka: Bundle) -> None:
    watcher, ticks = Watcher(kuka.contract), flight(kuka)
    for tick in ticks:
        watcher.observe(tick)
        if tick.tick == 20:
            watcher.published(tick.command + 1e-12)
    assert watcher.violations == 1
    assert "was published, which no tick has commanded" in watcher.told[0]


def test_records_that_are_missing_are_counted(kuka: Bundle) -> None:
    ticks = flight(kuka)
    watcher = watch(kuka, ticks[:30] + ticks[40:])
    assert (watcher.gaps, watcher.told) == (1, [])


def soak(output: Path, minutes: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", str(minutes), "--json", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_minutes(tmp_path: Path) -> None:
    process = soak(tmp_path / "soak.json", 2.0)
    table, _ = process.communicate(timeout=300)
    result: dict[str, Any] = json.loads((tmp_path / "soak.json").read_text())
    assert process.returncode == 0, table
    assert result["passed"]
    assert result["violations"] == 0
    assert result["rss_growth_bytes"] < 2_000_000
    assert result["ticks"] > 0.8 * 2 * 60 * 100
    assert result["status"]["holding"] > 0
    assert result["status"]["stopped"] > 0
    assert len(result["done"]) == 4
    assert "passed" in table


def test_an_interrupt_leaves_what_was_measured(tmp_path: Path) -> None:
    process = soak(tmp_path / "soak.json", 60.0)
    time.sleep(15.0)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    result = json.loads((tmp_path / "soak.json").read_text())
    assert 0 < result["seconds"] < 60
    assert 100 < result["ticks"] < 6000
