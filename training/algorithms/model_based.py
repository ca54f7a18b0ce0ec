"""What algorithms share that learn to act by differentiating a return in the agent's own latent dynamics."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from training.agent.agent import Agent
from training.agent.distributions import Categorical
from training.algorithms.off_policy import ReplayOptions, StepByStep, adam
from training.config import TrainConfig
from training.derivatives import gumbel_noise, gumbel_softmax
from training.gradient_step import descend
from training.latent_dynamics import LatentDynamics
from training.ranges import Count, Positive
from training.replay_buffer import Batch


@dataclass(frozen=True)
class ModelBasedOptions(ReplayOptions):
    """Settings of algorithms that imagine."""

    batch_size: Count = 128
    """Transitions in each gradient step."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the policy."""
    outcome_learning_rate: Positive = 1e-3
    """Adam's step size for the rewards and the ends of imagined episodes."""
    temperature: Positive = 1.0
    """Of the Gumbel-softmax through which a discrete action is differentiated: the lower, the less biased and the
    noisier."""
    max_grad_norm: Positive = 1.0
    """Norm to which the policy's gradient is clipped: through many imagined ticks it can explode."""


M = TypeVar("M", bound=ModelBasedOptions)


class ModelBased(StepByStep[M]):
    """Learns what imagination lacks, rewards and ends, from drawn transitions; then the subclass improves the policy.

    The dynamics are those of the agent's world model, which the trainer goes on learning.
    """

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.dynamics = LatentDynamics(agent, config.gamma)
        self.outcome_optimizer = adam(self.dynamics.outcome.parameters(), self.options.outcome_learning_rate)
        self.policy_optimizer = adam(agent.policy.parameters(), self.options.learning_rate)
        self.parts |= {
            "outcome": self.dynamics.outcome,
            "outcome_optimizer": self.outcome_optimizer,
            "policy_optimizer": self.policy_optimizer,
        }

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        reward_loss, end_loss = self.dynamics.loss(batch, self.agent.command(batch.action))
        descend(self.outcome_optimizer, reward_loss + end_loss)
        return {"reward_loss": reward_loss.detach(), "end_loss": end_loss.detach()} | self.learn_policy(batch)

    @abstractmethod
    def learn_policy(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of the policy, and of critics; what is worth logging, as `learn` gives it."""

    def ascend(self, objective: Tensor) -> None:
        """One step of the policy up the objective (B,), its gradient clipped."""
        descend(self.policy_optimizer, -objective.mean(), self.options.max_grad_norm)

    def choose(self, policy: Categorical) -> Tensor:
        """A sampled choice as one-hot (B, M), with the derivative of a Gumbel-softmax."""
        noise = gumbel_noise(policy.logits)
        return gumbel_softmax(noise, policy.logits, self.options.temperature, straight_through=True)
