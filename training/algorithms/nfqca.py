"""Neural fitted Q-iteration with continuous actions (002): fits on base points B, drawn from all experience.

For n = 0, 1, ...: y = r + gamma (1 - terminated) q(s', d(s'; w_n); theta_n) at every base point; theta_{n+1} fits
(q(s, a) - y)^2; w_{n+1} descends -E_B[q(s, d(s; w); theta_{n+1})], by the chain rule grad_w d grad_a q. Targets stay
as they are during a fit, so that there are no target networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from training.agent.agent import Agent
from training.agent.situation import Situation
from training.algorithms.ddpg import policy_loss
from training.algorithms.off_policy import CriticOptions, OffPolicy, adam, bellman_target, minibatches
from training.config import TrainConfig
from training.exploration import GaussianNoise
from training.gradient_step import descend
from training.ranges import Count, NonNegative, Positive
from training.replay_buffer import Batch


@dataclass(frozen=True)
class NFQCAOptions(CriticOptions):
    """Settings of NFQCA."""

    learning_rate: Positive = 1e-3
    """Adam's step size for the policy."""
    critic_learning_rate: Positive = 1e-3
    """Adam's step size for the critics."""
    base_points: Count = 8192
    """Transitions drawn for the iterations after each rollout; all of them while there are fewer."""
    iterations: Count = 2
    """Iterations after each rollout, which share its gradient steps."""
    noise_std: NonNegative = 0.2
    """Standard deviation of the gaussian noise of the actions tried, normalised."""


class NFQCA(OffPolicy[NFQCAOptions]):
    """A critic that is fitted to fixed targets, and a deterministic policy that ascends it, in turns."""

    name = "nfqca"
    summary = "neural fitted Q-iteration, the policy by the chain rule through the critic"
    options_class = NFQCAOptions
    continuous_head = "deterministic"
    discrete_head = ""

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.critics, _ = self.make_critics(1)
        self.optimizer = adam(agent.policy.parameters(), self.options.learning_rate)
        self.critic_optimizer = adam(self.critics.parameters(), self.options.critic_learning_rate)
        self.noise = GaussianNoise(self.options.noise_std)
        self.parts = {
            "critics": self.critics,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    @classmethod
    def adapt(cls, config: TrainConfig) -> TrainConfig:
        """Rollouts that are long enough to be worth an iteration."""
        return replace(super().adapt(config), num_envs=8, horizon=64)

    def try_out(self, situation: Situation) -> Tensor:
        action = self.agent.act(situation.z)
        return (action + self.noise.sample(action)).clamp(-1.0, 1.0)

    def target(self, points: Batch) -> Tensor:
        """Value y (B,) of every base point."""
        following = self.critics.q(points.after, self.agent.act(points.after.z))[0]
        return bellman_target(points, self.config.gamma, following)

    def improve(self, steps: int) -> Iterator[dict[str, Tensor]]:
        """Iterations on the same base points; each one's fit and its ascent make equally many gradient steps."""
        o = self.options
        points = self.buffer.at_most(o.base_points)
        count = max(1, round(steps / o.iterations))
        for _ in range(o.iterations):
            with torch.no_grad():
                target = self.target(points)
            for index in minibatches(len(points), o.batch_size, count):
                loss = self.fit_loss(points.now.rows(index), points.action[index], target[index])
                descend(self.critic_optimizer, loss)
                yield {"critic_loss": loss.detach()}
            for index in minibatches(len(points), o.batch_size, count):
                loss = policy_loss(self.critics, self.agent, points.now.rows(index))
                descend(self.optimizer, loss)
                yield {"actor_loss": loss.detach()}

    def fit_loss(self, s: Situation, action: Tensor, target: Tensor) -> Tensor:
        """E[(q(s, a) - y)^2], ()."""
        return mse_loss(self.critics.q(s, action)[0], target)
