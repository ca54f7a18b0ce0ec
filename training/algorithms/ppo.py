"""Proximal policy optimisation (000, 004): max E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)] - lambda (KL - KL_target).

The penalty is optional; its multiplier ascends the dual, lambda <- max(0, lambda + alpha (KL - KL_target)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.agent.agent import Agent
from training.algorithms.base import Algorithm
from training.algorithms.on_policy import (
    AdvantageOptions,
    Batch,
    adam,
    explained_variance,
    make_batch,
    policy_logs,
    policy_parameters,
    value_loss,
)
from training.compiling import compiled
from training.config import TrainConfig
from training.ranges import Count, NonNegative, Positive
from training.returns import step_weights
from training.rollout import Rollout

_LEARNING_RATES = (1e-5, 3e-3)


@dataclass(frozen=True)
class PPOOptions(AdvantageOptions):
    """Settings of PPO."""

    learning_rate: Positive = 1e-3
    """Start of Adam's step size."""
    clip: Positive = 0.2
    """Clipping range of the probability ratio."""
    epochs: Count = 5
    """Passes over each batch."""
    minibatches: Count = 4
    """Minibatches per pass."""
    target_kl: NonNegative = 0.02
    """KL divergence per update that the step size, and a KL penalty, aim at; 0 leaves the step size as it is."""
    kl_dual_rate: NonNegative = 0.0
    """Step size alpha of the multiplier of a KL penalty, which begins at zero; 0 is no penalty."""
    entropy: NonNegative = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: Positive = 1.0
    """Longest gradient, of policy and critic together."""
    compile: bool = False
    """Compile the losses, where there is a C++ compiler: for long runs, as the first update takes a minute longer."""


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(rho A, clip(rho, 1 - eps, 1 + eps) A), elementwise."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def dual_ascent(multiplier: float, kl: float, target: float, rate: float) -> float:
    """max(0, lambda + alpha (KL - target)): more penalty while the divergence is above its target, never below 0."""
    return max(0.0, multiplier + rate * (kl - target))


class PPO(Algorithm[PPOOptions]):
    """Policy and critic heads learn on the stored beliefs; the step size follows the measured KL divergence."""

    name = "ppo"
    summary = "clipped probability ratios, step size by the KL divergence"
    options_class = PPOOptions

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.parameters: list[Tensor] = [*policy_parameters(agent), *agent.critic.parameters()]
        self.optimizer = adam(self.parameters, self.options.learning_rate)
        self._compiled_losses = compiled(self._losses, self.options.compile)
        self.multiplier = 0.0
        """Lambda of the KL penalty."""
        self.parts = {"optimizer": self.optimizer}

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns the mean of each quantity worth logging."""
        o = self.options
        batch = make_batch(self.agent, rollout, o, self.config.gamma)
        logs: list[tuple[Tensor, ...]] = []
        for _ in range(o.epochs):
            for part in batch.shuffled(o.minibatches):
                policy_loss, critic_loss, entropy, kl, clipped = self._compiled_losses(part)
                if o.target_kl > 0.0:
                    self._follow_kl(kl.item())
                self.optimizer.zero_grad()
                (policy_loss + critic_loss + self.multiplier * kl - o.entropy * entropy).backward()
                nn.utils.clip_grad_norm_(self.parameters, o.max_grad_norm)
                self.optimizer.step()
                logs.append((policy_loss.detach(), critic_loss.detach(), clipped))
        names = ("train/policy_loss", "train/value_loss", "train/clip_fraction")
        means = {n: torch.stack(c).mean().item() for n, c in zip(names, zip(*logs, strict=True), strict=True)}
        changes = policy_logs(self.agent, batch)
        self.multiplier = dual_ascent(self.multiplier, changes["train/approx_kl"], o.target_kl, o.kl_dual_rate)
        return {
            **means,
            **changes,
            "train/explained_variance": explained_variance(batch),
            "train/kl_multiplier": self.multiplier,
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Losses of policy and value, entropy, KL divergence from the old policy, share of clipped ratios, each ()."""
        agent, clip = self.agent, self.options.clip
        distribution = agent.distribution(batch.now.z, batch.now.gait)
        ratio = step_weights(distribution.log_prob(batch.action), batch.old_log_prob)
        policy_loss = -clipped_objective(ratio, batch.advantage, clip).mean()
        with torch.set_grad_enabled(self.multiplier > 0.0):
            kl = batch.old.kl(distribution).mean()
        clipped = ((ratio.detach() - 1).abs() > clip).float().mean()
        return policy_loss, value_loss(agent, batch), distribution.entropy().mean(), kl, clipped

    def _follow_kl(self, kl: float) -> None:
        low, high = _LEARNING_RATES
        for group in self.optimizer.param_groups:
            if kl > 2 * self.options.target_kl:
                group["lr"] = max(low, group["lr"] / 1.5)
            elif 0 < kl < self.options.target_kl / 2:
                group["lr"] = min(high, group["lr"] * 1.5)

    def state(self) -> dict[str, Any]:
        return super().state() | {"multiplier": self.multiplier}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.multiplier = float(state["multiplier"])
