"""Soft actor-critic (002, 000): the return with alpha times the policy's entropy.

Soft value at s' of the target: v(s') = min(q'_1, q'_2)(s', a') - alpha log pi(a' | s'), a' ~ pi(. | s').
Critics: the least of (q_k(s, a) - y)^2, y = r + gamma (1 - terminated) v(s').
Actor: descends E[alpha log pi(a | s) - min(q_1, q_2)(s, a)], a ~ pi(. | s) by reparameterisation.
Temperature: descends E[-log alpha (log pi(a | s) + H)], so that the entropy comes to H.

Rewards are times 1 - gamma, and so is alpha here; `ent_coef` is in the unit of the task's reward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.agent.agent import Agent
from training.agent.distributions import SquashedGaussian
from training.agent.situation import Situation
from training.algorithms.off_policy import ActorCriticOptions, StepByStep, adam, bellman_target
from training.compiling import compiled, products
from training.config import TrainConfig
from training.gradient_step import AdamState, adam_state
from training.q_networks import QNetworks, polyak
from training.ranges import NonNegative, Positive
from training.replay_buffer import Batch


@dataclass(frozen=True)
class SACOptions(ActorCriticOptions):
    """Settings of SAC."""

    ent_coef: Positive = 0.1
    """Temperature alpha at the start, reward per nat."""
    ent_coef_learning_rate: NonNegative = 3e-4
    """Adam's step size for the logarithm of the temperature; 0 keeps it as it is."""
    target_entropy: float | None = None
    """Entropy (nats) that the temperature aims at; minus the number of actions if none."""
    anneal: bool = False
    """Let all step sizes fall in a straight line to none at the end of the run."""
    bf16: bool = False
    """Multiply matrices in bfloat16 while learning, which is twice as fast on a processor that has it, and not done on
    one that lacks it; weights stay as they are."""
    compile: bool = False
    """Compile the gradient step, where there is a C++ compiler: for long runs, as the first one takes half a minute
    longer."""


def soft_value(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """min_k q_k - alpha log pi (B,) for q (K, B) and log_prob (B,); its mean is what the actor ascends."""
    return q.amin(0) - alpha * log_prob


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """-E[log alpha (log pi + H)], ()."""
    return -log_alpha * (log_prob.detach() + target_entropy).mean()


class SAC(StepByStep[SACOptions]):
    """Twin critics, a squashed gaussian policy, and a temperature that is learned."""

    name = "sac"
    summary = "soft actor-critic: twin critics, a stochastic policy, learned temperature"
    options_class = SACOptions
    continuous_head = "squashed"
    discrete_head = ""

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        o = self.options
        self.critics, self.target_critics = self.make_critics(2)
        self.log_ent_coef = nn.Parameter(torch.tensor(math.log(o.ent_coef)))
        self.target_entropy = -float(agent.action_size) if o.target_entropy is None else o.target_entropy
        self.optimizer = adam(agent.policy.parameters(), o.learning_rate)
        self.critic_optimizer = adam(self.critics.parameters(), o.critic_learning_rate)
        self.ent_coef_optimizer = adam([self.log_ent_coef], o.ent_coef_learning_rate)
        self._step = compiled(self._eager_step, o.compile)
        self.parts = {
            "critics": self.critics,
            "target_critics": self.target_critics,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
            "ent_coef_optimizer": self.ent_coef_optimizer,
        }

    @property
    def pace(self) -> float:
        """By what all step sizes are multiplied now."""
        return 1.0 - self.progress if self.options.anneal else 1.0

    @property
    def learning_rate(self) -> float:
        return self.options.learning_rate * self.pace

    def try_out(self, situation: Situation) -> Tensor:
        return self.agent.distribution(situation.z).sample()

    def draw(self, s: Situation) -> tuple[Tensor, Tensor]:
        """An action of the policy (B, A), differentiable, and its log probability (B,) with the tanh's correction."""
        with products(s.z, self.options.bf16):
            distribution = self.agent.distribution(s.z)
        assert isinstance(distribution, SquashedGaussian)
        return distribution.sample_with_log_prob()

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        states = [adam_state(o) for o in (self.critic_optimizer, self.optimizer, self.ent_coef_optimizer)]
        if self.options.anneal:
            states = [state.slower(self.pace) for state in states]
        return self._step(batch, *states)

    def _eager_step(
        self, batch: Batch, critics: AdamState, policy: AdamState, temperature: AdamState
    ) -> dict[str, Tensor]:
        """`learn`, as a function of tensors, so that it compiles as a whole."""
        ent_coef = self.log_ent_coef.detach().exp()
        alpha = (1.0 - self.config.gamma) * ent_coef
        with torch.no_grad():
            action, log_prob = self.draw(batch.after)
            following = soft_value(self._q(self.target_critics, batch.after, action), log_prob, alpha)
            target = bellman_target(batch, self.config.gamma, following)
        critic_loss = (self._q(self.critics, batch.now, batch.action) - target).square().mean(1).sum()
        critics.descend(critic_loss)
        action, log_prob = self.draw(batch.now)
        actor_loss = -soft_value(self._q(self.critics, batch.now, action), log_prob, alpha).mean()
        policy.descend(actor_loss)
        temperature.descend(temperature_loss(self.log_ent_coef, log_prob, self.target_entropy))
        polyak(self.target_critics, self.critics, self.options.tau)
        return {"critic_loss": critic_loss.detach(), "actor_loss": actor_loss.detach(), "ent_coef": ent_coef}

    def _q(self, networks: QNetworks, s: Situation, action: Tensor) -> Tensor:
        """(2, B)."""
        with products(s.z, self.options.bf16):
            return networks.q(s, action).to(s.z.dtype)

    def state(self) -> dict[str, Any]:
        return super().state() | {"log_ent_coef": self.log_ent_coef.detach()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        with torch.no_grad():
            self.log_ent_coef.copy_(state["log_ent_coef"])
