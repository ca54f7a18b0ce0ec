"""Twin delayed deep deterministic policy gradient (002): DDPG with three changes against values that are too high.

Twins: y = r + gamma (1 - terminated) min(q'_1, q'_2)(s', a'). Smoothing: a' = clip(d'(s') + clip(sigma eps, -c, c), -1,
1), clipped to the action's bounds after the noise. Delay: the actor, on q_1, and the targets move in every second step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.agent.situation import Situation
from training.algorithms.ddpg import DDPG, DDPGOptions
from training.ranges import Count, NonNegative
from training.replay_buffer import Batch


@dataclass(frozen=True)
class TD3Options(DDPGOptions):
    """Settings of TD3."""

    noise_type: str = "normal"
    """Noise of the actions tried: normal, or ornstein-uhlenbeck, which drifts from tick to tick."""
    policy_delay: Count = 2
    """Steps of the critics for each one of the policy and the targets."""
    target_policy_noise: NonNegative = 0.2
    """Standard deviation of the noise in the target's action, normalised."""
    target_noise_clip: NonNegative = 0.5
    """Largest size of that noise."""


def smoothed(action: Tensor, noise: Tensor, clip: float) -> Tensor:
    """clip(a + clip(noise, -c, c), -1, 1), elementwise."""
    return (action + noise.clamp(-clip, clip)).clamp(-1.0, 1.0)


class TD3(DDPG):
    """The target is made of both critics, the policy ascends the first one."""

    name = "td3"
    summary = "deterministic policy gradient with twin critics, smoothed targets and a delayed policy"
    options_class = TD3Options
    critic_count = 2
    options: TD3Options

    def target_action(self, s: Situation) -> Tensor:
        action = super().target_action(s)
        noise = self.options.target_policy_noise * torch.randn_like(action)
        return smoothed(action, noise, self.options.target_noise_clip)

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        losses = {"critic_loss": self.learn_critics(batch)}
        if self.updates % self.options.policy_delay == 0:
            losses["actor_loss"] = self.learn_policy(batch)
            self.follow()
        return losses
