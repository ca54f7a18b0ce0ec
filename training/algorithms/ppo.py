"""Proximal policy optimisation (000, 004): max E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)] - lambda (KL - KL_target).

The penalty is optional; its multiplier ascends the dual, lambda <- max(0, lambda + alpha (KL - KL_target)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runtime.errors import GanglionError
from training import learners
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
    updates_of,
    value_loss,
)
from training.compiling import compiled
from training.config import TrainConfig
from training.gradient_step import AdamState, adam_state
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
    anneal: bool = False
    """Let the step size fall in a straight line to none at the end of the run; needs a target_kl of 0, which would move
    it too."""
    entropy: NonNegative = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: Positive = 1.0
    """Longest gradient, of policy and critic together."""
    compile: bool = False
    """Compile the gradient step, where there is a C++ compiler: for long runs, as the first update takes half a minute
    longer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.anneal and self.target_kl > 0.0:
            raise GanglionError(
                f"the step size cannot both anneal and follow a target_kl of {self.target_kl:g}; add --target-kl 0"
            )


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(rho A, clip(rho, 1 - eps, 1 + eps) A), elementwise."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def dual_ascent(multiplier: float, kl: float, target: float, rate: float) -> float:
    """max(0, lambda + alpha (KL - target)): more penalty while the divergence is above its target, never below 0."""
    return max(0.0, multiplier + rate * (kl - target))


def following(learning_rate: Tensor, kl: Tensor, target: Positive) -> Tensor:
    """The step size (), smaller where the KL divergence () is above twice its target, larger where below half of it."""
    low, high = _LEARNING_RATES
    larger = torch.where((kl > 0.0) & (kl < target / 2), (learning_rate * 1.5).clamp(max=high), learning_rate)
    return torch.where(kl > 2 * target, (learning_rate / 1.5).clamp(min=low), larger)


class Step(NamedTuple):
    """What came of one minibatch, each ()."""

    learning_rate: Tensor
    """That it was made with."""
    policy_loss: Tensor
    value_loss: Tensor
    clip_fraction: Tensor
    """Share of the ratios outside of the clipping range."""


class PPO(Algorithm[PPOOptions]):
    """Policy and critic heads learn on the stored beliefs; the step size follows the measured KL divergence."""

    name = "ppo"
    summary = "clipped probability ratios, step size by the KL divergence"
    options_class = PPOOptions

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        learned = [*policy_parameters(agent), *agent.critic.parameters()]
        self.optimizer = adam(learned, self.options.learning_rate)
        self._step = compiled(self._eager_step, self.options.compile)
        self.multiplier = 0.0
        """Lambda of the KL penalty."""
        self.parts = {"optimizer": self.optimizer}

    def pace(self, state: AdamState) -> float:
        """By what the step size is multiplied once `state` has made its steps."""
        if not self.options.anneal:
            return 1.0
        steps = updates_of(self.config) * self.options.epochs * self.options.minibatches
        return max(1.0 - state.steps[0].item() / steps, 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns the mean of each quantity worth logging."""
        o, group = self.options, self.optimizer.param_groups[0]
        batch = make_batch(self.agent, rollout, o, self.config.gamma)
        state = adam_state(self.optimizer)
        rate = group["lr"] * self.pace(state)
        learning_rate, multiplier = torch.tensor(rate), torch.tensor(self.multiplier)
        logs: list[tuple[Tensor, ...]] = []
        for _ in range(o.epochs):
            for part in batch.shuffled(o.minibatches):
                learning_rate, *losses = self._step(part, state._replace(learning_rate=learning_rate), multiplier)
                logs.append(tuple(losses))
        if o.target_kl > 0.0:
            rate = group["lr"] = learning_rate.item()
        names = ("train/policy_loss", "train/value_loss", "train/clip_fraction")
        means = {n: torch.stack(c).mean().item() for n, c in zip(names, zip(*logs, strict=True), strict=True)}
        changes = policy_logs(self.agent, batch)
        divergence = learners.mean(torch.tensor(changes["train/approx_kl"])).item()
        self.multiplier = dual_ascent(self.multiplier, divergence, o.target_kl, o.kl_dual_rate)
        return {
            **means,
            **changes,
            "train/explained_variance": explained_variance(batch),
            "train/kl_multiplier": self.multiplier,
            "train/learning_rate": rate,
        }

    def _eager_step(self, batch: Batch, state: AdamState, multiplier: Tensor) -> Step:
        """Descend the losses of a minibatch, in place; a function of tensors, so that it compiles as a whole."""
        o, agent, learning_rate = self.options, self.agent, torch.as_tensor(state.learning_rate)
        distribution = agent.distribution(batch.now.z, batch.now.gait)
        ratio = step_weights(distribution.log_prob(batch.action), batch.old_log_prob)
        policy_loss = -clipped_objective(ratio, batch.advantage, o.clip).mean()
        critic_loss = value_loss(agent, batch)
        loss = policy_loss + critic_loss
        if o.entropy > 0.0:
            loss = loss - o.entropy * distribution.entropy().mean()
        if o.target_kl > 0.0 or o.kl_dual_rate > 0.0:
            kl = batch.old.kl(distribution).mean()
            if o.target_kl > 0.0:
                learning_rate = following(learning_rate, learners.mean(kl.detach()), o.target_kl)
            if o.kl_dual_rate > 0.0:
                loss = loss + multiplier * kl
        state._replace(learning_rate=learning_rate).descend(loss, o.max_grad_norm)
        outside = ((ratio.detach() - 1).abs() > o.clip).float().mean()
        return Step(learning_rate, policy_loss.detach(), critic_loss.detach(), outside)

    def state(self) -> dict[str, Any]:
        return super().state() | {"multiplier": self.multiplier}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.multiplier = float(state["multiplier"])
