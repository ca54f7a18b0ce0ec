"""The tutorials, run as they stand: every command in order, in a folder of its own, and what they show of the output.

In a block `console`, lines with `$ ` are commands (a backslash continues one), the others are what comes out, in this
order, perhaps with more between. Numbers may differ, and `…` stands for anything.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LONGEST_S = 900.0
_MARK = "@@tutorial@@"


@dataclass
class Step:
    """A command and the lines that the tutorial shows of its output."""

    command: str
    shown: list[str] = field(default_factory=list)


def steps(text: str) -> list[Step]:
    """Of all blocks `console` of a page."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        lines = iter(block.splitlines())
        for line in lines:
            if line.startswith("$ "):
                command = line[2:]
                while command.endswith("\\"):
                    command += "\n" + next(lines)
                found.append(Step(command))
            elif line.strip():
                found[-1].shown.append(line)
    return found


def missing(shown: list[str], output: str) -> str:
    """The first shown line that does not come out, after the one before it; empty if all do."""
    lines = iter(_stable(output).splitlines())
    for line in shown:
        pattern = ".*".join(map(re.escape, _stable(line).strip().split("…")))
        if line.strip() != "…" and not any(re.fullmatch(pattern, got.strip()) for got in lines):
            return line
    return ""


def _stable(text: str) -> str:
    text = re.sub(r"[─━]+", "─", re.sub(r"[^\S\n]+", " ", text))  # columns are as wide as what is in them
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", text)


def run(tutorial: list[Step], folder: Path, domain: int) -> list[tuple[int, str]]:
    """Exit code and output of each command in one shell, up to the first that fails.

    Job control is for the commands in the background alone, so that they heed an interrupt: with it, the shell takes a
    command that is stopped for a moment for one that has ended.
    """
    launcher = folder / "bin" / "ganglion"
    launcher.parent.mkdir()
    path, program = shlex.quote(str(ROOT)), f"{shlex.quote(sys.executable)} -m ganglion"
    launcher.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {program} "$@"\n')
    launcher.chmod(0o755)
    (folder / "bundles").symlink_to(ROOT / "bundles")
    script = "".join(
        f"set {'-' if s.command.endswith('&') else '+'}m\n{s.command}\n"
        f"code=$?; echo; echo {_MARK} $code; ((code)) && exit\n"
        for s in tutorial
    )
    environment = os.environ | {
        "PATH": os.pathsep.join([str(launcher.parent), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(folder / "log"),
    }
    output = folder / "output"
    with output.open("wb") as writing:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            shell.wait(LONGEST_S)
        finally:
            _end_session(shell.pid)
            shell.wait()
    parts = re.split(rf"\n{_MARK} (\d+)\n", output.read_text(errors="replace"))
    return [(int(code), text) for text, code in zip(parts[0::2], parts[1::2])]


def _members(session: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(path.name)) == session:
                yield int(path.name)


def _end_session(session: int) -> None:
    """End what a failing tutorial leaves behind: every process of its shell's session."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        left = list(_members(session))
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + 5.0
        while left and time.monotonic() < end and any(_members(session)):
            time.sleep(0.05)


def check(name: str, folder: Path, files: tuple[str, ...]) -> None:
    """Run a tutorial; `files` is what it promises to leave."""
    from ros_nodes.domains import own_domain

    tutorial = steps((DOCS / f"tutorial_{name}.md").read_text())
    with own_domain() as domain:
        results = run(tutorial, folder, domain)
    for step, (code, output) in zip(tutorial, results):
        assert code == 0, f"$ {step.command}\n{output}"
        assert not missing(step.shown, output), f"$ {step.command}\n{missing(step.shown, output)!r} is not in\n{output}"
    assert len(results) == len(tutorial), f"not ended: $ {tutorial[len(results)].command}"
    assert [f for f in files if not (folder / f).exists()] == []


def test_the_trainers_tutorial(tmp_path: Path) -> None:
    for module in ("torch", "onnxscript", "pybullet", "rclpy"):
        pytest.importorskip(module)
    check("trainer", tmp_path, ("runs/first/checkpoint.pt", "first.onnx", "first_int8.onnx", "first.gif", "eval.json"))
    judged = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert min(row["success_rate"] for row in judged) >= 0.9


@pytest.mark.timed
def test_the_deployers_tutorial(tmp_path: Path) -> None:
    for module in ("pybullet", "rclpy"):
        pytest.importorskip(module)
    check(
        "deployer", tmp_path, ("runs/deployer/bag/metadata.yaml", "runs/deployer/fleet.pub", "runs/deployer/arm.onnx")
    )


@pytest.mark.timed
def test_the_evaluators_tutorial(tmp_path: Path) -> None:
    for module in ("torch", "onnxscript", "pybullet", "rclpy", "plotly", "pyarrow"):
        pytest.importorskip(module)
    files = ("bag", "report.html", "steps.html", "faults.html", "compare.html", "all.html")
    ticks = ("ticks.csv", "ticks.parquet", "ticks.mcap", "replay.json")
    check("evaluator", tmp_path, tuple(f"runs/evaluator/{f}" for f in files + ticks))


def test_shown_output_is_compared_by_what_is_stable() -> None:
    page = "```console\n$ a \\\n  b\nx  12.5 │ yes\n…\ntotal … ok\n$ c\n```\n```\n$ no command of ours\n```\n"
    first, second = steps(page)
    assert (first.command, second.command, second.shown) == ("a \\\n  b", "c", [])
    assert missing(first.shown, "noise\nx 3e-05 │ yes\nmore\ntotal 3 of 4: ok\n") == ""
    assert missing(first.shown, "x 3 │ no\ntotal ok") == "x  12.5 │ yes"
    assert missing(first.shown, "total: ok\nx 3 │ yes") == "total … ok"  # in this order


def test_a_command_that_is_stopped_for_a_moment_goes_on(tmp_path: Path) -> None:
    paused = "bash -c '(sleep 0.2; kill -CONT $$) & kill -STOP $$; echo on'"
    assert [(code, output.strip()) for code, output in run([Step(paused)], tmp_path, 1)] == [(0, "on")]


def test_a_tutorial_ends_at_the_first_command_that_fails_and_leaves_no_process(tmp_path: Path) -> None:
    results = run([Step("sleep 600 & echo $! > pid"), Step("echo seen; (exit 3)"), Step("echo never")], tmp_path, 1)
    assert [(code, output.strip()) for code, output in results] == [(0, ""), (3, "seen")]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
