"""Backpropagation policy optimisation: a deterministic policy in a deterministic model, without a critic (002).

    J(w) = E_s[ sum_{t<n} gamma^t r(s_t, d(s_t; w)) ],   s_{t+1} = f(s_t, d(s_t; w))
    ds_{t+1}/dw = f_a dd/dw + (f_s + f_a d_s) ds_t/dw,   ds_0/dw = 0

s_0 is drawn from the replay buffer, f is the mean of the agent's latent dynamics. A discrete action is sampled, and
differentiated as a Gumbel-softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.agent.distributions import Categorical
from training.agent.situation import Situation
from training.algorithms.model_based import ModelBased, ModelBasedOptions
from training.model_gradients import Act, model_return
from training.ranges import Count, NonNegative, Positive, Share
from training.replay_buffer import Batch


@dataclass(frozen=True)
class BPOOptions(ModelBasedOptions):
    """Settings of BPO."""

    depth: Count = 80
    """Imagined ticks n; what comes later does not count."""
    exploration: NonNegative = 0.3
    """Standard deviation of the noise on a continuous action while exploring."""
    exploration_eps: Share = 0.2
    """Share of uniformly random actions while exploring, where actions are discrete."""
    gradient_steps: Positive = 0.2
    """Gradient steps per environment step."""


class BPO(ModelBased[BPOOptions]):
    """Back through every imagined tick; no value of anything is learned."""

    name = "bpo"
    summary = "backpropagation through the agent's own dynamics, no critic"
    options_class = BPOOptions
    continuous_head = "deterministic"

    @torch.no_grad()
    def try_out(self, situation: Situation) -> Tensor:
        policy = self.agent.distribution(situation.z)
        if isinstance(policy, Categorical):
            return self.random_in(self.options.exploration_eps, situation, policy.sample())
        action = self.agent.act(situation.z)
        return (action + self.options.exploration * torch.randn_like(action)).clamp(-1.0, 1.0)

    def act(self, now: Situation) -> Act:
        """The command d(s) (B, A)."""
        policy = self.agent.distribution(now.z)
        if isinstance(policy, Categorical):
            return Act(self.choose(policy) @ self.agent.choices)
        return Act(self.agent.act(now.z))

    def step(self, now: Situation, command: Tensor, _: int) -> tuple[Situation, Tensor, Tensor]:
        """f, r and the probability of going on."""
        return self.dynamics.step(now, command)

    def objective(self, batch: Batch) -> Tensor:
        """J (B,) from the first state of every transition."""
        return model_return(batch.now, self.act, self.step, self.options.depth, self.config.gamma)

    def learn_policy(self, batch: Batch) -> dict[str, Tensor]:
        objective = self.objective(batch)
        self.ascend(objective)
        return {"actor_loss": -objective.detach().mean()}
