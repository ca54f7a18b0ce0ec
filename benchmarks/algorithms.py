"""Every learning algorithm on the cart-pole: environment steps and seconds until it is solved.

    python -m benchmarks.algorithms [--algos sac …] [--seeds 0 1 2] [--workers 2] [--output FILE]

Continuous algorithms balance `cartpole`, discrete ones `cartpole_push`, both with their own defaults. A run is solved
when the deployed action stands all 500 ticks in at least 95 of 100 nominal episodes, none of which it has trained on;
it stops there, or at the task's number of steps. Every `--every` steps ten episodes are looked at, and the hundred
when all ten stood. Seconds are of the wall clock, with the tens of episodes and without the hundreds.

What is finished is kept in the output file: run again to fill in what is missing. A Markdown table of all that it holds
is written beside it. Each row tells the commit that it was made by.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from runtime.errors import GanglionError
from runtime.files import write_bytes, write_json
from runtime.source import source_commit
from sim.processes import end_with_parent
from sim.tasks import task_class
from training.algorithms import ALGORITHMS, algorithm_class
from training.config import TrainConfig
from training.evaluation import Evaluator
from training.presets import preset
from training.trainer import Status, Trainer

_CONTINUOUS, _DISCRETE = "cartpole", "cartpole_push"
_EPISODES, _SOLVED = 100, 0.95


@dataclass(frozen=True)
class Options:
    """Compare learning algorithms."""

    algos: tuple[str, ...] = tuple(ALGORITHMS)
    """Algorithms."""
    tasks: tuple[str, ...] = (_CONTINUOUS, _DISCRETE)
    """Tasks; each algorithm learns those whose kind of action it suits."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each."""
    steps: int = 0
    """Most environment steps of a run; 0 is what the algorithm's preset says."""
    every: int = 5_000
    """Steps between looks at the deployed action."""
    workers: int = 1
    """Runs at the same time."""
    output: Path = field(default_factory=lambda: Path("runs/algorithms.json"))
    """File of the results."""


@dataclass(frozen=True)
class Case:
    """One run."""

    task: str
    algo: str
    seed: int


class _Stop(Exception):
    """The run is solved."""


def main(options: Options) -> list[dict[str, Any]]:
    """Make the runs that are missing; returns one row for each that is there then, in the order of the algorithms."""
    rows = _read(options.output)
    missing = [case for case in cases(options) if case not in rows]
    console = Console(soft_wrap=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context, initializer=end_with_parent) as pool:
        futures = {pool.submit(solve, case, options): case for case in missing}
        try:
            for future in as_completed(futures):
                row = rows[futures[future]] = future.result()
                write_json(options.output, _sorted(rows))
                console.print(_words(row), markup=False)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    every = _sorted(rows)
    write_bytes(options.output.with_suffix(".md"), table(every).encode())
    console.print(table(every), markup=False)
    return every


def _read(path: Path) -> dict[Case, dict[str, Any]]:
    """What is finished."""
    rows = json.loads(path.read_text()) if path.exists() else []
    return {Case(row["task"], row["algo"], row["seed"]): row for row in rows}


def _sorted(rows: dict[Case, dict[str, Any]]) -> list[dict[str, Any]]:
    names = list(ALGORITHMS)
    return [rows[case] for case in sorted(rows, key=lambda case: (case.task, names.index(case.algo), case.seed))]


def cases(options: Options) -> list[Case]:
    """Every algorithm with every seed on the tasks that suit it. Raises GanglionError if none is left."""
    found = [
        Case(task, algo, seed)
        for task in options.tasks
        for algo in options.algos
        if (algorithm_class(algo).discrete_head if task_class(task).choices else algorithm_class(algo).continuous_head)
        for seed in options.seeds
    ]
    if not found:
        raise GanglionError(f"none of {', '.join(options.algos)} suits {', '.join(options.tasks)}; choose others")
    return found


def solve(case: Case, options: Options) -> dict[str, Any]:
    """Train until solved, or to the last step; the row of the results. A teacher, if it takes one, learns by PPO."""
    with tempfile.TemporaryDirectory(prefix="ganglion-") as folder:
        config, run = _settings(case, options), Path(folder)
        if hasattr(config.options, "teacher"):
            _until_solved(_settings(replace(case, algo="ppo"), options), run / "teacher")
            config = replace(config, options=replace(config.options, teacher=str(run / "teacher")))  # type: ignore[call-arg]
        found = _until_solved(config, run / "run")
    return {"task": case.task, "algo": case.algo, "seed": case.seed} | found | {"commit": source_commit()}


def _settings(case: Case, options: Options) -> TrainConfig:
    config = preset(case.task, case.algo)
    return replace(
        config, seed=case.seed, steps=options.steps or config.steps, workers=1, device="cpu",
        eval_every=options.every, eval_episodes=10,
    )  # fmt: skip


def _until_solved(config: TrainConfig, run: Path) -> dict[str, Any]:
    """Train into the folder `run`, which keeps the last checkpoint; what came of it."""
    row: dict[str, Any] = {"solved": False, "best": 0.0}
    judge = Evaluator(config.task, _EPISODES)
    judging_s = 0.0
    started = time.monotonic()
    trainer = Trainer(config, run, resume=False)

    def look(status: Status) -> None:
        nonlocal judging_s
        if status.evaluation is None:
            return
        success = status.evaluation.success_rate
        if success == 1.0:
            before = time.monotonic()
            success = judge.run(trainer.agent).success_rate
            judging_s += time.monotonic() - before
            row["solved"] = success >= _SOLVED
        row["best"] = max(row["best"], success)
        if row["solved"]:
            trainer.save()
            raise _Stop

    try:
        trainer.fit(look)
    except _Stop:
        pass
    except GanglionError as error:
        row["error"] = str(error)
    finally:
        judge.close()
    return row | {"steps": trainer.steps, "seconds": round(time.monotonic() - started - judging_s, 1)}


def _words(row: dict[str, Any]) -> str:
    verdict = "solved" if row["solved"] else row.get("error", f"not solved, best {row['best']:.0%}")
    return f"{row['algo']} on {row['task']}, seed {row['seed']}: {verdict} after {row['steps']:,} steps"


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown: a line for each task and algorithm, steps and seconds of the seeds in turn, – where not solved."""
    lines = [
        "| task | algorithm | solved | steps, median | steps of each seed | seconds, median | best, least of seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, algo in dict.fromkeys((row["task"], row["algo"]) for row in rows):
        runs = [row for row in rows if (row["task"], row["algo"]) == (task, algo)]
        solved = [row for row in runs if row["solved"]]
        middle = {
            name: f"{np.median([row[name] for row in solved]):,.0f}" if solved else "–" for name in ("steps", "seconds")
        }
        each = ", ".join(f"{row['steps']:,}" if row["solved"] else "–" for row in runs)
        worst = f"{min(row['best'] for row in runs):.0%}"
        cells = (task, algo, f"{len(solved)} of {len(runs)}", middle["steps"], each, middle["seconds"], worst)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
