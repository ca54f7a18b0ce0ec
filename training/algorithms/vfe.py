"""Variational free energy (000): one objective for perception and action, every term with a weight of its own.

    F_t = sum_tau E_q[ -log p(s_tau | s_{tau-1}, a_{tau-1})      (a) perception      training/free_energy.py
                       -log p(x_tau | s_tau) ]                   (b) prediction      training/free_energy.py
        + sum_{tau<t} E_q[ -log p(pi | s_tau)                    (c) preference      -beta V_pi(s) + log Z(s)
                           -log pi(a_tau | s_tau) ]              (d) policy drift
        - H[q(s_{1:t})]                                          (e) state entropy   training/free_energy.py
        - sum_{tau<t} E_q[ H[q(pi | s_tau)] ]                    (f) policy entropy

The world model descends (a) + (b) + (e), the policy (c) + (d) + (f) at the beliefs of past ticks. Here a policy pi of
the preference commits to one action u, q(pi | s) is the policy network's distribution, and V_pi(s) = q(s, u): the
return of u and of the network's own actions from then on, by a critic with target networks. Then (c) + (f) is
KL(q || exp(beta V) / Z), and (d) tells how well the network fits the actions that were taken, which the replay buffer
holds. docs/free_energy.md derives this and tells which known algorithm is left when a term is off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.errors import GanglionError
from training.agent.agent import Agent
from training.agent.distributions import Categorical, Gaussian, SquashedGaussian
from training.agent.situation import Situation
from training.algorithms.off_policy import ActorCriticOptions, StepByStep, adam, bellman_target
from training.config import TrainConfig
from training.free_energy import FreeEnergyModel, LocalModel, WorldWeights
from training.gradient_step import descend
from training.preferences import preference_energy
from training.q_networks import polyak
from training.ranges import NonNegative
from training.replay_buffer import Batch
from training.rollout import Rollout
from training.world_model import WorldModel

_LOG_Z_ROWS, _LOG_Z_SAMPLES = 32, 16  # of each batch; log Z(s) is the same for every policy, so it is only reported


@dataclass(frozen=True)
class VFEOptions(ActorCriticOptions):
    """Settings of the variational agent. A term whose weight is 0 is left out."""

    beta: NonNegative = 100.0
    """Rationality, nats per unit of return: 0 is indifferent between policies, a large one wants the best alone."""
    preference: NonNegative = 1.0
    """Weight of term (c), minus the expected log preference."""
    drift: NonNegative = 1.0
    """Weight of term (d), the cross-entropy from the actions that were taken to the policy."""
    policy_entropy: NonNegative = 1.0
    """Weight of term (f), minus the entropy of the policy."""
    soft_value: bool = False
    """Let the value count the entropy of later policies, 1 / beta a nat, as soft actor-critic does; source 000 does
    not."""
    perception: NonNegative = 1.0
    """Weight of term (a) in the model's loss."""
    prediction: NonNegative = 1.0
    """Weight of term (b) in the model's loss."""
    state_entropy: NonNegative = 1.0
    """Weight of term (e) in the model's loss; 0 is a point mass, and so is a filter that carries no covariance."""
    model_learning: str = "unrolled"
    """unrolled: backpropagation through the filter. local: at the inferred state each node learns by its own error."""


class PolicyTerms(NamedTuple):
    """Terms (c), (d) and (f) of B states, each (B,) in nats."""

    preference: Tensor
    drift: Tensor
    policy_entropy: Tensor


def choice_terms(policy: Categorical, taken: Tensor, q: Tensor, beta: float) -> PolicyTerms:
    """Exactly, of M choices with values q(s, .) (B, M), where the choices `taken` (B,) were made."""
    preference = preference_energy(q, beta, policy.log_probs)
    return PolicyTerms(preference, -policy.log_prob(taken), -policy.entropy())


def action_terms(
    policy: SquashedGaussian, taken: Tensor, q: Callable[[Tensor], Tensor], log_z: Tensor, beta: float
) -> PolicyTerms:
    """By one action of the policy, through which q is differentiated; `q` takes actions (B, A) to values (B,).

    `log_z` is log Z(s), (B,) or (), for example by `sampled_log_z`; `taken` (B, A) are the actions that were taken.
    """
    action, log_prob = policy.sample_with_log_prob()
    return PolicyTerms(log_z - beta * q(action), -policy.log_prob(taken), log_prob)


def sampled_log_z(policy: SquashedGaussian, q: Callable[[Tensor], Tensor], beta: float, samples: int) -> Tensor:
    """Estimate (B,) of log Z(s), Z the integral of exp(beta q(s, u)) over actions u in (-1, 1)^A.

    By importance sampling from m(u), half the policy and half uniform: log Z = log mean exp(beta q(u)) / m(u). `q`
    takes actions (K, B, A) to values (K, B).
    """
    with torch.no_grad():
        mean, std = (part.expand(samples, *part.shape) for part in (policy.inner.mean, policy.inner.std))
        proposal = SquashedGaussian(Gaussian(mean, std))
        drawn = proposal.sample()
        evenly = torch.rand_like(drawn[..., :1]) < 0.5
        action = torch.where(evenly, 2 * torch.rand_like(drawn) - 1, drawn)
        log_uniform = torch.full_like(drawn[..., 0], -drawn.shape[-1] * math.log(2.0))
        log_density = torch.logaddexp(proposal.log_prob(action), log_uniform) - math.log(2.0)
    return torch.logsumexp(beta * q(action) - log_density, 0) - math.log(samples)


