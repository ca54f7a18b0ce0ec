"""One unit of the study: train one contestant with one seed, judge it, keep the weights and the figures."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.refinement_study.cloning import clone
from benchmarks.refinement_study.contest import AUGMENTATIONS, CONTESTANTS, TASKS, Task, Variant
from benchmarks.refinement_study.judging import judge
from benchmarks.refinement_study.pilots import Pilot, Predictive
from benchmarks.refinement_study.sensor_bounds import calibrate_pilot
from runtime.files import write_json
from training.checkpoint import save_tensors

JUDGED_FROM = 1_000_000
CALIBRATED_FROM = 2_000_000
_EVERY = 20  # updates between reports
_FORMAT = 2  # of the figures; those of another are judged again, from the weights


@dataclass(frozen=True)
class Unit:
    """What to train and judge."""

    task: str
    agent: str
    seed: int
    augmentation: str
    episodes: int
    effort: float = 1.0
    """Multiplies the number of updates."""
    faults: tuple[str, ...] = ()
    """Faults besides the nominal case; all if empty."""
    first_episode: int = JUDGED_FROM
    """Seed of the first of the episodes in which everyone is judged."""

    @property
    def name(self) -> str:
        """Stem of the unit's files."""
        return f"{self.task}-{self.agent}-{self.augmentation}-{self.seed}"


Report = Callable[[str, int, int], None]


def run_unit(unit: Unit, folder: Path, report: Report, compiled: bool = False) -> dict[str, Any]:
    """Figures of the unit, from its file if it is there. `report` gets a stage, what is done of it, and the total.

    `compiled` trains the project's agents compiled.
    """
    results = folder / f"{unit.name}.json"
    settings = {
        "episodes": unit.episodes, "effort": unit.effort, "faults": list(unit.faults), "format": _FORMAT,
        "first_episode": unit.first_episode,
    }  # fmt: skip
    if results.exists():
        kept: dict[str, Any] = json.loads(results.read_text())
        if kept["settings"] == settings:
            return kept
    torch.set_num_threads(1)
    task, contestant = TASKS[unit.task], CONTESTANTS[unit.agent]
    pilot = _trained(unit, folder, report, compiled)
    checked = next((v for v in contestant.variants if v.checks), None)
    switched_off: list[str] = []
    if checked is not None and isinstance(pilot, Predictive):
        report("calibrate the checks", 0, 1)
        off = calibrate_pilot(pilot, task, checked.steps, CALIBRATED_FROM).switched_off
        switched_off = list(compress(task.layout.channels, off))
    figures = {}
    for i, variant in enumerate(contestant.variants):
        report("judge", i, len(contestant.variants))
        figures[variant.name] = _judged(pilot, task, variant, unit)
    kept = {"settings": settings, "switched_off": switched_off, "variants": figures}
    write_json(results, kept)
    return kept


def _trained(unit: Unit, folder: Path, report: Report, compiled: bool) -> Pilot:
    contestant = CONTESTANTS[unit.agent]
    torch.manual_seed(unit.seed)
    pilot = contestant.make(TASKS[unit.task])
    if contestant.schedule is None:
        return pilot
    schedule = contestant.schedule.scaled(unit.effort)
    weights = folder / f"{unit.name}-{schedule.total}.pt"
    if not weights.exists():
        learner = copy.deepcopy(pilot)
        if compiled and isinstance(learner, Predictive):
            learner.compile_tick()
        clone(
            learner, TASKS[unit.task].make_world, schedule, AUGMENTATIONS[unit.augmentation], unit.seed,
            lambda done, terms: report("train", done, schedule.total) if done % _EVERY == 0 else None,
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(weights, learner.state_dict())
    pilot.load_state_dict(torch.load(weights, weights_only=True))
    return pilot


def _judged(pilot: Pilot, task: Task, variant: Variant, unit: Unit) -> dict[str, Any]:
    asked = ("nominal", *unit.faults) if unit.faults else task.faults
    faults = tuple(f for f in task.faults if f in asked and (variant.everywhere or f in task.swept))
    at_once = max(1, task.rows // unit.episodes)
    figures: dict[str, Any] = {}
    for i in range(0, len(faults), at_once):
        figures |= _figures(pilot, task, variant, unit, faults[i : i + at_once])
    return figures


def _figures(
    pilot: Pilot, task: Task, variant: Variant, unit: Unit, faults: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    arena = task.make_arena(faults, unit.episodes, unit.first_episode)
    verdict = judge(pilot, arena, variant.steps, variant.checks, task.estimate)
    square_error = task.estimate_scale**2 * verdict.square_error
    error = np.sqrt(square_error.mean(1))
    return {
        fault: {
            "cost": [round(float(c), 4) for c in verdict.cost[i]],
            "final": [round(float(c), 4) for c in verdict.final[i]],
            "failed": int(verdict.failed[i].sum()),
            "rmse": None if np.isnan(error[i]) else float(error[i]),
            "square_error": None if np.isnan(error[i]) else square_error[i].round(4).tolist(),
            "gated": verdict.gated[i].round(6).tolist(),
            "frozen": verdict.frozen[i].round(6).tolist(),
            "signals": {name: _finite(values[i]) for name, values in verdict.signals.items()},
        }
        for i, fault in enumerate(faults)
    }


def _finite(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in np.nan_to_num(values, neginf=-1e12, posinf=1e12)]
