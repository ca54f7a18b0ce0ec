"""Proximal policy optimisation: max E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.agent.agent import Agent
from training.agent.distributions import Distribution
from training.agent.situation import Situation
from training.algorithms.base import Algorithm
from training.config import Options, TrainConfig
from training.ranges import Count, NonNegative, Positive, Share
from training.returns import gae
from training.rollout import Rollout

_LEARNING_RATES = (1e-5, 3e-3)


@dataclass(frozen=True)
class PPOOptions(Options):
    """Settings of PPO."""

    learning_rate: Positive = 1e-3
    """Start of Adam's step size."""
    gae_lambda: Share = 0.95
    """Trace of the generalised advantage estimate."""
    clip: Positive = 0.2
    """Clipping range of the probability ratio."""
    epochs: Count = 5
    """Passes over each batch."""
    minibatches: Count = 4
    """Minibatches per pass."""
    target_kl: NonNegative = 0.02
    """KL divergence per update that the step size aims at; 0 leaves the step size as it is."""
    entropy: NonNegative = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: Positive = 1.0
    """Longest gradient, of policy and critic together."""


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(rho A, clip(rho, 1 - eps, 1 + eps) A), elementwise."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


class Batch(NamedTuple):
    """What the objective reads of T N ticks, in any order."""

    now: Situation
    action: Tensor
    """(B, A), or (B,) int64 where actions are choices."""
    old: Distribution
    """Policy that acted."""
    old_log_prob: Tensor
    """(B,)."""
    advantage: Tensor
    """(B,)."""
    target: Tensor
    """Of the value (B,)."""

    def rows(self, index: Tensor | slice) -> Batch:
        """Those at `index`."""
        now, old = self.now.rows(index), self.old.rows(index)
        return Batch(now, self.action[index], old, self.old_log_prob[index], self.advantage[index], self.target[index])


class PPO(Algorithm[PPOOptions]):
    """Policy and critic heads learn on the stored beliefs; the step size follows the measured KL divergence."""

    name = "ppo"
    summary = "clipped probability ratios, step size by the KL divergence"
    options_class = PPOOptions

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.parameters = [*agent.policy.parameters(), *agent.critic.parameters(), agent.log_std]
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.options.learning_rate, eps=1e-5, fused=True)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns the mean of each quantity worth logging."""
        o = self.options
        batch, value = self._batch(rollout)
        size = math.ceil(len(batch.target) / o.minibatches)
        logs: list[tuple[Tensor, Tensor, Tensor]] = []
        for _ in range(o.epochs):
            shuffled = batch.rows(torch.randperm(len(batch.target)))
            for start in range(0, len(batch.target), size):
                policy_loss, value_loss, entropy, kl = self._losses(shuffled.rows(slice(start, start + size)))
                if o.target_kl > 0.0:
                    self._follow_kl(kl.item())
                self.optimizer.zero_grad()
                (policy_loss + value_loss - o.entropy * entropy).backward()
                nn.utils.clip_grad_norm_(self.parameters, o.max_grad_norm)
                self.optimizer.step()
                logs.append((policy_loss.detach(), value_loss.detach(), kl))
        policy_loss, value_loss, kl = (torch.stack(column).mean() for column in zip(*logs, strict=True))
        explained = 1 - (batch.target - value).var() / (batch.target.var() + 1e-8)
        return {
            "train/policy_loss": policy_loss.item(),
            "train/value_loss": value_loss.item(),
            "train/approx_kl": kl.item(),
            "train/explained_variance": explained.item(),
            "train/std": self.agent.log_std.exp().mean().item(),
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    @torch.no_grad()
    def _batch(self, rollout: Rollout) -> tuple[Batch, Tensor]:
        """The rollout with its advantages, normalised, and the value (T N,) that the critic gave."""
        agent, now, action = self.agent, rollout.now.flat(), rollout.action.flatten(0, 1)
        old = agent.distribution(now.z, now.gait)
        value, following = agent.value(*rollout.now), agent.value(*rollout.after)
        advantage = gae(
            rollout.reward, value, following, rollout.terminated, rollout.done, self.config.gamma,
            self.options.gae_lambda,
        )  # fmt: skip
        target = (advantage + value).flatten()
        advantage = advantage.flatten()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        return Batch(now, action, old, old.log_prob(action), advantage, target), value.flatten()

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses of policy and value, entropy, and the KL divergence from the old policy, each ()."""
        agent, now = self.agent, batch.now
        distribution = agent.distribution(now.z, now.gait)
        ratio = (distribution.log_prob(batch.action) - batch.old_log_prob).exp()
        policy_loss = -clipped_objective(ratio, batch.advantage, self.options.clip).mean()
        value_loss = (agent.value(*now) - batch.target).square().mean()
        with torch.no_grad():
            kl = batch.old.kl(distribution).mean()
        return policy_loss, value_loss, distribution.entropy().mean(), kl

    def _follow_kl(self, kl: float) -> None:
        low, high = _LEARNING_RATES
        for group in self.optimizer.param_groups:
            if kl > 2 * self.options.target_kl:
                group["lr"] = max(low, group["lr"] / 1.5)
            elif 0 < kl < self.options.target_kl / 2:
                group["lr"] = min(high, group["lr"] * 1.5)

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
