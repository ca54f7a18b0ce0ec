"""What algorithms that learn from a replay buffer share: experience first, then gradient steps on drawn transitions."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Adam

from training import learners
from training.agent.agent import Agent
from training.agent.situation import Situation
from training.algorithms.base import Algorithm
from training.config import Options, TrainConfig
from training.q_networks import QNetworks
from training.ranges import Count, Natural, Positive, UpToOne
from training.replay_buffer import Batch, ReplayBuffer
from training.rollout import Rollout


@dataclass(frozen=True)
class ReplayOptions(Options):
    """Settings of every algorithm with a replay buffer."""

    buffer_size: Count = 300_000
    """Transitions that the replay buffer keeps, on the disk in the run's folder."""
    learning_starts: Natural = 2_000
    """Transitions with random actions before learning starts."""
    batch_size: Count = 256
    """Transitions in each gradient step."""
    gradient_steps: Positive = 1.0
    """Gradient steps per environment step."""
    learning_rate: Positive = 3e-4
    """Adam's step size for the policy."""


@dataclass(frozen=True)
class CriticOptions(ReplayOptions):
    """Settings of those that learn critics beside the policy."""

    critic_learning_rate: Positive = 3e-4
    """Adam's step size for the critics."""
    critic_hidden: Natural = 0
    """Width of the critics' hidden layers; 0 is that of the agent."""


@dataclass(frozen=True)
class OffPolicyOptions(CriticOptions):
    """Settings of those whose critics have target networks that follow."""

    tau: UpToOne = 0.005
    """Share of the learned weights that the target networks take on in each gradient step."""


@dataclass(frozen=True)
class ActorCriticOptions(OffPolicyOptions):
    """Settings of those that improve a policy through its critics in every gradient step."""

    batch_size: Count = 128
    """Transitions in each gradient step."""
    gradient_steps: Positive = 0.5
    """Gradient steps per environment step."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the policy."""
    critic_learning_rate: Positive = 1e-3
    """Adam's step size for the critics."""
    tau: UpToOne = 0.02
    """Share of the learned weights that the target networks take on in each gradient step."""


P = TypeVar("P", bound=ReplayOptions)


