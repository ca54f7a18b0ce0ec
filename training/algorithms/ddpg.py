"""Deep deterministic policy gradient (002, 000).

Critic: the least of (q(s, a) - y)^2, y = r + gamma (1 - terminated) q'(s', d'(s')), with target networks q' and d'.
Actor: ascends E[q(s, d(s; w))], whose gradient is E[grad_w d(s; w) grad_a q(s, a)] at a = d(s).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from training.agent.agent import Agent
from training.agent.situation import Situation
from training.algorithms.off_policy import ActorCriticOptions, StepByStep, adam, bellman_target
from training.config import TrainConfig
from training.exploration import make_noise
from training.gradient_step import descend
from training.q_networks import QNetworks, polyak
from training.ranges import NonNegative, Positive
from training.replay_buffer import Batch


@dataclass(frozen=True)
class DDPGOptions(ActorCriticOptions):
    """Settings of DDPG."""

    noise_type: str = "ornstein-uhlenbeck"
    """Noise of the actions tried: normal, or ornstein-uhlenbeck, which drifts from tick to tick."""
    noise_std: NonNegative = 0.2
    """Its sigma, in normalised actions."""
    noise_theta: Positive = 0.15
    """How fast ornstein-uhlenbeck noise drifts back to zero."""
    noise_dt: Positive = 1.0
    """Time step of ornstein-uhlenbeck noise."""


def policy_loss(critics: QNetworks, agent: Agent, s: Situation) -> Tensor:
    """-E[q(s, d(s))] of the first critic, ()."""
    return -critics.q(s, agent.act(s.z), 1).mean()


class DDPG(StepByStep[DDPGOptions]):
    """A critic, a deterministic policy, and targets of both that follow slowly."""

    name = "ddpg"
    summary = "deterministic policy gradient through a critic, with target networks"
    options_class = DDPGOptions
    continuous_head = "deterministic"
    discrete_head = ""
    critic_count: ClassVar[int] = 1

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        o = self.options
        self.critics, self.target_critics = self.make_critics(self.critic_count)
        self.target_policy = deepcopy(agent.policy).requires_grad_(False)
        self.optimizer = adam(agent.policy.parameters(), o.learning_rate)
        self.critic_optimizer = adam(self.critics.parameters(), o.critic_learning_rate)
        self.noise = make_noise(o.noise_type, o.noise_std, o.noise_theta, o.noise_dt)
        self.parts = {
            "critics": self.critics,
            "target_critics": self.target_critics,
            "target_policy": self.target_policy,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    @classmethod
    def adapt(cls, config: TrainConfig) -> TrainConfig:
        return replace(super().adapt(config), num_envs=8)

    def try_out(self, situation: Situation) -> Tensor:
        action = self.agent.act(situation.z)
        return (action + self.noise.sample(action)).clamp(-1.0, 1.0)

    def target_action(self, s: Situation) -> Tensor:
        """d'(s) (B, A)."""
        return torch.tanh(self.target_policy(self.agent.features(s.z)))

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        losses = {"critic_loss": self.learn_critics(batch), "actor_loss": self.learn_policy(batch)}
        self.follow()
        return losses

    def learn_critics(self, batch: Batch) -> Tensor:
        """One step on the sum over the critics of their mean squared errors, which is returned."""
        with torch.no_grad():
            following = self.target_critics.q(batch.after, self.target_action(batch.after)).amin(0)
            target = bellman_target(batch, self.config.gamma, following)
        loss = (self.critics.q(batch.now, batch.action) - target).square().mean(1).sum()
        descend(self.critic_optimizer, loss)
        return loss.detach()

    def learn_policy(self, batch: Batch) -> Tensor:
        """One step on the policy's loss, which is returned."""
        loss = policy_loss(self.critics, self.agent, batch.now)
        descend(self.optimizer, loss)
        return loss.detach()

    def follow(self) -> None:
        """Let the targets follow."""
        polyak(self.target_critics, self.critics, self.options.tau)
        polyak(self.target_policy, self.agent.policy, self.options.tau)
