"""Calibration of the free energy and of each channel's innovation, at each K, on held-out nominal episodes."""

from __future__ import annotations

import numpy as np

from export.record import HELD_OUT
from runtime.bundle import Bundle
from runtime.contract import Health, HealthAt
from runtime.controller import Controller
from runtime.sample import Sample
from sim.env import RobotEnv

LEVELS = (0.5, 0.9, 0.99, 0.999)
_REFINE = (0, 1, 2, 4, 8, 16)
_WARM_TICKS = 20  # the belief forms


def calibrate(bundle: Bundle, task: str, seed: int, episodes: int = 10) -> Health:
    """Quantiles over `episodes` episodes without faults, the first ticks of each left out."""
    env = RobotEnv(task)
    refine: dict[str, HealthAt] = {}
    ticks = 0
    try:
        for k in (k for k in _REFINE if k <= bundle.contract.refinement.max_steps):
            free_energy, innovation = _nominal(Controller(bundle, k), env, seed, episodes)
            ticks = max(ticks, len(free_energy))
            quantiles = np.quantile(np.abs(innovation), LEVELS, axis=0)
            refine[str(k)] = HealthAt(
                free_energy=tuple(np.quantile(free_energy, LEVELS).tolist()),
                innovation={c: tuple(quantiles[:, i].tolist()) for i, c in enumerate(bundle.contract.layout.channels)},
            )
    finally:
        env.close()
    return Health(LEVELS, ticks, refine)


def _nominal(controller: Controller, env: RobotEnv, seed: int, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Free energy (T,) and innovation (T, D) of nominal episodes."""
    sample = Sample(controller.contract)
    period_ns = round(1e9 / controller.contract.rate_hz)
    free_energy, innovation = [], []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + 2 * HELD_OUT + episode)
        controller.reset()
        for tick in range(env.task.episode_steps):
            sample.put_flat(observation, tick * period_ns)
            command = controller.tick(sample, tick * period_ns)
            if tick >= _WARM_TICKS:
                free_energy.append(command.free_energy)
                innovation.append(command.innovation)
            observation, outcome = env.advance(command.values)
            if outcome.terminated:
                break
    return np.array(free_energy), np.array(innovation)
