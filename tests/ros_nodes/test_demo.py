"""The demo end to end with a tiny bundle: two processes, a recorder, replay, numbers and plot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from ros_nodes.demo import run_demo
from ros_nodes.session import Session
from runtime.errors import BundleError, GanglionError
from runtime.telemetry import unpack
from tests.tiny_bundle import tiny_contract

pytestmark = pytest.mark.timed

KUKA = tiny_contract("kuka_reach")
_KEYS = {
    "rate_hz", "ticks", "late_ticks", "transport", "tick_us", "latency_us", "tracking_error_m", "replay_bit_exact",
}  # fmt: skip


def test_the_demo_end_to_end(tmp_path: Path, kuka: Path) -> None:
    steps: list[float] = []
    out = tmp_path / "demo"
    (out / "bag").mkdir(parents=True)  # an old one is replaced
    result = run_demo(kuka, 4.0, out, lambda text, fraction: steps.append(fraction))
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0.0, 1.0)
    assert json.loads((out / "demo.json").read_text()) == result
    assert set(result) >= _KEYS
    assert result["replay_bit_exact"]
    assert result["replayed_ticks"] == result["ticks"]
    assert "rmw_" in result["transport"]
    for key in ("tick_us", "latency_us"):
        assert 0 < result[key]["p50"] <= result[key]["p99"] <= result[key]["max"]
    assert [p["refine"] for p in result["phases"]] == [2, 0, 2, 0]
    assert [p["masked_channels"] for p in result["phases"]] == [0, 0, 4, 4]
    assert (out / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert list(out.glob(".*")) == []
    _check_against_the_bag(out / "bag", result)


def _check_against_the_bag(bag: Path, result: dict[str, Any]) -> None:
    """Once more from the bag, without the demo's code; the first quarter of a phase is left out."""
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic in ("/metrics/tracking_error_m", "/controller/telemetry")]
        messages: list[tuple[str, float, Any]] = [
            (c.topic, t * 1e-9, reader.deserialize(d, c.msgtype)) for c, t, d in reader.messages(wanted)
        ]
    read = [(topic, t, message.data) for topic, t, message in messages]
    ticks = [unpack(KUKA, data) for topic, _, data in read if topic == "/controller/telemetry"]
    keys = [("nominal", "k_default", 3), ("nominal", "k0", 1), ("faulted", "k_default", 3), ("faulted", "k0", 1)]
    periods, rates = [], []
    for activation, (phase, column, free_energy) in enumerate(keys, start=1):
        steps = [tick.steps for tick in ticks if tick.activation == activation]
        assert 1 + np.median(steps) == free_energy  # a stalled machine has no time for the steps in a few
        mean = result["phases"][activation - 1]["free_energy_mean"]
        assert mean == pytest.approx(1 + np.mean(steps), rel=1e-9)
        times = [t for topic, t, data in read if topic == "/controller/telemetry" and data[0] == activation]
        assert times[-1] - times[0] == pytest.approx(1.0, abs=0.1)
        periods.append(np.diff(times))
        rates += [(len(times) - 1) / (times[-1] - times[0])] * len(times)
        start, end = times[0] + 0.25, times[-1]
        errors = [data for topic, t, data in read if topic == "/metrics/tracking_error_m" and start <= t <= end]
        assert result["tracking_error_m"][phase][column] == pytest.approx(np.mean(errors), rel=1e-9)
    assert len(rates) == result["ticks"]
    assert result["rate_hz"] == pytest.approx(np.mean(rates), rel=0.02)
    assert np.median(np.concatenate(periods)) == pytest.approx(0.01, rel=0.05)  # a stalled machine skips a few


def test_wrong_bundles_and_durations_are_refused(tmp_path: Path, cartpole: Path, kuka: Path) -> None:
    with pytest.raises(BundleError, match="needs an arm"):
        run_demo(cartpole, 4.0, tmp_path / "demo")
    with pytest.raises(GanglionError, match="expected at least 2 s"):
        run_demo(kuka, 0.5, tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_a_child_that_ends_early_is_one_clear_error(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        session.start("ros_nodes.sim_node", {"task": "juggle"})
        with pytest.raises(GanglionError, match=r"sim_node ended early with status 2(.|\n)*there is no task 'juggle'"):
            session.spin(15)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_demo_leaves_no_processes_and_no_partial_bag(
    tmp_path: Path, kuka: Path, number: signal.Signals
) -> None:
    out = tmp_path / "demo"
    program = (
        "from pathlib import Path; from ros_nodes.demo import run_demo;"
        f"run_demo(Path({str(kuka)!r}), 60, Path({str(out)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        log = out / "log" / "controller_node.1.log"
        while not (log.exists() and "active: the agent acts" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        process.send_signal(number)
        assert process.wait(15) != 0
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGKILL:
        assert not (out / "bag").exists()
        return
    with AnyReader([out / "bag"]) as reader:
        assert reader.message_count > 10
