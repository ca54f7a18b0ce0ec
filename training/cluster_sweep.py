"""Trials of a sweep as tasks of a Ray cluster, whose machines share the sweep's folder and its storage.

The process that leads draws the settings and hands out the numbers; a task makes the trial, reports to the storage and
is pruned by it. Ray repeats a task whose worker or node dies, and the trial goes on from the checkpoint of its run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from runtime.fleet import RETRIES, connect, result_of
from training.config import TrainConfig
from training.interrupts import Interrupted, Interrupts
from training.sweep import Sweep, TrialResult
from training.trainer import Status

_LOOK_S = 1.0
_SAVING_S = 60.0  # for interrupted trials to save


def _attempt(
    config: TrainConfig, folder: Path, trials: int, search: tuple[str, ...], storage: str, number: int
) -> None:
    sweep = Sweep(config, folder, trials, search, storage, leads=False)
    sweep.attempt(sweep.trial(number))


def run_on_cluster(
    sweep: Sweep, address: str, at_once: int, report: Callable[[int, Status], None] | None = None
) -> list[TrialResult]:
    """Make the trials that are missing, up to `at_once` at a time; all of them, the best first.

    `report` gets a trial's number and what its last evaluation found. Ctrl-C and SIGTERM let the trials under way save
    and raise Interrupted. Raises GanglionError if the cluster cannot be used, or a trial fails by its own fault.
    """
    connect(address)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_attempt)
    what = (sweep.config, sweep.folder.resolve(), sweep.trials, sweep.search, sweep.storage)
    under_way: dict[Any, int] = {}
    with Interrupts() as interrupts:
        while True:
            while len(under_way) < at_once and (trial := sweep.next_trial(under_way.values())) is not None:
                under_way[task.remote(*what, trial.number)] = trial.number
            if not under_way:
                return sweep.results()
            ended, _ = ray.wait(list(under_way), num_returns=1, timeout=_LOOK_S)
            for answer in ended:
                result_of(answer, f"trial {under_way.pop(answer)}")
            if report is not None:
                _tell(sweep, report)
            if interrupts.signum:
                _save(list(under_way))
                raise Interrupted(interrupts.signum)


def _tell(sweep: Sweep, report: Callable[[int, Status], None]) -> None:
    """Of every trial what its last evaluation found."""
    for trial in sweep.study.get_trials(deepcopy=False):
        if trial.intermediate_values:
            steps = max(trial.intermediate_values)
            value = trial.intermediate_values[steps]
            report(trial.number, Status(steps, sweep.config.steps, 0.0, value, 0.0))


def _save(answers: list[Any]) -> None:
    for answer in answers:
        ray.cancel(answer, force=False, recursive=False)
    if answers:
        ray.wait(answers, num_returns=len(answers), timeout=_SAVING_S)
