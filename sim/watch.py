"""A task or a bundle in a window, in real time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from runtime.bundle import Bundle
from runtime.controller import Controller
from sim.env import TaskEnv
from sim.episode import episode
from sim.evaluate import match_task
from sim.tasks import task_class


def watch(env: TaskEnv, bundle: Bundle | None, seed: int, goes_on: Callable[[], bool]) -> None:
    """Run one episode after the other in `env`, made to render, while `goes_on`.

    Without a bundle, actions are zero: the robot holds its pose as its drives do.
    """
    while goes_on():
        deadline = time.monotonic()
        for _ in _ticks(env, bundle, seed):
            env.render()
            deadline += 1 / env.task.rate_hz
            time.sleep(max(0.0, deadline - time.monotonic()))
            if not goes_on():
                return
        seed += 1


def _ticks(env: TaskEnv, bundle: Bundle | None, seed: int) -> Iterator[object]:
    if bundle is not None:
        yield from episode(Controller(bundle), env, seed, match_task(bundle.contract, task_class(env.task.name)))
        return
    env.reset(seed=seed)
    for _ in range(env.task.episode_steps):
        yield env.step(np.zeros(env.layout.joints))
