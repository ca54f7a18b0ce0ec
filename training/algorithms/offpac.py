"""Off-policy actor-critic: a policy gradient on replayed states, every action of it drawn anew (004).

    critic   y_i = r_i + gamma (1 - d_i) q_target(s'_i, a'_i),                  a'_i ~ pi(. | s'_i)
    actor    grad J = (1/N) sum_i grad log pi(a_i | s_i) (q(s_i, a_i) - b_i),   a_i ~ pi(. | s_i)

Neither the buffer's action nor its successor is what the policy would do, so the critic is one of actions and both sums
resample. With several actions per state, b is the mean q of the others, which leaves the gradient's mean as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from training.agent.agent import Agent
from training.agent.situation import Situation
from training.algorithms.off_policy import OffPolicyOptions, StepByStep, adam, bellman_target
from training.config import TrainConfig
from training.gradient_step import descend
from training.q_networks import QNetworks, polyak
from training.ranges import Count, NonNegative, Positive, UpToOne
from training.replay_buffer import Batch


@dataclass(frozen=True)
class OffPACOptions(OffPolicyOptions):
    """Settings of the off-policy actor-critic."""

    batch_size: Count = 128
    """Transitions in each gradient step."""
    gradient_steps: Positive = 0.25
    """Gradient steps per environment step."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the policy."""
    critic_learning_rate: Positive = 1e-3
    """Adam's step size for the critic."""
    tau: UpToOne = 0.02
    """Share of the learned weights that the target network takes on in each gradient step."""
    action_samples: Count = 8
    """Actions drawn at every state of a batch for the policy gradient; with more than one, each is compared with the
    others."""
    entropy: NonNegative = 1e-3
    """Weight of the entropy bonus; rewards are times 1 - gamma."""


def score_loss(log_prob: Tensor, q: Tensor) -> Tensor:
    """-(1/KN) sum log pi(a|s) stop_grad(q - b) for K actions at each of N states, (K, N) both.

    b is the mean q of the other actions at the state, 0 for K = 1.
    """
    count = len(q)
    advantage = q if count == 1 else count / (count - 1) * (q - q.mean(0))
    return -(log_prob * advantage.detach()).mean()


class OffPAC(StepByStep[OffPACOptions]):
    """The score function needs no gradient of q in the action, so choices are learned as continuous actions are."""

    name = "offpac"
    summary = "off-policy actor-critic, actions drawn anew at replayed states"
    options_class = OffPACOptions
    continuous_head = "squashed"

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        o = self.options
        self.critics, self.target_critics = self.make_critics(1)
        self.critic_optimizer = adam(self.critics.parameters(), o.critic_learning_rate)
        self.optimizer = adam([*agent.policy.parameters(), agent.log_std], o.learning_rate)
        self.parts = {
            "critics": self.critics,
            "target_critics": self.target_critics,
            "critic_optimizer": self.critic_optimizer,
            "optimizer": self.optimizer,
        }

    def try_out(self, situation: Situation) -> Tensor:
        return self.agent.distribution(situation.z).sample()

    def q(self, critics: QNetworks, s: Situation, action: Tensor) -> Tensor:
        """Values (B,) of actions as they are sampled; an unbounded one counts as what the environment makes of it."""
        if self.agent.config.choices:
            return critics.choices(s)[0].gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return critics.q(s, action.clamp(-1.0, 1.0))[0]

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        return self.fit_critic(batch) | self.improve_policy(batch.now)

    def fit_critic(self, batch: Batch) -> dict[str, Tensor]:
        """One step on the critic, and after it the target's."""
        loss = mse_loss(self.q(self.critics, batch.now, batch.action), self.targets(batch))
        descend(self.critic_optimizer, loss)
        polyak(self.target_critics, self.critics, self.options.tau)
        return {"critic_loss": loss.detach()}

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """What the critic learns at the batch, y (B,)."""
        following = self.agent.distribution(batch.after.z).sample()
        return bellman_target(batch, self.config.gamma, self.q(self.target_critics, batch.after, following))

    def improve_policy(self, s: Situation) -> dict[str, Tensor]:
        """One step on the policy at the states s."""
        count, rows = self.options.action_samples, len(s.z)
        index = torch.arange(rows, device=s.z.device).repeat(count)
        distribution = self.agent.distribution(s.z).rows(index)
        with torch.no_grad():
            action = distribution.sample()
            q = self.q(self.critics, s.rows(index), action).reshape(count, rows)
        policy_loss = score_loss(distribution.log_prob(action).reshape(count, rows), q)
        entropy = distribution.entropy().mean()
        descend(self.optimizer, policy_loss - self.options.entropy * entropy)
        return {"policy_loss": policy_loss.detach(), "entropy": entropy.detach(), "q": q.mean()}
