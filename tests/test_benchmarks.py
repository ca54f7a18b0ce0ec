"""The benchmarks run as their docstrings say; only ratios within one run are judged, never times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.tick import Sizes, _autograd_tick, _torch_tick, random_agent
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[1]


def run(*arguments: str, output: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of `benchmarks.tick` by method and K."""
    command = [sys.executable, "-m", "benchmarks.tick", *arguments, "--ticks", "100", "--json", str(output)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {(row["method"], row["refine"]): row for row in json.loads(output.read_text())["rows"]}


def test_tick_of_random_agents(tmp_path: Path) -> None:
    sizes = ("--sizes.latents", "4", "--sizes.channels", "6", "--sizes.actions", "2", "--sizes.hidden", "8")
    rows = run(*sizes, "--methods", "gauss_newton", "--refine", "0", "8", output=tmp_path / "tick.json")
    assert set(rows) == {("gauss_newton", 0), ("gauss_newton", 8)}
    assert all(row["torch_over_graph"] > 2 and "autograd" not in row for row in rows.values())
    assert rows["gauss_newton", 0]["graph"]["p50_us"] < rows["gauss_newton", 8]["graph"]["p50_us"]


def test_tick_of_a_bundle(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.onnx", "cartpole")
    rows = run("--bundle", str(bundle), "--refine", "0", "2", "99", output=tmp_path / "tick.json")
    assert set(rows) == {("gradient", 0), ("gradient", 2)}, "99 steps are more than the bundle allows"
    assert all(row["graph"]["p50_us"] < row["controller"]["p50_us"] and "torch" not in row for row in rows.values())


def test_both_gradients_lead_to_the_same_action() -> None:
    agent = random_agent("diagonal", Sizes((4,), 6, 2, 8))
    by_hand, by_autograd = (tick(agent, 4)() for tick in (_torch_tick, _autograd_tick))
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-5, atol=1e-6)


def test_the_kernel_in_c_refines_as_torch_does(tmp_path: Path) -> None:
    """It raises if it does not, so that no figure is that of another arithmetic."""
    sizes = ("--sizes.latents", "6", "3", "--sizes.channels", "6", "--sizes.actions", "2", "--sizes.hidden", "8")
    rows = run(*sizes, "--methods", "gradient", "--refine", "0", "8", output=tmp_path / "tick.json")
    assert "kernel" not in rows["gradient", 0]
    assert rows["gradient", 8]["kernel"]["p50_us"] < rows["gradient", 8]["graph"]["p50_us"]
