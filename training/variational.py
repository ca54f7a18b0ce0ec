"""Amortized variational inference: autoencoders and a latent state-space model as special graphs of the agent's model.

    bound(x) = E_q[F(z)] - H[q] = KL(q(z|x) || p(z)) - E_q[log p(x|z)] >= -log p(x),   q = N(m, s^2) by a network

F is the free energy of `training.agent.model`. The three models differ in its prior alone:

    variational autoencoder    no past: every node's error is N(0, 1), so one node has p(z) = N(0, 1)
    conditional autoencoder    p(z|c): one tick from the state zero, with the condition where the action enters
    latent state-space model   p(z_t | z_{t-1}, a_{t-1}); the bounds of the ticks add up

In a linear-Gaussian model the posterior is a Gaussian that one Newton step finds, and the bound is tight there. With it
expectation maximisation of the factor model x = C z + b + noise needs no network and no step size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from runtime.errors import GanglionError
from training.agent.inference import constant_prior
from training.agent.model import GenerativeModel, Prior, gaussian_energy
from training.agent.networks import Conditional, SkipMLP


def standard_prior(model: GenerativeModel, batch: int) -> Prior:
    """The prior without a past: zero drive and unit precision of every latent."""
    drive = model.persistence.new_zeros(batch, model.size)
    log_precision_x = model.observation_log_precision(model.prior_mean(drive))
    return Prior(drive, model.persistence.new_ones(model.size), drive.new_zeros(()), log_precision_x)


def temporal_prior(model: GenerativeModel, z_previous: Tensor, action: Tensor) -> Prior:
    """p(z_t | z_{t-1}, a_{t-1}) with the model's own precisions, for z_{t-1} (B, Z) and a_{t-1} (B, A)."""
    return constant_prior(model, z_previous, action)[0]


def sample_prior(model: GenerativeModel, prior: Prior, noise: Tensor) -> Tensor:
    """Samples (B, Z) of p(z), every node given its sampled parents, for standard noise (B, Z).

    The precision must be diagonal.
    """
    return model.prior_mean(prior.drive + noise * prior.precision.rsqrt())


class Recognition(nn.Module):
    """q(z | x, mask, condition) = N(m, s^2), independent latents: starts near the prior, at most twice as wide."""

    def __init__(self, observation_size: int, condition_size: int, hidden: int, latents: int) -> None:
        super().__init__()
        self.network = SkipMLP(2 * observation_size + condition_size, hidden, 2 * latents)

    def forward(self, x: Tensor, mask: Tensor, condition: Tensor, mean: Tensor, precision: Tensor) -> Normal:
        """Posterior over (B, Z), a correction of the prior's mean (B, Z) and precision (Z,) or (B, Z).

        x (B, D) must be finite also where mask (B, D) is zero; condition is (B, C).
        """
        shift, width = self.network(torch.cat((mask * x, mask, condition), -1)).chunk(2, -1)
        return Normal(mean + shift, 2.0 * torch.sigmoid(width) * precision.rsqrt(), validate_args=False)


def sample(q: Normal, noise: Tensor) -> Tensor:
    """Reparameterised z = m + s noise, (..., B, Z), for standard noise (..., B, Z)."""
    return q.loc + q.scale * noise


def variational_free_energy(
    model: GenerativeModel, q: Normal, x: Tensor, mask: Tensor, prior: Prior, noise: Tensor
) -> Tensor:
    """E_q[F] - H[q] in nats, one estimate (..., B) for each sample of noise (..., B, Z); on every graph."""
    return model.free_energy(sample(q, noise), x, mask, prior) - q.entropy().sum(-1)


def kl_to_prior(model: GenerativeModel, q: Normal, prior: Prior) -> Tensor:
    """KL(q || p(z)) (B,) in nats; to N(0, 1) it is 1/2 sum(m^2 + s^2 - 1 - log s^2).

    Raises GanglionError where p(z) is not a diagonal Gaussian: a graph with edges, or a precision in blocks.
    """
    if model.conditionals or prior.precision.dim() > 2:
        raise GanglionError(
            "the KL divergence has a closed form for a graph without edges and a diagonal precision;"
            " use variational_free_energy for this one"
        )
    return kl_divergence(q, Normal(prior.drive, prior.precision.rsqrt(), validate_args=False)).sum(-1)


