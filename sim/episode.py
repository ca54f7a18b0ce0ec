"""One episode of a bundle's controller in a simulation: sample, tick, advance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from runtime.controller import Command, Controller
from runtime.safety import Status
from runtime.sample import Sample
from sim.env import TaskEnv
from sim.tasks.base import Outcome

Disturbance = Callable[[Sample, int], None]
"""Changes the readings, and the times of their arrival, of tick 0, 1, … in place before the controller sees them."""


@dataclass(frozen=True)
class EpisodeTick:
    """One tick, after the simulation has advanced by it."""

    index: int
    """Ticks since the episode began."""
    command: Command
    outcome: Outcome


def episode(
    controller: Controller,
    env: TaskEnv,
    seed: int,
    columns: np.ndarray | slice = slice(None),
    disturb: Disturbance | None = None,
) -> Iterator[EpisodeTick]:
    """Ticks of `controller`, reset at the start, in `env` until the task ends the episode.

    `columns` (D,) int64 picks the contract's channels from the task's observation. Readings arrive when the task's
    sensors say, unless `disturb` changes that. While the controller waits, the robot stays where it is.
    """
    controller.reset()
    sample = Sample(controller.contract)
    period_ns = round(1e9 / controller.contract.rate_hz)
    observation, _ = env.reset(seed=seed)
    for index in range(env.task.episode_steps):
        now_ns = index * period_ns
        sample.values[:], sample.stamp_ns[:] = observation[columns], env.stamp_ns[columns]
        if disturb is not None:
            disturb(sample, index)
        command = controller.tick(sample, now_ns)
        waiting = command.status is Status.WAITING
        observation, outcome = env.advance(env.pose() if waiting else command.values)
        yield EpisodeTick(index, command, outcome)
        if outcome.terminated:
            return
