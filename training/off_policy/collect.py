"""Logs from simulation: a bundle acts, noise is added to its commands, and what came of it is written down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import GanglionError
from runtime.safety import Status
from runtime.sample import Sample
from sim.env import TaskEnv, make_env
from sim.evaluate import match_task
from sim.tasks import NOMINAL, task_class
from training.off_policy.log import Log

Row = tuple[np.ndarray, np.ndarray, np.ndarray, float, float, bool]


def normal_log_density(error: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Gaussian log-density log N(error; 0, std^2) summed over the last axis, (N,) for errors (N, A) and std (A,)."""
    return -0.5 * ((error / std) ** 2).sum(-1) - np.log(std).sum() - 0.5 * len(std) * np.log(2 * np.pi)


def collect(
    bundle: Bundle,
    noise: float,
    episodes: int = 100,
    task: str = "",
    world: str = NOMINAL,
    seed: int = 2_000_000,
    progress: Callable[[int, int], None] | None = None,
) -> Log:
    """Episodes of the bundle's commands plus Gaussian noise of `noise` times the action's scale.

    Empty, `task` is the one that the bundle was trained for. `progress` is called with the episodes done and the total.
    Raises GanglionError if the noise or the episodes are not positive, or the bundle does not fit the task.
    """
    if not 0 < noise < np.inf or episodes < 1:
        raise GanglionError(f"got noise {noise:g} and {episodes} episodes, expected both to be positive")
    name = task or bundle.contract.provenance.task
    controller, env = Controller(bundle), make_env(name)
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    numbers: list[int] = []
    try:
        columns = match_task(bundle.contract, task_class(name))
        env.set_randomisation(env.task.world(world))
        for number in range(episodes):
            found = _episode(controller, env, columns, noise, seed + number, rng)
            rows += found
            numbers += [number] * len(found)
            if progress is not None:
                progress(number + 1, episodes)
    finally:
        env.close()
    observation, stamp_ns, action, log_probability, reward, terminated = (np.array(c) for c in zip(*rows))
    return Log(
        np.array(numbers), observation, stamp_ns, action, log_probability, reward, terminated,
        np.array(controller.layout.channels), np.array(bundle.contract.action.joints),
        np.array(bundle.contract.rate_hz),
    )  # fmt: skip


def _episode(
    controller: Controller, env: TaskEnv, columns: np.ndarray, noise: float, seed: int, rng: np.random.Generator
) -> list[Row]:
    """Ticks in which the controller acts; it follows what is really commanded."""
    controller.reset()
    contract = controller.contract
    sample, std = Sample(contract), noise * np.array(contract.action.scale)
    observation, _ = env.reset(seed=seed)
    previous = np.zeros(controller.layout.joints)
    rows: list[Row] = []
    for index in range(env.task.episode_steps):
        sample.values[:], sample.stamp_ns[:] = observation[columns], env.stamp_ns[columns]
        seen, stamp_ns = sample.values.copy(), sample.stamp_ns.copy()
        command = controller.tick(sample, round(index * 1e9 / contract.rate_hz))
        if command.status is Status.WAITING:
            observation, _ = env.advance(env.pose())
            continue
        drawn = command.values + std * rng.standard_normal(len(std))
        previous = controller.limits.limit(drawn, previous if rows else command.values)
        controller.follow(previous)
        observation, outcome = env.advance(drawn)
        log_probability = float(normal_log_density(drawn - command.values, std))
        rows.append((seen, stamp_ns, drawn, log_probability, outcome.reward, outcome.terminated))
        if outcome.terminated:
            break
    return rows
