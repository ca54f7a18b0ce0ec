"""Calibration of a pilot's sensor checks on nominal episodes of the study, by the rule of the export."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import torch

from benchmarks.refinement_study.contest import Task
from benchmarks.refinement_study.pilots import Predictive
from export.checks import Calibration, Ticks, calibrate_bounds

# Wrong verdicts come in rare bursts: with 20 000 ticks, fresh episodes broke the goal up to eightfold, and of 100 000
# one false alarm of 60 ticks is 0.06 %, which is chance.
_TICKS = 300_000
_EPISODES = 100  # flown at once, if the task allows as many


def calibrate_pilot(pilot: Predictive, task: Task, steps: int, seed: int, ticks: int = _TICKS) -> Calibration:
    """Set the bounds of the pilot's sensor belief for K = `steps`; each attempt flies at least `ticks` nominal ticks.

    Seeds count up from `seed`, so that no episode is flown twice.
    """
    pilot.checks = True
    at_once = min(task.rows, _EPISODES)
    seeds = itertools.count(seed, at_once)

    def fly(attempt: int) -> Ticks:
        parts: list[dict[str, np.ndarray]] = []
        while sum(len(part["verdict"]) for part in parts) < ticks:
            parts.append(_nominal(pilot, task, steps, next(seeds), at_once))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return calibrate_bounds(pilot.agent, steps, fly, task.layout.observations)


@torch.no_grad()
def _nominal(pilot: Predictive, task: Task, steps: int, seed: int, episodes: int) -> dict[str, np.ndarray]:
    """Ticks of nominal episodes, flown side by side."""
    pilot.eval()
    layout, arena = task.layout, task.make_arena(("nominal",), episodes, seed)
    state, previous = pilot.initial(episodes), torch.zeros(episodes, layout.joints)
    k, seen = torch.full((episodes,), steps), torch.ones(episodes, layout.size)
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    for _ in range(arena.ticks):
        readings, _ = arena.observe()
        x = torch.as_tensor((readings - layout.mean) / layout.scale, dtype=torch.float32)
        given = {"observation": x, "mask": seen, "fresh": seen, "previous_action": previous}
        given |= {f"state.{name}": value for name, value in state.items()}
        action, state, belief = pilot.tick(x, seen, previous, state, k)
        found = {"innovation": belief.start.innovation, "verdict": belief.start.verdict}
        arena.step(np.clip(action.numpy().astype(np.float64), -1.0, 1.0))
        previous = torch.as_tensor(arena.executed(), dtype=torch.float32)
        for name, value in (given | found).items():
            rows[name].append(value.numpy())
    arrays = {name: np.stack(values, 1).reshape(-1, *values[0].shape[1:]) for name, values in rows.items()}
    return arrays | {"tick": np.tile(np.arange(arena.ticks), episodes)}
