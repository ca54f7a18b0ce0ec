"""A part of a run's simulations, with a copy of the agent that acts in them: what an actor of a cluster is made of."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from runtime.errors import GanglionError
from training.algorithms import algorithm_class
from training.checkpoint import build_agent
from training.config import TrainConfig
from training.rollout import Collector, Rollout

_LIVES = 10_000  # more than there are shards


@dataclass(frozen=True)
class Policy:
    """What a shard needs to act as the learner would."""

    version: int
    """Updates that made it."""
    agent: dict[str, Any]
    """State of the agent."""
    explorer: dict[str, Any]
    """What else the algorithm explores by; see `Algorithm.explorer`."""


@dataclass(frozen=True)
class Fragment:
    """A rollout of a shard by one version of the policy."""

    shard: int
    life: int
    """How often the shard had begun anew before."""
    number: int
    """Of the shard's fragments in this life, from 0."""
    version: int
    rollout: Rollout
    seconds: float
    """It took."""


def shares(config: TrainConfig, count: int) -> list[TrainConfig]:
    """The settings with the simulations divided among `count` shards, one process each.

    Raises GanglionError for more shards than simulations, or an algorithm that has to watch where it learns.
    """
    if count > config.num_envs:
        raise GanglionError(f"actors is {count}, expected at most one for each of {config.num_envs} num_envs")
    if config.algo == "bc":
        raise GanglionError("bc has to see every tick that its teacher judges; train it without a cluster")
    least, more = divmod(config.num_envs, count)
    return [replace(config, num_envs=least + (i < more), workers=1, device="cpu") for i in range(count)]


class Shard:
    """Simulates and acts; what it draws depends on the seed, the steps at its start, its index and its life alone."""

    def __init__(self, config: TrainConfig, index: int, life: int, steps: int) -> None:
        """`config` has the simulations of this shard alone; `steps` were made before."""
        self.index, self.life, self._made = index, life, 0
        with torch.random.fork_rng(devices=[]):
            self.agent = build_agent(config)
            self.algorithm = algorithm_class(config.algo)(config, self.agent)
            seed = np.random.SeedSequence([config.seed, steps, index, life]).generate_state(1)[0]
            torch.manual_seed(int(seed))
            self._random = torch.get_rng_state()
        self._collector = Collector(config, self.agent, steps, index + life * _LIVES)

    def collect(self, policy: Policy) -> Fragment:
        """One rollout by the policy. Raises GanglionError if an action is not finite."""
        started = time.monotonic()
        self.agent.load_state_dict(policy.agent)
        self.algorithm.set_explorer(policy.explorer)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            rollout = self._collector.collect(self.algorithm.explore)
            self._random = torch.get_rng_state()
        number, self._made = self._made, self._made + 1
        return Fragment(self.index, self.life, number, policy.version, rollout, time.monotonic() - started)

    def close(self) -> None:
        """End the simulations."""
        self._collector.close()
