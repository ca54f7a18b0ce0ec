"""The terms of the agent's free energy that concern the world (source 000), and two ways to learn the model by them.

    F_t = sum_tau E_q[ -log p(s_tau | s_{tau-1}, a_{tau-1})      (a) perception
                       -log p(x_tau | s_tau) ]                   (b) prediction
          - H[q(s_{1:t})]                                        (e) state entropy

The filter has q(s_tau) = N(z, P) where it carries a covariance, and a point mass at z where it does not. With P, the
prior of (a) is that of the filter, N(f(z_{tau-1}, a_{tau-1}), A P A' + Q), and each expectation is its value at z and
half a trace. The sum is then a bound on -log p(x_tau | past), which is met in a linear-Gaussian model. With a point
mass (e) is infinite: it is left out, and the sum is F(z).

    unrolled   the gradient of the sum goes through every tick of the filter, back to the start of the sequence
    local      at the inferred state each node learns from its own error (`training.local_learning`): nothing goes back
               through the graph or through time, and the encoder regresses on the refined belief
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.errors import GanglionError
from training import learners
from training.agent import blocks
from training.agent.agent import Agent, Belief, State
from training.agent.inference import Prediction
from training.agent.model import gaussian_energy
from training.config import TrainConfig
from training.gradient_step import follow, parameters_of
from training.local_learning import local_gradients, set_gradients
from training.world_model import Sequences, WorldModel, amortization

_LOG_2PI = math.log(2 * math.pi)
_REFINED = ("gradient", "diagonal", "gauss_newton")


class WorldTerms(NamedTuple):
    """Terms of one tick, in nats."""

    perception: Tensor
    """(a), (B,)."""
    prediction: Tensor
    """(b), (B,), of the channels that were believed."""
    state_entropy: Tensor | None
    """(e) = -H[q], (B,); None of a point mass."""


@dataclass(frozen=True)
class WorldWeights:
    """Multiples of the terms in the loss of the model; 0 leaves a term out."""

    perception: float = 1.0
    prediction: float = 1.0
    state_entropy: float = 1.0


def world_terms(agent: Agent, belief: Belief, x: Tensor) -> WorldTerms:
    """Of a tick's belief and its normalised observation x (B, D), finite also where it is masked.

    The spread of q is taken through the linear model in which its covariance was found, that at the prior mean.
    """
    model, prior, z = agent.model, belief.prediction.prior, belief.z
    error = model.latent_error(z, prior.drive)
    perception = 0.5 * ((error * prior.weigh(error)).sum(-1) + model.size * _LOG_2PI - prior.log_det)
    prediction = gaussian_energy(x - model.predict(z), prior.log_precision_x, belief.start.mask)
    if "P" not in belief.state:
        return WorldTerms(perception, prediction, None)
    covariance, jacobian = belief.state["P"], belief.prediction.jacobian
    assert jacobian is not None
    # P is the inverse of E' Pi E + J' L J, so the two traces add up to the number of latents
    sensed = 0.5 * (blocks.gram(jacobian, belief.start.precision_x, covariance.shape[-3]) * covariance).sum(
        (-3, -2, -1)
    )
    entropy = 0.5 * (model.size * (1.0 + _LOG_2PI) + torch.logdet(covariance).sum(-1))
    return WorldTerms(perception + 0.5 * model.size - sensed, prediction + sensed, -entropy)


def innovation_energy(prediction: Prediction, x: Tensor) -> Tensor:
    """-log N(x; predicted x, variance) per channel, up to a constant, as a function of the variance alone, ()."""
    return 0.5 * ((x - prediction.x).detach().square() / prediction.variance + prediction.variance.log()).mean()


class FreeEnergyModel(WorldModel):
    """Descends the terms through the unrolled filter, in the place of the one-tick likelihood of `WorldModel`.

    What `WorldModel` adds for a filter that is deployed stays: unseen channels, overshooting, amortization and scale.
    """

    def __init__(self, config: TrainConfig, agent: Agent, weights: WorldWeights) -> None:
        super().__init__(config, agent)
        self.weights = weights
        self._carries = "P" in agent.initial()

    def learn(self, data: Sequences) -> tuple[dict[str, float], list[Belief]]:
        """As `ModelLearner`; the terms are logged as vfe/perception, ..., unweighted and in nats a tick."""
        logs, beliefs = super().learn(data)
        for name, weight in vars(self.weights).items():
            if f"model/{name}" in logs:
                logs[f"vfe/{name}"] = self.agent.observation_size * logs.pop(f"model/{name}") / weight
        return logs, beliefs

    def terms(self, data: Sequences, beliefs: list[Belief]) -> dict[str, Tensor]:
        """Terms of the loss, in nats per channel; those of the free energy weighted, and absent where that is zero."""
        terms = super().terms(data, beliefs)
        for name in ("prediction", "latent"):
            terms.pop(name, None)
        if not self._carries:
            terms["innovation"] = torch.stack(
                [innovation_energy(b.prediction, x) for b, x in zip(beliefs, data.x)]
            ).mean()
        ticks = [world_terms(self.agent, b, x) for b, x in zip(beliefs, data.x)]
        follows = 1.0 - data.first
        total = follows.sum().clamp(min=1.0) * self.agent.observation_size
        for name, weight in vars(self.weights).items():
            if weight != 0.0 and (name != "state_entropy" or self._carries):
                terms[name] = weight * (follows * torch.stack([getattr(t, name) for t in ticks])).sum() / total
        return terms


class LocalModel(WorldModel):
    """Infers the beliefs tick by tick without a gradient, and moves each node by its own error after each tick.

    Precisions descend E_q[F] where the filter carries a covariance and (e) counts, else F(z). There is no overshooting,
    and what the agent did not see teaches nothing.
    """

    def __init__(self, config: TrainConfig, agent: Agent, state_entropy: bool) -> None:
        """Raises GanglionError for an agent whose model it cannot learn."""
        super().__init__(config, agent)
        if learners.count() > 1:
            raise GanglionError(
                "local learning of the model is for one learner; start it without torchrun, or choose "
                "--model-learning unrolled"
            )
        method = config.agent.inference.method
        if method not in _REFINED:
            raise GanglionError(
                f"local learning of the model teaches the encoder the refined belief, which the inference method "
                f"'{method}' does not make; choose one of {', '.join(_REFINED)}, or --model-learning unrolled"
            )
        self._gaussian = state_entropy and "P" in agent.initial()
        if not (self._gaussian or bool(agent.model.anchored.all())):
            raise GanglionError(
                "local learning of latents that no channel is tied to needs the spread of q, or they shrink without "
                "end; choose the inference method gauss_newton with the state entropy, tie every latent, or choose "
                "--model-learning unrolled"
            )

    def learn(self, data: Sequences) -> tuple[dict[str, float], list[Belief]]:
        """One step after each tick; the terms of the free energy in nats a tick, and the beliefs."""
        state, beliefs = data.start, []
        steps, sums, count = data.steps.clamp(min=1), data.x.new_zeros(3), 0.0
        for x, mask, action, first in zip(data.x, data.mask, data.previous_action, data.first):
            state = self.agent.restarted(state, first)
            with torch.no_grad():
                belief = self.agent.infer(x, mask, action, state, steps)
                terms = world_terms(self.agent, belief, x)
            follows = 1.0 - first
            rows = follows.nonzero().squeeze(1)
            if len(rows):
                before = {name: value[rows] for name, value in state.items()}
                self._step(belief, before, x, mask, action, rows)
            for i, term in enumerate(terms):
                sums[i] += 0.0 if term is None else (follows * term).sum()
            count += float(follows.sum())
            state = belief.state
            beliefs.append(belief)
        means = (sums / max(count, 1.0)).tolist()
        names = WorldTerms._fields if self._gaussian else WorldTerms._fields[:2]
        return {f"vfe/{name}": mean for name, mean in zip(names, means)}, beliefs

    def _step(self, belief: Belief, before: State, x: Tensor, mask: Tensor, action: Tensor, rows: Tensor) -> None:
        """Learn from the rows (R,) int64 of a tick that have a past, in the carried state `before` (R, ...)."""
        agent, prior = self.agent, belief.prediction.prior.rows(rows)
        x, mask, action, z = x[rows], mask[rows], action[rows], belief.z[rows]
        covariance = belief.state["P"][rows] if self._gaussian else None
        self.optimizer.zero_grad()
        set_gradients(agent.model, local_gradients(agent.model, z, before["z"], action, x, mask, prior, covariance))
        start, prediction = agent.start(x, mask, action, before)
        variance = 1.0 / prior.precision if prior.precision.dim() < 3 else blocks.diagonal(belief.state["P"][rows])
        loss = amortization(start.z, z, variance.sqrt())
        if "P" not in before:
            loss = loss + innovation_energy(prediction, x)
        regressed = [*agent.encoder.parameters(), *agent.method.parameters()]
        for parameter, gradient in zip(regressed, torch.autograd.grad(loss, regressed, allow_unused=True)):
            parameter.grad = gradient
        follow(self.optimizer, [p.grad for p in parameters_of(self.optimizer)], longest=1.0)
