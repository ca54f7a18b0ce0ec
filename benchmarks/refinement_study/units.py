"""One unit of the study: train one contestant with one seed, judge it, keep the weights and the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.refinement_study.cloning import clone
from benchmarks.refinement_study.contest import AUGMENTATIONS, CONTESTANTS, TASKS, Task, Variant
from benchmarks.refinement_study.judging import judge
from benchmarks.refinement_study.pilots import Pilot, Predictive
from benchmarks.refinement_study.sensor_bounds import calibrate_checks
from runtime.files import write_json
from training.checkpoint import save_tensors

JUDGED_FROM = 1_000_000  # seed of the episodes in which everyone is judged
CALIBRATED_FROM = 2_000_000
_EVERY = 20  # updates between reports


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

    @property
    def name(self) -> str:
        """Stem of the unit's files."""
        return f"{self.task}-{self.agent}-{self.augmentation}-{self.seed}"


Report = Callable[[str, int, int], None]


def run_unit(unit: Unit, folder: Path, report: Report) -> dict[str, Any]:
    """Figures of the unit, from its file if it is there. `report` gets a stage, what is done of it, and the total."""
    results = folder / f"{unit.name}.json"
    settings = {"episodes": unit.episodes, "effort": unit.effort, "faults": list(unit.faults)}
    if results.exists():
        kept: dict[str, Any] = json.loads(results.read_text())
        if kept["settings"] == settings:
            return kept
    torch.set_num_threads(1)
    task, contestant = TASKS[unit.task], CONTESTANTS[unit.agent]
    pilot = _trained(unit, folder, report)
    if isinstance(pilot, Predictive) and any(v.checks for v in contestant.variants):
        calibrate_checks(pilot, task, CALIBRATED_FROM, unit.episodes)
    figures = {}
    for i, variant in enumerate(contestant.variants):
        report("judge", i, len(contestant.variants))
        figures[variant.name] = _judged(pilot, task, variant, unit)
    kept = {"settings": settings, "variants": figures}
    write_json(results, kept)
    return kept


def _trained(unit: Unit, folder: Path, report: Report) -> Pilot:
    contestant = CONTESTANTS[unit.agent]
    updates = max(1, round(contestant.schedule.updates * unit.effort))
    weights = folder / f"{unit.name}-{updates}.pt"
    torch.manual_seed(unit.seed)
    pilot = contestant.make(TASKS[unit.task])
    if weights.exists():
        pilot.load_state_dict(torch.load(weights, weights_only=True))
        return pilot
    schedule = replace(contestant.schedule, updates=updates)
    clone(
        pilot, TASKS[unit.task].make_world, schedule, AUGMENTATIONS[unit.augmentation], unit.seed,
        lambda done, terms: report("train", done, updates) if done % _EVERY == 0 else None,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(weights, pilot.state_dict())
    return pilot


def _judged(pilot: Pilot, task: Task, variant: Variant, unit: Unit) -> dict[str, Any]:
    asked = ("nominal", *unit.faults) if unit.faults else task.faults
    faults = tuple(f for f in task.faults if f in asked and (variant.everywhere or f in task.masked))
    at_once = max(1, task.rows // unit.episodes)
    figures: dict[str, Any] = {}
    for i in range(0, len(faults), at_once):
        figures |= _figures(pilot, task, variant, faults[i : i + at_once], unit.episodes)
    return figures


def _figures(
    pilot: Pilot, task: Task, variant: Variant, faults: tuple[str, ...], episodes: int
) -> dict[str, dict[str, Any]]:
    arena = task.make_arena(faults, episodes, JUDGED_FROM)
    verdict = judge(pilot, arena, variant.steps, variant.checks, task.estimate)
    error = task.estimate_scale * np.sqrt(verdict.square_error.mean(1))
    return {
        fault: {
            "cost": [round(float(c), 4) for c in verdict.cost[i]],
            "final": [round(float(c), 4) for c in verdict.final[i]],
            "failed": int(verdict.failed[i].sum()),
            "rmse": None if np.isnan(error[i]) else float(error[i]),
            "gated": verdict.gated[i].round(6).tolist(),
            "frozen": verdict.frozen[i].round(6).tolist(),
            "signals": {name: _finite(values[i]) for name, values in verdict.signals.items()},
        }
        for i, fault in enumerate(faults)
    }


def _finite(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in np.nan_to_num(values, neginf=-1e12, posinf=1e12)]
