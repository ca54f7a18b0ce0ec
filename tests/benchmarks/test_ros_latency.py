"""The latency benchmark in little: messages are answered, and the figures fit one another."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_bundle import write_tiny_bundle

if importlib.util.find_spec("rclpy") is None:
    pytest.skip("needs ROS 2", allow_module_level=True)

ROOT = Path(__file__).parents[2]
SECONDS, RATE_HZ = 3, 100


@pytest.mark.timed
def test_one_rate(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.onnx", "kuka_reach", gain=0.05)
    command = [
        sys.executable, "-m", "benchmarks.ros_latency", "--rates", str(RATE_HZ), "--seconds", str(SECONDS),
        "--rounds", "1", "--late-minutes", "0", "--bundle", str(bundle), "--json", str(tmp_path / "latency.json"),
        "--picture", str(tmp_path / "latency.png"),
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    (row,) = json.loads((tmp_path / "latency.json").read_text())["rows"]
    for name in ("echo", "polled", "controller"):
        figures = row[name]
        assert figures["messages"] == pytest.approx(SECONDS * RATE_HZ, abs=5)
        assert figures["answered"] > 0.8, "of a busy machine"
        assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["p99_9_us"] <= figures["max_us"]
    assert row["ticks"] == pytest.approx(SECONDS * RATE_HZ, rel=0.2)
    assert row["tick"]["p50_us"] + row["wait"]["p50_us"] < row["controller"]["p50_us"], "parts of the whole"
    assert row["bound_us"] == pytest.approx(1.5 * (row["echo"]["p50_us"] + row["tick"]["p50_us"]))
    assert row["controller"]["p50_us"] < 3 * row["bound_us"]
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