def divergence_and_reconstruction(
    model: GenerativeModel, q: Normal, x: Tensor, mask: Tensor, prior: Prior, noise: Tensor
) -> Tensor:
    """The same bound as KL(q || p(z)) - log p(x|z), (..., B), with less variance; raises as `kl_to_prior`."""
    prediction = model.predict(sample(q, noise))
    return kl_to_prior(model, q, prior) + gaussian_energy(x - prediction, prior.log_precision_x, mask)


class _Amortized(nn.Module):
    """A generative model and the recognition network beside it; `condition_size` counts the inputs of the prior."""

    def __init__(self, model: GenerativeModel, condition_size: int, hidden: int) -> None:
        super().__init__()
        self.model = model
        self.recognition = Recognition(model.observation.order.numel(), condition_size, hidden, model.size)

    def _recognise(self, x: Tensor, mask: Tensor, condition: Tensor, prior: Prior) -> Normal:
        q: Normal = self.recognition(x, mask, condition, self.model.prior_mean(prior.drive), prior.precision)
        return q


class VariationalAutoencoder(_Amortized):
    """Observations (B, D) without order in time: z ~ N(0, 1), x ~ N(g(z), noise)."""

    def __init__(self, model: GenerativeModel, hidden: int) -> None:
        super().__init__(model, 0, hidden)

    def infer(self, x: Tensor, mask: Tensor) -> tuple[Normal, Prior]:
        """q(z|x) over (B, Z), and p(z)."""
        prior = standard_prior(self.model, len(x))
        return self._recognise(x, mask, x[..., :0], prior), prior

    def bound(self, x: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """Estimates (..., B) of a bound on -log p(x) of the unmasked channels, for standard noise (..., B, Z)."""
        q, prior = self.infer(x, mask)
        return variational_free_energy(self.model, q, x, mask, prior, noise)


class ConditionalAutoencoder(_Amortized):
    """Observations (B, D) given conditions (B, C), the model's actions: z ~ N(f(c), noise), x ~ N(g(z), noise)."""

    def prior(self, condition: Tensor) -> Prior:
        """p(z|c)."""
        return temporal_prior(self.model, condition.new_zeros(len(condition), self.model.size), condition)

    def infer(self, x: Tensor, mask: Tensor, condition: Tensor) -> tuple[Normal, Prior]:
        """q(z | x, c) over (B, Z), and p(z|c)."""
        prior = self.prior(condition)
        return self._recognise(x, mask, condition, prior), prior

    def bound(self, x: Tensor, mask: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        """Estimates (..., B) of a bound on -log p(x|c) of the unmasked channels, for standard noise (..., B, Z)."""
        q, prior = self.infer(x, mask, condition)
        return variational_free_energy(self.model, q, x, mask, prior, noise)


class LatentStateSpaceModel(_Amortized):
    """Sequences: z_t ~ p(z_t | z_{t-1}, a_{t-1}), x_t ~ p(x_t | z_t), filtered by q(z_t | x_t, z_{t-1}, a_{t-1})."""

    def __init__(self, model: GenerativeModel, action_size: int, hidden: int) -> None:
        super().__init__(model, model.size + action_size, hidden)

    def infer(self, x: Tensor, mask: Tensor, z_previous: Tensor, action: Tensor) -> tuple[Normal, Prior]:
        """One tick: q(z_t | x_t, z_{t-1}, a_{t-1}) over (B, Z), and p(z_t | z_{t-1}, a_{t-1})."""
        prior = temporal_prior(self.model, z_previous, action)
        return self._recognise(x, mask, torch.cat((z_previous, action), -1), prior), prior

    def bound(self, x: Tensor, mask: Tensor, previous_action: Tensor, noise: Tensor) -> Tensor:
        """Estimates (B,) of a bound on -log p(x_1 ... x_T | actions), from the state z_0 = 0.

        Takes x and mask (T, B, D), the action before each tick (T, B, A) and standard noise (T, B, Z).
        """
        z = torch.zeros_like(noise[0])
        total = z.new_zeros(len(z))
        for x_t, mask_t, action, noise_t in zip(x, mask, previous_action, noise):
            q, prior = self.infer(x_t, mask_t, z, action)
            total = total + variational_free_energy(self.model, q, x_t, mask_t, prior, noise_t)
            z = sample(q, noise_t)
        return total


def curvature(model: GenerativeModel, z: Tensor, precision_x: Tensor, prior: Prior) -> Tensor:
    """E' Pi E + J' diag(precision_x) J at z, (B, Z, Z): the Hessian of F if the model is linear in z.

    `precision_x` (B, D) is zero where a channel is masked.
    """
    _, jacobian = model.predict_with_jacobian(z)
    errors = model.latent_error_jacobian(z)
    if errors is None:
        errors = torch.eye(model.size, dtype=z.dtype)
    errors = errors.expand(len(z), -1, -1)
    weighted = prior.weigh(errors.permute(2, 0, 1)).permute(1, 2, 0)
    return errors.mT @ weighted + jacobian.mT @ (precision_x.unsqueeze(-1) * jacobian)


def linear_posterior(model: GenerativeModel, x: Tensor, mask: Tensor, prior: Prior) -> MultivariateNormal:
    """p(z|x) over (B, Z) of a model that is linear in z: one Newton step from the prior mean, H^-1 as covariance.

    Of a nonlinear model this is the Gauss-Newton approximation at the prior mean.
    """
    z = model.prior_mean(prior.drive)
    precision_x = mask * prior.log_precision_x.exp()
    hessian = curvature(model, z, precision_x, prior)
    gradient = model.free_energy_gradient(z, x, precision_x, prior)
    mean = z - torch.linalg.solve(hessian, gradient)
    return MultivariateNormal(mean, precision_matrix=hessian, validate_args=False)


def linear_bound(model: GenerativeModel, q: MultivariateNormal, x: Tensor, mask: Tensor, prior: Prior) -> Tensor:
    """E_q[F] - H[q] (B,) of a model that is linear in z, exactly: F(m) + 1/2 tr(H S) - H[q] for q = N(m, S)."""
    hessian = curvature(model, q.loc, mask * prior.log_precision_x.exp(), prior)
    spread = 0.5 * (hessian * q.covariance_matrix).sum((-2, -1))
    return model.free_energy(q.loc, x, mask, prior) + spread - q.entropy()


@torch.no_grad()
def maximise(model: GenerativeModel, q: MultivariateNormal, x: Tensor, mask: Tensor) -> None:
    """M step of the factor model: the loadings C, the offsets b and the noise that minimise E_q[F] given q(z|x).

    Each channel is regressed on the latents over the N rows of x and mask (N, D) that show it; its noise variance is
    what the regression leaves, Sigma = <e e'>, but not below the least that the model allows. Raises GanglionError if
    the model is not a factor model (one node, no tied channel, no curved part) or a channel is never seen.
    """
    observation = _require_factor_model(model)
    count = mask.sum(0)
    if not bool((count > 0).all()):
        raise GanglionError(f"channel {int(count.argmin())} is masked in every row; leave it out of the observation")
    one = torch.ones_like(q.loc[:, :1])
    regressors = torch.cat((q.loc, one), -1)
    moments = regressors.unsqueeze(-1) * regressors.unsqueeze(-2)
    moments[:, :-1, :-1] += q.covariance_matrix
    left = torch.einsum("nd,nij->dij", mask, moments)
    right = (mask * x).mT @ regressors
    solution = torch.linalg.solve(left, right)
    residual = (mask * x.square()).sum(0) - (solution * right).sum(-1)
    observation.skip_weight.copy_(solution[:, :-1])
    observation.outer_bias.copy_(solution[:, -1])
    model.observation_log_precision.set(-(residual / count).log())


def expectation_maximisation(model: GenerativeModel, x: Tensor, mask: Tensor) -> Iterator[float]:
    """Endless exact EM of the factor model on x and mask (N, D); yields the mean of -log p(x) before every M step.

    Raises GanglionError as `maximise`.
    """
    _require_factor_model(model)
    while True:
        with torch.no_grad():
            prior = standard_prior(model, len(x))
            q = linear_posterior(model, x, mask, prior)
            yield float(linear_bound(model, q, x, mask, prior).mean())
        maximise(model, q, x, mask)


def _require_factor_model(model: GenerativeModel) -> Conditional:
    observation = model.observation.free
    linear = observation is not None and not bool(observation.outer_weight.any())
    if len(model.nodes) > 1 or model.observation.tied or not linear:
        raise GanglionError(
            f"expectation maximisation needs one node, no tied channel and an observation whose outer_weight is zero;"
            f" got {len(model.nodes)} nodes, {len(model.observation.tied)} tied channels and"
            f" {'a zero' if linear else 'a nonzero'} outer_weight"
        )
    return cast(Conditional, observation)
