"""Predictive-coding learning: every node changes its parameters by its own error at the inferred state, and no other.

    dF/dtheta_n = -(d mu_n / d theta_n)' Lambda_n eps_n       weights: a product of the node's error and its inputs
    dF/dl = 1/2 (e^l eps^2 - 1)                               log-precisions; zero where Sigma = <eps eps'>

Nothing is sent back through the graph or through time: inference has already put into z what others should know. The
rules are exact derivatives of F with z, z_{t-1} and the carried covariance held fixed (variational EM: infer, then
learn). They are written out, without autograd.

A predictive-coding network for supervised learning is a chain whose ends are clamped: the input drives the top node
and holds its latents (`driven_prior`, `settle(..., clamped=...)`), the target is the observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from runtime.errors import GanglionError
from training.agent import blocks
from training.agent.model import LARGEST_LATENT, STATE_RANGE, GenerativeModel, LogPrecision, Prior
from training.agent.networks import Conditional

Gradients = dict[str, Tensor]
"""Gradients by the name of the parameter."""


def driven_prior(model: GenerativeModel, inputs: Mapping[str, Tensor]) -> Prior:
    """The prior without a past whose drive is `inputs`, (B, size) by the name of the node, and zero at other nodes.

    Raises GanglionError if there is no input, no such node, or an input does not have the node's size.
    """
    expected = {node.name: node.size for node in model.nodes}
    got = {name: value.shape[-1] for name, value in inputs.items()}
    if not got or any(expected.get(name) != size for name, size in got.items()):
        raise GanglionError(f"inputs have the sizes {got}; expected at least one of {expected}")
    batch = next(iter(inputs.values())).shape[0]
    zeros = model.persistence.new_zeros(batch, model.size)
    drive = torch.cat([inputs.get(name, zeros[:, part]) for name, part in model.slices.items()], -1)
    log_precision = model.latent_log_precision()
    log_precision_x = model.observation_log_precision(model.prior_mean(drive))
    return Prior(drive, log_precision.exp(), log_precision.sum(-1), log_precision_x)


@torch.no_grad()
def settle(
    model: GenerativeModel,
    z: Tensor,
    x: Tensor,
    mask: Tensor,
    prior: Prior,
    steps: int,
    rate: float,
    clamped: tuple[str, ...] = (),
) -> Tensor:
    """Descend F from z (B, Z), with the latents of the nodes `clamped` held: z <- z - rate dF/dz.

    A row whose F would rise stays and halves its rate, so F never rises.
    """
    free = torch.ones(model.size, dtype=z.dtype)
    for name in clamped:
        free[model.slices[name]] = 0.0
    precision_x = mask * prior.log_precision_x.exp()
    rates = z.new_full((len(z), 1), rate)
    energy = model.free_energy(z, x, mask, prior)
    for _ in range(steps):
        moved = z - rates * free * model.free_energy_gradient(z, x, precision_x, prior)
        reached = model.free_energy(moved, x, mask, prior)
        better = reached <= energy
        z = torch.where(better.unsqueeze(-1), moved, z)
        energy = torch.where(better, reached, energy)
        rates = torch.where(better.unsqueeze(-1), rates, 0.5 * rates)
    return z


@torch.no_grad()
def local_gradients(
    model: GenerativeModel,
    z: Tensor,
    z_previous: Tensor | None,
    action: Tensor | None,
    x: Tensor,
    mask: Tensor,
    prior: Prior,
    covariance: Tensor | None = None,
) -> Gradients:
    """dF/dtheta averaged over the batch, by parameter name, at the inferred z (B, Z).

    `prior` is what z was inferred with; its precisions are the model's own, diagonal or with a carried covariance.
    z_{t-1} (B, Z) and a_{t-1} (B, A) are what its drive came from; where the drive was given instead (`driven_prior`)
    both are None and the dynamics do not learn. x (B, D) must be finite also where mask (B, D) is zero.

    With `covariance` P (B, n, b, b) of a Gaussian q around z the log-precisions descend E_q[F], whose squared errors
    also spread by E P E' and J P J'; the means of the nodes learn at z either way.
    """
    error = model.latent_error(z, prior.drive)
    weighted = prior.weigh(error)
    gradients = _observation_gradients(model, z, x, mask, prior, covariance)
    for node in model.nodes:
        if node.parents:
            conditional = cast(Conditional, model.conditionals[node.name])
            parents = torch.cat([z[:, model.slices[p]] for p in node.parents], -1)
            local = conditional_gradients(conditional, parents, -weighted[:, model.slices[node.name]])
            gradients |= _named(f"conditionals.{node.name}", local)
    context = None
    if z_previous is not None and action is not None:
        context = torch.cat((z_previous, action), -1)
        unlimited = prior.drive.abs() < LARGEST_LATENT
        gradients |= _dynamics_gradients(model, z_previous, action, -weighted * unlimited)
    log_precision = model.latent_log_precision(context)
    squares = weighted.square() + _latent_spread(model, z, prior, covariance)
    slope = 0.5 * (-log_precision).exp() * (squares - _diagonal(prior.precision))
    precision = precision_gradients(model.latent_log_precision, slope, context)
    return gradients | _named("latent_log_precision", precision)


def set_gradients(model: GenerativeModel, gradients: Gradients) -> None:
    """Put `gradients` where an optimiser of `model.parameters()` looks; parameters without one keep still."""
    for name, parameter in model.named_parameters():
        parameter.grad = gradients.get(name)


def conditional_gradients(conditional: Conditional, inputs: Tensor, cotangent: Tensor) -> Gradients:
    """Gradients of one node's mean C u + W2 tanh(W1 u + b1) + b2, averaged over the batch.

    `inputs` u (B, inputs) are the states of its parents, `cotangent` (B, outputs) is dF/dmu = -Lambda eps.
    """
    _, hidden = conditional(inputs)
    cotangent = cotangent / len(inputs)
    through = (cotangent @ conditional.outer_weight) * (1.0 - hidden * hidden)
    return {
        "skip_weight": cotangent.mT @ inputs,
        "inner_weight": through.mT @ inputs,
        "inner_bias": through.sum(0),
        "outer_weight": cotangent.mT @ hidden,
        "outer_bias": cotangent.sum(0),
    }


def precision_gradients(module: LogPrecision, slope: Tensor, context: Tensor | None) -> Gradients:
    """Gradients of log-precisions averaged over the batch, for slope = dF/dl (B, size) and context (B, inputs)."""
    # l = largest - softplus(r), so dl/dr = -sigmoid(r) = exp(l - largest) - 1
    through = slope * torch.expm1(module(context) - module.largest) / len(slope)
    gradients = {"raw": through.sum(0)}
    if module.by_state is not None and context is not None:
        bend = 1.0 - torch.tanh(module.by_state(context)).square()
        gradients["by_state.weight"] = (STATE_RANGE * bend * through).mT @ context
    return gradients


def _observation_gradients(
    model: GenerativeModel, z: Tensor, x: Tensor, mask: Tensor, prior: Prior, covariance: Tensor | None
) -> Gradients:
    prediction, jacobian = model.predict_with_jacobian(z)
    error, precision = x - prediction, prior.log_precision_x.exp()
    spread = 0.0 if covariance is None else blocks.spread(jacobian, covariance)
    slope = 0.5 * mask * (precision * (error.square() + spread) - 1.0)
    context = model.prior_mean(prior.drive)
    gradients = _named(
        "observation_log_precision", precision_gradients(model.observation_log_precision, slope, context)
    )
    if model.observation.free is None:
        return gradients
    inputs = torch.cat([z[:, model.slices[n]] for n in model.observed], -1)
    _, free = model.observation.split(-mask * precision * error)
    return gradients | _named("observation.free", conditional_gradients(model.observation.free, inputs, free))


def _dynamics_gradients(model: GenerativeModel, z_previous: Tensor, action: Tensor, cotangent: Tensor) -> Gradients:
    gradients: Gradients = {}
    for node in model.nodes:
        own = model.slices[node.name]
        dynamics = cast(Conditional, model.dynamics[node.name])
        inputs = torch.cat((z_previous[:, own], action), -1)
        gradients |= _named(
            f"dynamics.{node.name}", conditional_gradients(dynamics, inputs, model.learned[own] * cotangent[:, own])
        )
    return gradients


def _latent_spread(model: GenerativeModel, z: Tensor, prior: Prior, covariance: Tensor | None) -> Tensor | float:
    """Diagonal (B, Z) of Pi E P E' Pi."""
    if covariance is None:
        return 0.0
    errors, precision = model.latent_error_jacobian(z), prior.precision
    own = covariance if errors is None else blocks.congruence(errors, covariance)
    if precision.dim() < 3:
        return precision.square() * blocks.diagonal(own)
    return blocks.diagonal(precision @ own @ precision)


def _diagonal(precision: Tensor) -> Tensor:
    return precision if precision.dim() < 3 else blocks.diagonal(precision)


def _named(prefix: str, gradients: Gradients) -> Gradients:
    return {f"{prefix}.{name}": value for name, value in gradients.items()}
