"""Walkers of `a1_walk` side by side: nominal, randomised and hard worlds, and any two of the twelve encoders lost.

    python -m benchmarks.walking BUNDLE|RUN… [--episodes 500] [--workers 2] [--output runs/walking]

A run that is not exported walks without sensor checks, which are calibrated at export. Every bundle walks the same
held-out episodes of 10 s. "Two encoders" is the nominal world in which position and velocity of two joints are lost for
good from 0.1 s on: every pair in turn. What is finished is kept in the output folder, so an interrupted run goes on
where it was. Writes walking.json and walking.md there.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from export.exporter import draft
from runtime.bundle import Bundle
from runtime.errors import GanglionError
from runtime.files import write_bytes, write_json
from sim.evaluate import evaluate
from sim.tasks import NOMINAL, task_class

_TASK = "a1_walk"
_WORLDS = (NOMINAL, "randomised", "hard")
_PAIRS = "two encoders"
_METRICS = ("velocity_error_m_s", "velocity_error_cycle_m_s", "yaw_rate_error_rad_s", "yaw_rate_error_cycle_rad_s")


@dataclass(frozen=True)
class Options:
    """Compare walkers."""

    bundles: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Bundles for a1_walk, or folders of runs."""
    conditions: tuple[str, ...] = (*_WORLDS, _PAIRS)
    """Of these."""
    episodes: int = 500
    """Episodes of every condition; of the pairs of encoders, rounded up to as many of each pair."""
    seed: int = 1_000_000
    """Of the first episode."""
    workers: int = 2
    """Processes."""
    output: Path = field(default_factory=lambda: Path("runs/walking"))
    """Folder of the results."""


def main(options: Options) -> list[dict[str, Any]]:
    """Walk what has not been walked yet; returns one row for every bundle and condition."""
    unknown = [c for c in options.conditions if c not in (*_WORLDS, _PAIRS)]
    if unknown:
        raise GanglionError(f"unknown condition {unknown}; expected some of {', '.join((*_WORLDS, _PAIRS))}")
    rows = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        for path, condition in itertools.product(options.bundles, options.conditions):
            task = bar.add_task(f"{path.stem}, {condition}", total=None)

            def progress(done: int, total: int, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total)

            rows.append(_row(path, condition, options, progress))
    write_json(options.output / "walking.json", rows)
    text = _table(rows)
    write_bytes(options.output / "walking.md", text.encode())
    print(text)
    return rows


def _row(path: Path, condition: str, options: Options, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Figures of one bundle, kept in a file of their own."""
    bundle = draft(path) if path.is_dir() else Bundle.load(path)
    settings = {"digest": bundle.contract.digest, "episodes": options.episodes, "seed": options.seed}
    kept = options.output / f"{path.stem}-{condition.replace(' ', '_')}.json"
    if kept.exists():
        row: dict[str, Any] = json.loads(kept.read_text())
        if row["settings"] == settings:
            return row
    faults, worlds = [NOMINAL], [condition]
    if condition == _PAIRS:
        pairs = itertools.combinations(task_class(_TASK).robot.joint_names, 2)
        faults, worlds = [f"lost:{a}+{b}" for a, b in pairs], [NOMINAL]
    each = math.ceil(options.episodes / len(faults))
    results = evaluate(
        bundle, _TASK, each, faults=faults, worlds=worlds, seed=options.seed, workers=options.workers, progress=progress
    )["results"]
    count = sum(r["episodes"] for r in results)
    walked = round(sum(r["success_rate"] * r["episodes"] for r in results))
    row = {
        "bundle": path.stem,
        "condition": condition,
        "episodes": count,
        "walked": walked,
        **{m: float(np.mean([r[m] for r in results])) for m in _METRICS},
        "settings": settings,
    }
    if condition == _PAIRS:
        row["pairs"] = {r["fault"].removeprefix("lost:"): r["success_rate"] for r in results}
    write_json(kept, row)
    return row


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a rate, after Wilson."""
    z, rate = 1.959964, successes / trials
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def _table(rows: list[dict[str, Any]]) -> str:
    names = (
        "bundle", "condition", "episodes", "without a fall (95 %)", "velocity error, m/s", "over a cycle",
        "yaw rate error, rad/s", "over a cycle",
    )  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        low, high = wilson(row["walked"], row["episodes"])
        rate = f"{row['walked'] / row['episodes']:.1%} ({low:.1%} to {high:.1%})"
        errors = " | ".join(f"{row[m]:.3f}" for m in _METRICS)
        lines.append(f"| {row['bundle']} | {row['condition']} | {row['episodes']} | {rate} | {errors} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except GanglionError as error:
        raise SystemExit(f"error: {error}") from None
