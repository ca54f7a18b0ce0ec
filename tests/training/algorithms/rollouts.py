"""Agents of the cart-pole tasks in float64, and random rollouts for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tests.training.models import HOLD
from training.agent.agent import Agent
from training.agent.situation import Situation
from training.algorithms import algorithm_class
from training.algorithms.base import Algorithm
from training.checkpoint import build_agent
from training.config import TrainConfig
from training.presets import preset
from training.rollout import Rollout

TASKS = ("cartpole", "cartpole_push")
"""With a gaussian and with a categorical head."""


def plain(task: str, algo: str, **options: Any) -> TrainConfig:
    """Settings without a model: the belief is the last reading."""
    config = preset(task, algo)
    agent = replace(config.agent, inference=HOLD, hidden=12)
    kept = replace(config.options, **options) if options else config.options
    return replace(
        config, model_epochs=0, model_only_steps=0, workers=1, eval_every=0, refine=(0,), agent=agent, options=kept
    )


def learner(config: TrainConfig) -> Algorithm[Any]:
    """The algorithm with a new agent in float64, whose policy already differs from state to state."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the matrices are small
    agent = build_agent(config).double()
    with torch.no_grad():
        agent.policy.get_parameter("4.weight").normal_(std=0.5)
    return algorithm_class(config.algo)(config, agent)


def random_rollout(agent: Agent, ticks: int = 12, count: int = 4) -> Rollout:
    """Of the agent's own actions; an episode of each of the first two environments is over, or cut, on the way."""
    torch.manual_seed(1)
    size, channels = agent.model.size, agent.observation_size
    now, after = (
        Situation(torch.randn(ticks, count, size).double(), torch.randn(ticks, count, channels).double())
        for _ in range(2)
    )
    with torch.no_grad():
        action = agent.distribution(now.z).sample()
    terminated = torch.zeros(ticks, count).double()
    terminated[ticks // 2, 0] = 1.0
    done = terminated.clone()
    done[ticks // 3, 1] = 1.0
    reward = torch.randn(ticks, count).double()
    empty = torch.zeros(0)
    return Rollout(empty, empty, empty, [], empty, now, after, action, reward, terminated, done)


def of_worker(rollout: Rollout, i: int) -> Rollout:
    """What environment i saw of a rollout."""
    only = slice(i, i + 1)
    parts = {name: getattr(rollout, name)[:, only] for name in ("action", "reward", "terminated", "done")}
    now, after = (Situation(s.z[:, only], s.x[:, only]) for s in (rollout.now, rollout.after))
    return replace(rollout, now=now, after=after, **parts)
