"""Proximal policy optimisation: max E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.agent.agent import Agent
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
    """Start of Adam's step size, adapted to `target_kl`."""
    gae_lambda: Share = 0.95
    """Trace of the generalised advantage estimate."""
    clip: Positive = 0.2
    """Clipping range of the probability ratio."""
    epochs: Count = 5
    """Passes over each batch."""
    minibatches: Count = 4
    """Minibatches per pass."""
    target_kl: Positive = 0.02
    """KL divergence per update that the step size aims at."""
    entropy: NonNegative = 0.0
    """Weight of the entropy bonus."""


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(rho A, clip(rho, 1 - eps, 1 + eps) A), elementwise."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


class PPO(Algorithm[PPOOptions]):
    """Policy and critic heads learn on the stored beliefs; the step size follows the measured KL divergence."""

    name = "ppo"
    summary = "clipped probability ratios, step size by the KL divergence"
    options_class = PPOOptions

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.parameters = [*agent.policy.parameters(), *agent.critic.parameters(), agent.log_std]
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.options.learning_rate, eps=1e-5)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns the mean of each quantity worth logging."""
        o, agent = self.options, self.agent
        situation, action = rollout.now.flat(), rollout.action.flatten(0, 1)
        with torch.no_grad():
            old = agent.distribution(situation.z, situation.gait)
            old_log_prob = old.log_prob(action)
            value, following = agent.value(*rollout.now), agent.value(*rollout.after)
            advantage = gae(
                rollout.reward, value, following, rollout.terminated, rollout.done, self.config.gamma, o.gae_lambda
            )
        target = (advantage + value).flatten()
        advantage = advantage.flatten()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        logs: list[tuple[float, float, float]] = []
        for _ in range(o.epochs):
            for index in torch.randperm(len(action)).chunk(o.minibatches):
                now = situation.rows(index)
                distribution = agent.distribution(now.z, now.gait)
                ratio = (distribution.log_prob(action[index]) - old_log_prob[index]).exp()
                policy_loss = -clipped_objective(ratio, advantage[index], o.clip).mean()
                value_loss = (agent.value(*now) - target[index]).square().mean()
                entropy = distribution.entropy().mean()
                with torch.no_grad():
                    kl = old.rows(index).kl(distribution).mean().item()
                self._follow_kl(kl)
                self.optimizer.zero_grad()
                (policy_loss + value_loss - o.entropy * entropy).backward()
                nn.utils.clip_grad_norm_(self.parameters, 1.0)
                self.optimizer.step()
                logs.append((policy_loss.item(), value_loss.item(), kl))
        policy_loss, value_loss, kl = (sum(column) / len(logs) for column in zip(*logs, strict=True))
        explained = 1 - (target - value.flatten()).var() / (target.var() + 1e-8)
        return {
            "train/policy_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/approx_kl": kl,
            "train/explained_variance": explained.item(),
            "train/std": agent.log_std.exp().mean().item(),
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

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
