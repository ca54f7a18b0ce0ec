"""Ticks of the real Controller in the real simulation, with failing sensors, for the gate and the calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.bundle import Bundle
from runtime.controller import Controller, Status
from runtime.sample import Sample
from sim.env import RobotEnv
from sim.tasks import task_class
from training.augment import SensorDropout

HELD_OUT = 1_000_000  # added to seeds, so that these episodes were not trained on


@dataclass(frozen=True)
class RecordedTicks:
    """Inputs of the graph at N ticks, float32."""

    observation: np.ndarray
    """(N, D)."""
    mask: np.ndarray
    """(N, D)."""
    previous_action: np.ndarray
    """(N, A)."""
    z: np.ndarray
    """(N, Z)."""


def record_ticks(bundle: Bundle, task: str, seed: int, ticks: int = 1000) -> RecordedTicks:
    """Run episodes with failing sensors at changing K and keep what entered the graph."""
    controller = Controller(bundle)
    env = RobotEnv(task)
    rng = np.random.default_rng(seed + HELD_OUT)
    failing = SensorDropout(task_class(task).observations, 1, rng)
    choices = [k for k in (0, 1, 2, 4, 8) if k <= bundle.contract.refinement.max_steps]
    rows: list[tuple[np.ndarray, ...]] = []
    episode = 0
    try:
        while len(rows) < ticks:
            controller.refine = int(rng.choice(choices))
            for inputs in _episode(controller, env, failing, seed + HELD_OUT + episode):
                rows.append(inputs)
                if len(rows) >= ticks:
                    break
            episode += 1
    finally:
        env.close()
    return RecordedTicks(*(np.stack(column) for column in zip(*rows, strict=True)))


def _episode(controller: Controller, env: RobotEnv, failing: SensorDropout, seed: int) -> list[tuple[np.ndarray, ...]]:
    sample = Sample(controller.contract)
    observation, _ = env.reset(seed=seed)
    controller.reset()
    failing.restart(np.ones(1, dtype=bool))
    period_ns = round(1e9 / controller.contract.rate_hz)
    inference = controller.inference
    rows: list[tuple[np.ndarray, ...]] = []
    for tick in range(env.task.episode_steps):
        values = observation if tick == 0 else np.where(failing.step()[0] > 0, observation, np.nan)
        sample.put_flat(values, tick * period_ns)
        before = (inference.previous_action[0].copy(), inference.state["z"][0].copy())
        command = controller.tick(sample, tick * period_ns)
        rows.append((inference.observation[0].copy(), inference.mask[0].copy(), *before))
        if command.status == Status.WAITING:
            break
        observation, outcome = env.advance(command.values)
        if outcome.terminated:
            break
    return rows