class OffPolicy(Algorithm[P]):
    """Adds every rollout to the buffer and lets the subclass `improve` by it."""

    off_policy = True

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.buffer = self._make_buffer(None)
        self._behind = 0
        self._elsewhere: int | None = None

    @classmethod
    def adapt(cls, config: TrainConfig) -> TrainConfig:
        """Short rollouts of few simulations, so that the next one already acts on what was learned from the last."""
        short = replace(config, num_envs=16, horizon=16, sequence=16, model_only_steps=0)
        return replace(short, checkpoint_every=20_000, log_every=1_000)

    def _make_buffer(self, folder: Path | None) -> ReplayBuffer:
        agent, seed = self.agent, self.config.seed + learners.rank() * learners.APART
        discrete = agent.config.head == "categorical"
        sizes = agent.model.size, agent.observation_size, agent.action_size
        return ReplayBuffer(self.options.buffer_size, *sizes, discrete, seed, folder)

    def open(self, folder: Path) -> None:
        self.buffer = self._make_buffer(folder)
        self._behind = max(learners.everyone(self.buffer.total)) - self.buffer.total

    def make_critics(self, count: int) -> tuple[QNetworks, QNetworks]:
        """Networks of (z, x, a), or of (z, x) with an output for each choice, and their targets, equal to them."""
        agent, o = self.agent, self.options
        assert isinstance(o, CriticOptions)
        hidden = o.critic_hidden or agent.config.hidden
        inputs, choices = agent.model.size + agent.observation_size, len(agent.config.choices)
        shape = (inputs, hidden, choices) if choices else (inputs + agent.action_size, hidden, 1)
        critics = QNetworks(*shape, count)
        return critics, deepcopy(critics).requires_grad_(False)

    @property
    def experienced(self) -> int:
        """Transitions so far, of the learner that had the most when the run went on, and so the same for all: a kill
        leaves some with a rollout more than others, and all have to begin to learn at once.
        """
        return self.buffer.total + self._behind if self._elsewhere is None else self._elsewhere

    @property
    def progress(self) -> float:
        """Part of the run that is over, 0 to 1."""
        return min(self.experienced * learners.count() / self.config.steps, 1.0)

    @property
    def learning_rate(self) -> float:
        """Step size for the policy, now."""
        return self.options.learning_rate

    def explorer(self) -> dict[str, Any]:
        return {"experienced": self.experienced}

    def set_explorer(self, values: dict[str, Any]) -> None:
        self._elsewhere = int(values["experienced"])

    @torch.no_grad()
    def explore(self, situation: Situation) -> Tensor:
        if self.experienced >= self.options.learning_starts:
            return self.try_out(situation)
        return self.random_action(situation)

    def random_action(self, situation: Situation) -> Tensor:
        """Uniform over the choices, or over the whole range of a continuous action."""
        rows = len(situation.x)
        if self.agent.config.choices:
            return torch.randint(len(self.agent.config.choices), (rows,))
        return 2 * torch.rand(rows, self.agent.action_size) - 1

    def random_in(self, share: float, situation: Situation, action: Tensor) -> Tensor:
        """The actions (B, A), or (B,) int64, but random ones in a `share` of the rows."""
        chosen = torch.rand(len(action), device=action.device) < share
        random = self.random_action(situation).to(action)
        return torch.where(chosen.reshape(-1, *[1] * (action.dim() - 1)), random, action)

    @abstractmethod
    def try_out(self, situation: Situation) -> Tensor:
        """The action to try once learning has started, as `explore` gives it."""

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Add the rollout, then make the gradient steps that it calls for; the mean of each of their losses."""
        self.buffer.add(rollout)
        if self.experienced < self.options.learning_starts:
            return {}
        losses: dict[str, list[Tensor]] = {}
        for step in self.improve(max(1, round(self.options.gradient_steps * rollout.reward.numel()))):
            for name, loss in step.items():
                losses.setdefault(name, []).append(loss)
        logs = {f"train/{name}": torch.stack(values).mean().item() for name, values in losses.items()}
        return logs | {"train/learning_rate": self.learning_rate}

    @abstractmethod
    def improve(self, steps: int) -> Iterator[dict[str, Tensor]]:
        """Make so many gradient steps; what is worth logging on the way, (), detached, by its name after `train/`."""

    def state(self) -> dict[str, Any]:
        return super().state() | {"buffer": self.buffer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        if learners.rank() == 0:  # the others draw as they like
            self.buffer.restore(state["buffer"])


class StepByStep(OffPolicy[P]):
    """Draws a new batch for every gradient step, and lets the subclass `learn` from it."""

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.updates = 0
        """Gradient steps made."""

    def improve(self, steps: int) -> Iterator[dict[str, Tensor]]:
        for _ in range(steps):
            self.updates += 1
            yield self.learn(self.buffer.sample(self.options.batch_size))

    @abstractmethod
    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step; what is worth logging of it, as `improve` gives it."""

    def state(self) -> dict[str, Any]:
        return super().state() | {"updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.updates = int(state["updates"])


def adam(parameters: Iterable[Tensor], learning_rate: Positive) -> Adam:
    """Adam that steps all parameters by one call."""
    return Adam(parameters, lr=learning_rate, fused=True)


def minibatches(rows: int, size: int, count: int) -> Iterator[Tensor]:
    """So many minibatches of indices below `rows`, in passes over all of them, each pass in a new order."""
    passes = (torch.randperm(n).split(size) for n in itertools.repeat(rows))
    return itertools.islice(itertools.chain.from_iterable(passes), count)


def bellman_target(batch: Batch, gamma: float, following: Tensor) -> Tensor:
    """Target r + gamma (1 - terminated) v(s') (..., B) for v(s') (..., B): through a time limit, never past an end."""
    return batch.reward + gamma * (1.0 - batch.terminated) * following
