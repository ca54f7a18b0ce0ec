"""The natural policy gradient (000, 004): theta <- theta + sqrt(2 epsilon / g'F^-1 g) F^-1 g, g = E[grad log pi A].

F is the Fisher information of the policy, the Hessian of the KL divergence; the step has KL = epsilon to second order.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.utils import parameters_to_vector

from training import learners
from training.agent.agent import Agent
from training.algorithms.base import Algorithm
from training.algorithms.on_policy import (
    AdvantageOptions,
    Batch,
    Critic,
    explained_variance,
    make_batch,
    policy_logs,
    policy_parameters,
    with_shorter_rollouts,
)
from training.config import TrainConfig
from training.natural_gradient import fisher_product, flat_gradient, natural_step, put
from training.ranges import Count, NonNegative, Positive
from training.returns import step_weights
from training.rollout import Rollout


@dataclass(frozen=True)
class NPGOptions(AdvantageOptions):
    """Settings of the natural policy gradient."""

    target_kl: Positive = 0.03
    """Epsilon, the KL divergence of a step."""
    cg_steps: Count = 10
    """Steps of conjugate gradient towards F^-1 g."""
    cg_damping: NonNegative = 0.01
    """Added to the diagonal of F."""
    value_learning_rate: Positive = 1e-3
    """Adam's step size for the critic."""
    value_epochs: Count = 10
    """Passes of the critic over each batch."""


def surrogate(agent: Agent, batch: Batch) -> tuple[Tensor, Tensor]:
    """E[pi'(a|s)/pi(a|s) A] of the present policy pi', and its mean KL divergence from the old one, both ()."""
    now = agent.distribution(batch.now.z, batch.now.gait)
    ratio = step_weights(now.log_prob(batch.action), batch.old_log_prob)
    return (ratio * batch.advantage).mean(), batch.old.kl(now).mean()


class NPG(Algorithm[NPGOptions]):
    """The policy takes one natural step per rollout, then the critic learns."""

    name = "npg"
    summary = "natural policy gradient, steps of a given KL divergence"
    options_class = NPGOptions

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.parameters = policy_parameters(agent)
        self.critic = Critic(agent, self.options.value_learning_rate)
        self.parts = {"critic": self.critic.optimizer}

    @classmethod
    def adapt(cls, config: TrainConfig) -> TrainConfig:
        return with_shorter_rollouts(config)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns what is worth logging."""
        o, agent = self.options, self.agent
        batch = make_batch(agent, rollout, o, self.config.gamma)
        gain, kl = surrogate(agent, batch)
        fisher = fisher_product(kl, self.parameters, o.cg_damping)
        gradient = learners.mean(flat_gradient(gain, self.parameters))
        step = natural_step(lambda vector: learners.mean(fisher(vector)), gradient, o.target_kl, o.cg_steps)
        logs = self.take(step, batch)
        return {
            "train/policy_loss": -surrogate(agent, batch)[0].item(),
            "train/value_loss": self.critic.fit(batch, o.value_epochs, 4),
            "train/explained_variance": explained_variance(batch),
            **policy_logs(agent, batch),
            **logs,
        }

    def take(self, step: Tensor, batch: Batch) -> dict[str, float]:
        """Move the policy's parameters by `step` (P,); returns what is worth logging of it."""
        put(self.parameters, parameters_to_vector(self.parameters) + step)
        return {}
