"""Proximal policy optimisation on the belief: max E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.agent.agent import Agent
from training.config import TrainConfig
from training.returns import gae
from training.rollout import Rollout

_LEARNING_RATES = (1e-5, 3e-3)


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(rho A, clip(rho, 1 - eps, 1 + eps) A), elementwise."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


class PPO:
    """Policy and critic heads learn on the stored beliefs; the step size follows the measured KL divergence."""

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        self.config, self.agent = config, agent
        self.parameters = [*agent.policy.parameters(), *agent.critic.parameters(), agent.log_std]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, eps=1e-5)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns the mean of each quantity worth logging."""
        c = self.config
        advantage = gae(rollout.reward, rollout.value, rollout.done, rollout.last_value, c.gamma, c.gae_lambda)
        target = (advantage + rollout.value).flatten()
        advantage = advantage.flatten()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        z, x, action = (t.flatten(0, 1) for t in (rollout.z, rollout.x, rollout.action))
        old_log_prob = rollout.log_prob.flatten()
        gait = None if rollout.gait is None else rollout.gait.flatten(0, 1)
        with torch.no_grad():
            old = self.agent.distribution(z, gait)
        logs: list[tuple[float, float, float]] = []
        for _ in range(c.epochs):
            for index in torch.randperm(len(z)).chunk(c.minibatches):
                now = None if gait is None else gait[index]
                distribution = self.agent.distribution(z[index], now)
                log_prob = distribution.log_prob(action[index]).sum(-1)
                ratio = (log_prob - old_log_prob[index]).exp()
                policy_loss = -clipped_objective(ratio, advantage[index], c.clip).mean()
                value_loss = (self.agent.value(z[index], x[index], now) - target[index]).square().mean()
                entropy = distribution.entropy().sum(-1).mean()
                with torch.no_grad():
                    before = torch.distributions.Normal(old.loc[index], old.scale[index])
                    kl = torch.distributions.kl_divergence(before, distribution).sum(-1).mean().item()
                self._follow_kl(kl)
                self.optimizer.zero_grad()
                (policy_loss + value_loss - c.entropy * entropy).backward()
                nn.utils.clip_grad_norm_(self.parameters, 1.0)
                self.optimizer.step()
                logs.append((policy_loss.item(), value_loss.item(), kl))
        policy_loss, value_loss, kl = (sum(column) / len(logs) for column in zip(*logs, strict=True))
        explained = 1 - (target - rollout.value.flatten()).var() / (target.var() + 1e-8)
        return {
            "train/policy_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/approx_kl": kl,
            "train/explained_variance": explained.item(),
            "train/std": self.agent.log_std.exp().mean().item(),
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _follow_kl(self, kl: float) -> None:
        low, high = _LEARNING_RATES
        for group in self.optimizer.param_groups:
            if kl > 2 * self.config.target_kl:
                group["lr"] = max(low, group["lr"] / 1.5)
            elif 0 < kl < self.config.target_kl / 2:
                group["lr"] = min(high, group["lr"] * 1.5)
