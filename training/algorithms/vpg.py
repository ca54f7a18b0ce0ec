"""The vanilla policy gradient (002, 004): E[grad log pi(a|s) A] with advantages by a learned baseline, whole batches.

With gae_lambda 1 the advantage is the reward to go less the baseline V(s). Further epochs on a rollout reweight it with
the importance of the new policy, E[w grad log pi' A]: w = pi'(a|s)/pi(a|s) of the tick, right to first order, or the
product of these over the trajectory so far, exact but of a variance that grows with its length.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from runtime.errors import GanglionError
from training.agent.agent import Agent
from training.algorithms.base import Algorithm
from training.algorithms.on_policy import (
    AdvantageOptions,
    Critic,
    adam,
    annealing,
    explained_variance,
    make_batch,
    policy_logs,
    policy_parameters,
    pseudo_loss,
    with_shorter_rollouts,
)
from training.config import TrainConfig
from training.gradient_step import descend
from training.ranges import Count, Positive, Share
from training.returns import step_weights, trajectory_weights
from training.rollout import Rollout

IMPORTANCE = ("step", "trajectory")


@dataclass(frozen=True)
class VPGOptions(AdvantageOptions):
    """Settings of the vanilla policy gradient."""

    gae_lambda: Share = 0.97
    """Trace of gae and truncated: 0 trusts the critic (TD(0)), 1 the rewards."""
    learning_rate: Positive = 5e-3
    """Start of Adam's step size for the policy, which falls to nearly none at the end."""
    value_learning_rate: Positive = 1e-3
    """Adam's step size for the critic."""
    value_epochs: Count = 5
    """Passes of the critic over each batch."""
    epochs: Count = 1
    """Steps of the policy on each batch."""
    importance: str = "step"
    """Importance weights of the steps after the first. step: of each tick by itself. trajectory: of all that led to
    it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.importance not in IMPORTANCE:
            raise GanglionError(f"importance is '{self.importance}', expected one of {', '.join(IMPORTANCE)}")


class VPG(Algorithm[VPGOptions]):
    """The policy takes a step on the whole rollout, then the critic learns."""

    name = "vpg"
    summary = "vanilla policy gradient with a learned baseline"
    options_class = VPGOptions

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.optimizer = adam(policy_parameters(agent), self.options.learning_rate)
        self.schedule = annealing(self.optimizer, config)
        self.critic = Critic(agent, self.options.value_learning_rate)
        self.parts = {"optimizer": self.optimizer, "schedule": self.schedule, "critic": self.critic.optimizer}

    @classmethod
    def adapt(cls, config: TrainConfig) -> TrainConfig:
        return with_shorter_rollouts(config)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns what is worth logging."""
        o, agent = self.options, self.agent
        batch = make_batch(agent, rollout, o, self.config.gamma)
        losses: list[float] = []
        for _ in range(o.epochs):
            log_prob = agent.distribution(batch.now.z, batch.now.gait).log_prob(batch.action)
            weight = self._importance(log_prob.detach(), batch.old_log_prob, rollout.done)
            loss = pseudo_loss(log_prob, weight * batch.advantage)
            descend(self.optimizer, loss, longest=1.0)
            losses.append(loss.item())
        self.schedule.step()
        return {
            "train/policy_loss": sum(losses) / len(losses),
            "train/value_loss": self.critic.fit(batch, o.value_epochs, 4),
            "train/explained_variance": explained_variance(batch),
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            **policy_logs(agent, batch),
        }

    def _importance(self, log_prob: Tensor, old_log_prob: Tensor, done: Tensor) -> Tensor:
        """Weights (M,) of the ticks, for the new and the old log probabilities (M,)."""
        if self.options.importance == "step":
            return step_weights(log_prob, old_log_prob)
        return trajectory_weights(log_prob.view_as(done), old_log_prob.view_as(done), done).flatten()
