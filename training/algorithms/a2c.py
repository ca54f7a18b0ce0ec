"""Advantage actor-critic (002, 003, 004): actor and critic take one step together on a short rollout of N workers.

The actor descends -E[log pi(a|s) stop_grad(A)] - entropy H[pi], the critic E[(V(s) - (A + V_old))^2]. With TD(0),
A = delta, this is the actor-critic of 002 on a batch of N.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from training.agent.agent import Agent
from training.algorithms.base import Algorithm
from training.algorithms.on_policy import (
    AdvantageOptions,
    adam,
    annealing,
    explained_variance,
    make_batch,
    policy_logs,
    policy_parameters,
    pseudo_loss,
    value_loss,
)
from training.config import TrainConfig
from training.gradient_step import descend
from training.ranges import NonNegative, Positive, Share
from training.rollout import Rollout


@dataclass(frozen=True)
class A2COptions(AdvantageOptions):
    """Settings of A2C."""

    gae_lambda: Share = 0.97
    """Trace of gae and truncated: 0 trusts the critic (TD(0)), 1 the rewards."""
    learning_rate: Positive = 3e-3
    """Start of Adam's step size, which falls to nearly none at the end."""
    value_weight: NonNegative = 1.0
    """Weight of the critic's loss."""
    entropy: NonNegative = 3e-3
    """Weight of the entropy bonus."""


class A2C(Algorithm[A2COptions]):
    """One step per rollout."""

    name = "a2c"
    summary = "actor and critic step together on short rollouts"
    options_class = A2COptions

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        learned = [*policy_parameters(agent), *agent.critic.parameters()]
        self.optimizer = adam(learned, self.options.learning_rate)
        self.schedule = annealing(self.optimizer, config)
        self.parts = {"optimizer": self.optimizer, "schedule": self.schedule}

    @classmethod
    def adapt(cls, config: TrainConfig) -> TrainConfig:
        """Few simulations, rollouts as short as a sequence of the model, so many small updates; twice the steps."""
        return replace(config, num_envs=16, horizon=config.sequence, steps=2 * config.steps)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns what is worth logging."""
        o, agent = self.options, self.agent
        batch = make_batch(agent, rollout, o, self.config.gamma)
        distribution = agent.distribution(batch.now.z, batch.now.gait)
        policy_loss = pseudo_loss(distribution.log_prob(batch.action), batch.advantage)
        critic_loss = value_loss(agent, batch)
        loss = policy_loss + o.value_weight * critic_loss - o.entropy * distribution.entropy().mean()
        descend(self.optimizer, loss, longest=1.0)
        self.schedule.step()
        return {
            "train/policy_loss": policy_loss.item(),
            "train/value_loss": critic_loss.item(),
            "train/explained_variance": explained_variance(batch),
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            **policy_logs(agent, batch),
        }
