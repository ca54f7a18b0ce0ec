"""What the on-policy algorithms share: advantages of a rollout, the policy gradient's pseudo-loss, and the critic.

The policy gradient theorem (002), grad J = E_{s,a}[grad log pi(a|s) A(s, a)], becomes by automatic differentiation the
gradient of the pseudo-loss -E[log pi(a|s) stop_grad(A)] (004). The critic regresses to A + V_old, the return that the
advantages estimate; to V_old alone its gradient would be zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from runtime.errors import GanglionError
from training import learners
from training.agent.agent import Agent
from training.agent.distributions import Distribution
from training.agent.situation import Situation
from training.config import Options, TrainConfig
from training.gradient_step import descend
from training.ranges import Count, Share
from training.returns import gae, n_step_return, truncated_gae
from training.rollout import Rollout

ADVANTAGES = ("gae", "truncated", "n_step")


@dataclass(frozen=True)
class AdvantageOptions(Options):
    """How advantages are estimated."""

    advantage: str = "gae"
    """Estimator of the advantage. gae: generalised advantage estimate over all ticks that follow. truncated: the same
    over the next `n_steps` ticks, with weights that sum to one. n_step: the return over `n_steps` ticks less the
    value; 1 is TD(0)."""
    gae_lambda: Share = 0.95
    """Trace of gae and truncated: 0 trusts the critic (TD(0)), 1 the rewards."""
    n_steps: Count = 16
    """Ticks of truncated and n_step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.advantage not in ADVANTAGES:
            raise GanglionError(f"there is no advantage '{self.advantage}'; expected one of {', '.join(ADVANTAGES)}")


class Batch(NamedTuple):
    """M of the ticks of a rollout, in any order."""

    now: Situation
    """(M, ...)."""
    action: Tensor
    """(M, A), or (M,) int64 where actions are choices."""
    old: Distribution
    """The policy that acted."""
    old_log_prob: Tensor
    """(M,)."""
    advantage: Tensor
    """(M,), of zero mean and unit variance."""
    value: Tensor
    """V_old (M,)."""
    target: Tensor
    """A + V_old (M,)."""

    def rows(self, index: Tensor | slice) -> Batch:
        """Those at `index`."""
        rest = (v[index] for v in (self.advantage, self.value, self.target))
        return Batch(self.now.rows(index), self.action[index], self.old.rows(index), self.old_log_prob[index], *rest)

    def shuffled(self, parts: int) -> Iterator[Batch]:
        """All of them once, in random order, in `parts` of equal size but for the last."""
        whole, size = self.rows(torch.randperm(len(self.target))), math.ceil(len(self.target) / parts)
        for start in range(0, len(self.target), size):
            yield whole.rows(slice(start, start + size))


def with_shorter_rollouts(config: TrainConfig) -> TrainConfig:
    """Half as long, for an algorithm to which each is worth no more than one step of the policy."""
    return replace(config, horizon=config.sequence * max(config.horizon // (2 * config.sequence), 1))


def adam(parameters: Iterable[Tensor], learning_rate: float) -> Adam:
    """Adam as policy gradients take it, with a larger epsilon, that steps all parameters by one call."""
    return Adam(parameters, lr=learning_rate, eps=1e-5, fused=True)


def updates_of(config: TrainConfig) -> int:
    """Rollouts of a run, of all learners at once."""
    return max(config.steps // (config.num_envs * config.horizon * learners.count()), 1)


def annealing(optimizer: Optimizer, config: TrainConfig) -> LambdaLR:
    """Lets the step size fall in a straight line to a twentieth at the end of the run; `step` it after every update."""
    updates = updates_of(config)
    return LambdaLR(optimizer, lambda update: max(1.0 - update / updates, 0.05))


@torch.no_grad()
def make_batch(agent: Agent, rollout: Rollout, options: AdvantageOptions, gamma: float) -> Batch:
    """The rollout with advantages by the agent's critic."""
    now, action = rollout.now.flat(), rollout.action.flatten(0, 1)
    old = agent.distribution(now.z, now.gait)
    value = agent.value(*rollout.now)
    advantage = estimated_advantage(rollout, value, agent.value(*rollout.after), options, gamma)
    target = (advantage + value).flatten()
    return Batch(now, action, old, old.log_prob(action), normalised(advantage.flatten()), value.flatten(), target)


def estimated_advantage(
    rollout: Rollout, value: Tensor, following: Tensor, options: AdvantageOptions, gamma: float
) -> Tensor:
    """(T, N), by the estimator that the options name, for the values of each tick and of the one that followed."""
    reward, terminated, done = rollout.reward, rollout.terminated, rollout.done
    if options.advantage == "n_step":
        return n_step_return(reward, following, terminated, done, gamma, options.n_steps) - value
    if options.advantage == "truncated":
        return truncated_gae(reward, value, following, terminated, done, gamma, options.gae_lambda, options.n_steps)
    return gae(reward, value, following, terminated, done, gamma, options.gae_lambda)


def normalised(advantage: Tensor) -> Tensor:
    """To zero mean and unit variance, over all learners."""
    centred = advantage - learners.mean(advantage.mean())
    rows = advantage.numel() * learners.count()
    variance = learners.mean(centred.square().mean()) * rows / (rows - 1)
    return centred / (variance.sqrt() + 1e-8)


def pseudo_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """-E[log pi(a|s) stop_grad(weight)], whose negative gradient is the policy gradient E[grad log pi weight]."""
    return -(log_prob * weight.detach()).mean()


def value_loss(agent: Agent, batch: Batch) -> Tensor:
    """Mean squared error of the critic against A + V_old."""
    return (agent.value(*batch.now) - batch.target).square().mean()


def explained_variance(batch: Batch) -> float:
    """Share of the variance of the targets that the critic had explained before it learned."""
    return (1 - (batch.target - batch.value).var() / (batch.target.var() + 1e-8)).item()


def policy_parameters(agent: Agent) -> list[nn.Parameter]:
    """What the distribution over actions depends on, given the belief."""
    return [*agent.policy.parameters(), *([agent.log_std] if agent.config.head == "gaussian" else [])]


@torch.no_grad()
def policy_logs(agent: Agent, batch: Batch) -> dict[str, float]:
    """How the policy has changed, and its spread."""
    now = agent.distribution(batch.now.z, batch.now.gait)
    logs = {"train/approx_kl": batch.old.kl(now).mean().item(), "train/entropy": now.entropy().mean().item()}
    if agent.config.head == "gaussian":
        logs["train/std"] = agent.log_std.exp().mean().item()
    return logs


class Critic:
    """Adam on the agent's critic."""

    def __init__(self, agent: Agent, learning_rate: float) -> None:
        self.agent = agent
        self.optimizer = adam(agent.critic.parameters(), learning_rate)

    def fit(self, batch: Batch, epochs: int, minibatches: int) -> float:
        """Regress to the batch's targets, `epochs` times over it; returns the mean squared error on the way."""
        losses: list[float] = []
        for _ in range(epochs):
            for part in batch.shuffled(minibatches):
                loss = value_loss(self.agent, part)
                descend(self.optimizer, loss, longest=1.0)
                losses.append(loss.item())
        return sum(losses) / len(losses)
