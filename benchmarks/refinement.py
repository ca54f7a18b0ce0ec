"""What predictive-coding refinement is worth: agents trained and judged under sensor faults, side by side.

    python -m benchmarks.refinement [--tasks cartpole] [--agents hold stack gru amortized plain gauss_newton]
                                     [--seeds 0 1 2] [--episodes 100] [--output runs/refinement]

Each agent is trained on its own with each seed, on the same worlds and the same failing sensors, and judged in the same
episodes under every fault. What is finished is kept in the output folder, so an interrupted study goes on where it was.
Writes results.json, tables.md and plots there.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.refinement_study.contest import AUGMENTATIONS, CONTESTANTS, TASKS
from benchmarks.refinement_study.report import write_report
from benchmarks.refinement_study.units import JUDGED_FROM, Unit, run_unit
from runtime.errors import GanglionError
from sim.processes import end_with_parent

_POLL_S = 0.5


@dataclass(frozen=True)
class Options:
    """Train, judge and compare."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks."""
    agents: tuple[str, ...] = tuple(CONTESTANTS)
    """Agents."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the training."""
    episodes: int = 100
    """Episodes per fault and seed."""
    first_episode: int = JUDGED_FROM
    """Seed of the first of these."""
    faults: tuple[str, ...] = ()
    """Faults besides the nominal case; all if empty."""
    augmentation: str = "iid"
    """What fails in training: iid (independent dropout; every other fault is unseen) or full."""
    effort: float = 1.0
    """Multiplies the length of every training; below 1 for a quick look."""
    workers: int = 2
    """Processes."""
    compiled: bool = False
    """Train the project's agents compiled, twice as fast; needs a C++ compiler."""
    output: Path = field(default_factory=lambda: Path("runs/refinement"))
    """Folder of weights, figures and reports."""


def main(options: Options) -> None:
    """Run what is missing, then write the report. Raises GanglionError for a name that the study does not know."""
    for what, given, known in (
        ("task", options.tasks, TASKS),
        ("agent", options.agents, CONTESTANTS),
        ("augmentation", (options.augmentation,), AUGMENTATIONS),
        ("fault", options.faults, {f for t in options.tasks if t in TASKS for f in TASKS[t].faults}),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise GanglionError(f"unknown {what} {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
    os.environ["OMP_NUM_THREADS"] = "1"
    units = [
        Unit(
            task, agent, seed, options.augmentation, options.episodes, options.effort, options.faults,
            options.first_episode,
        )
        for task in options.tasks
        for seed in options.seeds
        for agent in options.agents
        if task in CONTESTANTS[agent].tasks and (CONTESTANTS[agent].schedule or seed == options.seeds[0])
    ]  # fmt: skip
    results = _run(units, options)
    for path in write_report(results, options.output):
        print(path)


def _run(units: list[Unit], options: Options) -> dict[Unit, dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    queue = context.Queue()
    with (
        ProcessPoolExecutor(options.workers, context, _start_worker, (queue,)) as pool,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        waiting = {pool.submit(_work, unit, options): unit for unit in units}
        overall = bar.add_task("units", total=len(units))
        shown: dict[str, Any] = {}
        results: dict[Unit, dict[str, Any]] = {}
        while waiting:
            for future in [f for f in waiting if f.done()]:
                unit = waiting.pop(future)
                results[unit] = future.result()
                bar.advance(overall)
                if unit.name in shown:
                    bar.remove_task(shown.pop(unit.name))
            try:
                name, stage, done, total = queue.get(timeout=_POLL_S)
            except Empty:
                continue
            if name not in shown:
                shown[name] = bar.add_task(name, total=total)
            bar.update(shown[name], description=f"{name} {stage}", completed=done, total=total)
    return results


_progress: Queue[tuple[str, str, int, int]]
"""Of a worker, to the study."""


def _start_worker(queue: Queue[tuple[str, str, int, int]]) -> None:
    global _progress
    _progress = queue
    queue.cancel_join_thread()
    end_with_parent()


def _work(unit: Unit, options: Options) -> dict[str, Any]:
    def report(stage: str, done: int, total: int) -> None:
        _progress.put((unit.name, stage, done, total))

    return run_unit(unit, options.output, report, options.compiled)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except GanglionError as error:
        raise SystemExit(f"error: {error}") from None
