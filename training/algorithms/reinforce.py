"""REINFORCE (000, 002, 004): grad J = E[sum_t grad log pi(a_t|s_t) (R_t - b)], without a critic.

R_t is the reward to go, or the return G(tau) of the whole episode. b is the best constant baseline
b* = E[g^2 R] / E[g^2], g = grad log pi(a|s). A return that a time limit cuts after n ticks goes on with gamma^n b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from training.agent.agent import Agent
from training.agent.situation import Situation
from training.algorithms.base import Algorithm
from training.algorithms.on_policy import adam, annealing, policy_parameters, pseudo_loss
from training.config import Options, TrainConfig
from training.gradient_step import descend
from training.ranges import Positive
from training.returns import best_baseline, episode_return, reward_to_go
from training.rollout import Rollout

_REST = 0.1  # of the discount, that a return may lack
_CHUNK = 256  # gradients of single ticks that are held at a time


@dataclass(frozen=True)
class ReinforceOptions(Options):
    """Settings of REINFORCE."""

    learning_rate: Positive = 1e-2
    """Start of Adam's step size, which falls to nearly none at the end."""
    reward_to_go: bool = True
    """Weight an action with the rewards that follow it, not with those of its whole episode: the same mean, less
    variance."""
    baseline: bool = True
    """Subtract the best constant baseline from the returns."""


class LogProb(nn.Module):
    """Log pi(a|s) as a function of one tick, for the gradients of single ticks."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, z: Tensor, gait: Tensor | None, action: Tensor) -> Tensor:
        """() for z (Z,), gait (S,) and an action (A,) or ()."""
        row = None if gait is None else gait.unsqueeze(0)
        return self.agent.distribution(z.unsqueeze(0), row).log_prob(action.unsqueeze(0)).squeeze(0)


def squared_scores(agent: Agent, situation: Situation, action: Tensor) -> Tensor:
    """|grad log pi(a|s)|^2 of each of M ticks (M,), over all that the policy learns."""
    module = LogProb(agent)
    names = {id(p) for p in policy_parameters(agent)}
    learned = {name: p.detach() for name, p in module.named_parameters() if id(p) in names}

    def log_prob(values: dict[str, Tensor], z: Tensor, gait: Tensor | None, action: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(module, values, (z, gait, action))
        return result

    by_row = (None, 0, None if situation.gait is None else 0, 0)
    gradients = torch.func.vmap(torch.func.grad(log_prob), in_dims=by_row, chunk_size=_CHUNK)
    scores = gradients(learned, situation.z, situation.gait, action)
    return torch.stack([g.flatten(1).square().sum(1) for g in scores.values()]).sum(0)


class Reinforce(Algorithm[ReinforceOptions]):
    """One step per rollout, on the ticks whose return is known.

    Weights are not scaled to a size of their own: what is left of them once everything succeeds is noise, and would be
    scaled up.

    Nothing stands for the rewards after the end of a rollout, so its last ticks, until the discount has fallen to a
    tenth, are not learned from. Which ticks these are does not depend on what happened: to choose the episodes that
    ended would be to choose the short ones. What a return lacks still, after a time limit above all, is taken to be
    worth the baseline, and nothing without one: else whoever stands until the limit would be told that he fell.
    """

    name = "reinforce"
    summary = "Monte Carlo returns weight the log probabilities; no critic"
    options_class = ReinforceOptions

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.optimizer = adam(policy_parameters(agent), self.options.learning_rate)
        self.schedule = annealing(self.optimizer, config)
        self.parts = {"optimizer": self.optimizer, "schedule": self.schedule}

    @classmethod
    def adapt(cls, config: TrainConfig) -> TrainConfig:
        """Few simulations and rollouts so long that three of four returns are known; four times the steps in all."""
        pieces = math.ceil(4 * _ticks_to_forget(config.gamma) / config.sequence)
        return replace(config, num_envs=8, horizon=config.sequence * pieces, steps=4 * config.steps)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns what is worth logging."""
        o, agent, gamma = self.options, self.agent, self.config.gamma
        summed = reward_to_go if o.reward_to_go else episode_return
        nothing = torch.zeros_like(rollout.reward)
        returns = summed(rollout.reward, nothing, rollout.terminated, rollout.done, gamma)
        known = max(len(returns) - _ticks_to_forget(gamma), 1)
        situation, action = rollout.now.flat(), rollout.action.flatten(0, 1)
        rows = torch.arange(known * returns.shape[1])
        situation, action, weight = situation.rows(rows), action[rows], returns[:known].flatten()
        if o.baseline:
            lacking = summed(nothing, nothing + 1.0, rollout.terminated, rollout.done, gamma)[:known].flatten()
            best = best_baseline(squared_scores(agent, situation, action), weight, lacking)
            weight = weight - (1.0 - lacking) * best
        distribution = agent.distribution(situation.z, situation.gait)
        loss = pseudo_loss(distribution.log_prob(action), weight)
        descend(self.optimizer, loss, longest=1.0)
        self.schedule.step()
        return {
            "train/policy_loss": loss.item(),
            "train/return": returns[:known].mean().item(),
            "train/entropy": distribution.entropy().mean().item(),
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
        }


def _ticks_to_forget(gamma: float) -> int:
    """Ticks after which the discount has fallen to a tenth."""
    return math.ceil(math.log(_REST) / math.log(gamma))
