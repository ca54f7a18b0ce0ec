"""Deep Q-network, fitted Q-iteration in single gradient steps: y = r + gamma (1 - d) max_a q_target(s', a) (000, 002).

q is the policy network itself, a logit for every choice, so the deployed action is its argmax. With `double_q` the
maximising action is that of q and its value that of q_target.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from training.agent.agent import Agent
from training.agent.situation import Situation
from training.algorithms.off_policy import ReplayOptions, StepByStep, adam, bellman_target
from training.config import TrainConfig
from training.gradient_step import descend
from training.ranges import Count, Positive, Share
from training.replay_buffer import Batch
from training.rollout import Rollout


@dataclass(frozen=True)
class DQNOptions(ReplayOptions):
    """Settings of DQN."""

    batch_size: Count = 128
    """Transitions in each gradient step."""
    gradient_steps: Positive = 0.5
    """Gradient steps per environment step."""
    learning_rate: Positive = 1e-3
    """Adam's step size."""
    target_update_interval: Count = 100
    """Gradient steps after which the target network takes on the learned weights."""
    double_q: bool = True
    """Let the learned network choose the action whose value the target network gives."""
    huber: Positive = 1.0
    """Error beyond which the loss grows in a straight line; rewards are times 1 - gamma."""
    exploration_fraction: Share = 0.2
    """Part of the run over which the share of random actions falls in a straight line."""
    exploration_initial_eps: Share = 1.0
    """Share of random actions at the start."""
    exploration_final_eps: Share = 0.05
    """Share of random actions once it has fallen."""


def value_of_best(q: Tensor, chooser: Tensor) -> Tensor:
    """q(s, argmax_a chooser(s, a)) (B,) of two (B, M); with `chooser` the same as q it is max_a q(s, a)."""
    return q.gather(-1, chooser.argmax(-1, keepdim=True)).squeeze(-1)


def epsilon(progress: float, fraction: float, initial: float, final: float) -> float:
    """Share of random actions, from `initial` in a straight line to `final` at `progress` = fraction."""
    return final if progress >= fraction else initial + (final - initial) * progress / fraction


def epsilon_greedy(q: Tensor, share: float) -> Tensor:
    """argmax_a q(s, a) (B,) int64 for q (B, M), and a random choice in a `share` of the rows."""
    rows, choices = q.shape
    random = torch.randint(choices, (rows,), device=q.device)
    return torch.where(torch.rand(rows, device=q.device) < share, random, q.argmax(-1))


class DQN(StepByStep[DQNOptions]):
    """One network for the value of every choice and for the policy."""

    name = "dqn"
    summary = "Q-learning with a target network, for discrete actions"
    options_class = DQNOptions
    continuous_head = ""

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.target = deepcopy(agent.policy).requires_grad_(False)
        self.optimizer = adam(agent.policy.parameters(), self.options.learning_rate)
        self.parts = {"target": self.target, "optimizer": self.optimizer}

    @property
    def random_share(self) -> float:
        """Of the actions that are tried out."""
        o = self.options
        return epsilon(self.progress, o.exploration_fraction, o.exploration_initial_eps, o.exploration_final_eps)

    def try_out(self, situation: Situation) -> Tensor:
        return epsilon_greedy(self.agent.answer(situation.z), self.random_share)

    def update(self, rollout: Rollout) -> dict[str, float]:
        logs = super().update(rollout)
        return logs | {"rollout/exploration_rate": self.random_share} if logs else logs

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """What q(s, a) is to become, y (B,)."""
        following = self.target(self.agent.features(batch.after.z))
        chooser = self.agent.answer(batch.after.z) if self.options.double_q else following
        return bellman_target(batch, self.config.gamma, value_of_best(following, chooser))

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        q = self.agent.answer(batch.now.z).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        loss = huber_loss(q, self.targets(batch), delta=self.options.huber)
        descend(self.optimizer, loss)
        if self.updates % self.options.target_update_interval == 0:
            self.target.load_state_dict(self.agent.policy.state_dict())
        return {"loss": loss.detach(), "q": q.detach().mean()}