class VFE(StepByStep[VFEOptions]):
    """Beliefs, values and policy of the agent, each by the terms of the free energy that concern it."""

    name = "vfe"
    summary = "variational free energy: preference, policy drift and entropies, with the world model's own terms"
    options_class = VFEOptions
    continuous_head = "squashed"

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        if self.options.soft_value and self.options.beta == 0:
            raise GanglionError("soft_value counts entropy in units of 1 / beta, and beta is 0; give a beta above 0")
        self.critics, self.targets = self.make_critics(2)
        self.policy_optimizer = adam(agent.policy.parameters(), self.options.learning_rate)
        self.critic_optimizer = adam(self.critics.parameters(), self.options.critic_learning_rate)
        self.parts = {
            "critics": self.critics,
            "targets": self.targets,
            "policy_optimizer": self.policy_optimizer,
            "critic_optimizer": self.critic_optimizer,
        }
        self.beta = self.options.beta / (1.0 - config.gamma)
        """Per unit of the critics' values, which are returns times 1 - gamma."""

    def make_world_model(self) -> WorldModel:
        o = self.options
        if o.model_learning == "unrolled":
            return FreeEnergyModel(self.config, self.agent, WorldWeights(o.perception, o.prediction, o.state_entropy))
        if o.model_learning != "local":
            raise GanglionError(f"model_learning is '{o.model_learning}', expected unrolled or local")
        if not o.perception == o.prediction == 1.0 or o.state_entropy not in (0.0, 1.0):
            raise GanglionError(
                f"local learning has no weights of its terms, got perception {o.perception}, prediction "
                f"{o.prediction}, state_entropy {o.state_entropy}; leave them at 1 (state_entropy may be 0), or choose "
                "--model-learning unrolled"
            )
        return LocalModel(self.config, self.agent, o.state_entropy > 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """As `StepByStep`; the terms are logged as vfe/preference, vfe/drift and vfe/policy_entropy, in nats a tick."""
        logs = super().update(rollout)
        terms = {f"vfe/{n}": logs.pop(f"train/{n}") for n in PolicyTerms._fields if f"train/{n}" in logs}
        return logs | terms

    def try_out(self, situation: Situation) -> Tensor:
        return self.agent.distribution(situation.z).sample()

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critics towards V, and one of the policy down (c) + (d) + (f)."""
        critic_loss = self._critic_loss(batch)
        descend(self.critic_optimizer, critic_loss)
        terms = self._policy_terms(batch)
        means = {name: term.mean() for name, term in terms._asdict().items()}
        weights = {name: float(getattr(self.options, name)) for name in means}
        loss = sum((weights[name] * mean for name, mean in means.items() if weights[name]), torch.zeros(()))
        if loss.requires_grad:
            descend(self.policy_optimizer, loss)
        polyak(self.targets, self.critics, self.options.tau)
        return {"critic_loss": critic_loss.detach()} | {name: mean.detach() for name, mean in means.items()}

    def _critic_loss(self, batch: Batch) -> Tensor:
        """Half the squared error to y = r + gamma (1 - terminated) E_pi[q_target(s', a')], of both critics."""
        with torch.no_grad():
            policy = self.agent.distribution(batch.after.z)
            if isinstance(policy, Categorical):
                value = (policy.log_probs.exp() * self.targets.choices(batch.after).amin(0)).sum(-1)
                entropy = policy.entropy()
            else:
                assert isinstance(policy, SquashedGaussian)
                action, log_prob = policy.sample_with_log_prob()
                value, entropy = self.targets.q(batch.after, action).amin(0), -log_prob
            if self.options.soft_value:
                value = value + entropy / self.beta
            target = bellman_target(batch, self.config.gamma, value)
        if batch.action.dim() == 1:
            rows = batch.action.unsqueeze(-1)
            q = torch.stack([v.gather(-1, rows).squeeze(-1) for v in self.critics.choices(batch.now)])
        else:
            q = self.critics.q(batch.now, batch.action)
        return 0.5 * (q - target).square().mean(-1).sum()

    def _policy_terms(self, batch: Batch) -> PolicyTerms:
        policy = self.agent.distribution(batch.now.z)
        if isinstance(policy, Categorical):
            with torch.no_grad():
                q = self.critics.choices(batch.now).amin(0)
            return choice_terms(policy, batch.action, q, self.beta)
        assert isinstance(policy, SquashedGaussian)
        with torch.no_grad():
            rows = torch.arange(min(len(batch), _LOG_Z_ROWS))
            some = batch.now.rows(rows)

            def value(action: Tensor) -> Tensor:
                repeated = Situation(*(part.expand(len(action), *part.shape).flatten(0, 1) for part in some[:2]))
                return self.critics.q(repeated, action.flatten(0, 1)).amin(0).unflatten(0, action.shape[:2])

            log_z = sampled_log_z(policy.rows(rows), value, self.beta, _LOG_Z_SAMPLES).mean()
        return action_terms(policy, batch.action, lambda a: self.critics.q(batch.now, a).amin(0), log_z, self.beta)
