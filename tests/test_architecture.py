from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STANDARD = sys.stdlib_module_names | {"__main__", "__mp_main__", "sitecustomize", "usercustomize"}
OURS = {"runtime", "sim", "training", "export", "ros_nodes", "ganglion"}


def imported_by(statement: str) -> set[str]:
    """Top-level modules beyond the standard library and ours that a fresh interpreter has after `statement`."""
    found = "print(json.dumps(sorted(set(sys.modules) - before)))"
    code = f"import json, sys\nbefore = set(sys.modules)\n{statement}\n{found}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    names = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    return {n for n in names if n not in STANDARD | OURS and not n.startswith(("_", "cython_runtime"))}


def test_arrows_run_down_only() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    "module",
    ["runtime.controller", "runtime.bench", "runtime.telemetry", "runtime.messages", "runtime.loop",
     "runtime.replay.replay", "runtime.describe"],
)  # fmt: skip
def test_the_robot_side_imports_numpy_and_onnxruntime_alone(module: str) -> None:
    optional = imported_by("import onnxruntime")  # what onnxruntime itself brings on this machine
    assert imported_by(f"import {module}") <= {"numpy", "onnxruntime"} | optional
    assert not optional & {"torch", "rosbags", "tyro", "rich", "pybullet", "rclpy"}


def test_the_command_line_starts_without_anything_heavy() -> None:
    heavy = {"numpy", "onnxruntime", "torch", "pybullet", "gymnasium", "rclpy", "rosbags", "onnx", "matplotlib"}
    assert not imported_by("import ganglion\nganglion.main(['--help'])") & heavy


def test_no_other_top_level_package() -> None:
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert packages <= OURS | {"tests"}
    assert not (ROOT / "launch" / "__init__.py").exists()  # it would shadow the launch package of ROS


@pytest.mark.parametrize("page", ["safety.md", "comparison.md"])
def test_every_test_that_the_docs_name_is_there(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text()))
    written = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 15
    assert named <= written
