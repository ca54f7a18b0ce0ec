"""Calibration of a pilot's sensor checks on nominal episodes, by the rules of the export."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.refinement_study.contest import Task
from benchmarks.refinement_study.pilots import Predictive
from export.checks import LARGEST_FALSE_ALARM, Bounds, find_bounds
from training.agent.sensors import DISTRUSTED, FROZEN

_ROUNDS = 5
_WARM_TICKS = 20


def calibrate_checks(pilot: Predictive, task: Task, seed: int, episodes: int) -> None:
    """Set the bounds of the pilot's sensor belief from nominal episodes, and raise those that are wrong too often."""
    bounds = find_bounds(_nominal(pilot, task, seed, episodes), task.layout.observations)
    for attempt in range(1, _ROUNDS + 1):
        bounds.put(pilot.agent.sensors)
        verdict = _nominal(pilot, task, seed + attempt, episodes)["verdict"]
        noisy = [(verdict == v).mean(0) > LARGEST_FALSE_ALARM for v in (DISTRUSTED, FROZEN)]
        if not np.any(noisy):
            return
        bounds = bounds.raised(*noisy)
    Bounds.put(bounds, pilot.agent.sensors)


@torch.no_grad()
def _nominal(pilot: Predictive, task: Task, seed: int, episodes: int) -> dict[str, np.ndarray]:
    """Ticks of nominal episodes with the checks as they are: innovation, verdict (T, D), state.sensors (T, 4, D)."""
    pilot.eval()
    layout, agent = task.layout, pilot.agent
    arena = task.make_arena(("nominal",), episodes, seed)
    state, previous = pilot.initial(episodes), torch.zeros(episodes, layout.joints)
    steps = torch.full((episodes,), agent.config.inference.default_steps)
    rows: dict[str, list[np.ndarray]] = {"innovation": [], "verdict": [], "state.sensors": []}
    for tick in range(arena.ticks):
        readings, _ = arena.observe()
        x = torch.as_tensor((readings - layout.mean) / layout.scale, dtype=torch.float32)
        belief = agent.infer(x, torch.ones_like(x), previous, state, steps, torch.ones_like(x))
        state = belief.state
        arena.step(np.clip(agent.act(belief.z).numpy().astype(np.float64), -1.0, 1.0))
        previous = torch.as_tensor(arena.executed(), dtype=torch.float32)
        if tick >= _WARM_TICKS:
            rows["innovation"].append(belief.start.innovation.numpy())
            rows["verdict"].append(belief.start.verdict.numpy())
            rows["state.sensors"].append(belief.start.sensors.numpy())
    return {name: np.concatenate(values) for name, values in rows.items()}
