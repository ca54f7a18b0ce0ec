"""The benchmarks run as their docstrings say; only ratios within one run are judged, never times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_tick(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/tick.py", "--refine", "0", "8", "--ticks", "200"]
    subprocess.run([*command, "--json", str(tmp_path / "tick.json")], cwd=ROOT, check=True, capture_output=True)
    result = json.loads((tmp_path / "tick.json").read_text())
    assert set(result["refine"]) == {"0", "8"}
    for figures in result["refine"].values():
        assert figures["graph"]["p50_us"] < figures["controller"]["p50_us"]
    eight = result["refine"]["8"]
    assert eight["autograd_over_controller"] > 5
    assert eight["torch_over_controller"] > 2
    assert eight["torch"]["p50_us"] < eight["autograd"]["p50_us"]
