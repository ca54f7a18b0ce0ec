"""Amortized variational inference: bounds against exact likelihoods, and what the three models learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from runtime.contract import Node
from runtime.errors import GanglionError
from tests.training.models import (
    A,
    Array,
    D,
    System,
    conditionals,
    linear_system,
    make_model,
    numbers,
)
from training.agent.model import GenerativeModel, Prior
from training.variational import (
    ConditionalAutoencoder,
    LatentStateSpaceModel,
    VariationalAutoencoder,
    divergence_and_reconstruction,
    kl_to_prior,
    linear_bound,
    linear_posterior,
    sample,
    sample_prior,
    standard_prior,
    temporal_prior,
    variational_free_energy,
)

torch.set_num_threads(1)

LINEAR = pytest.mark.parametrize("graph", ["single", "chain", "diamond"])
B = 6


def straighten(model: GenerativeModel) -> None:
    """Remove the curved parts of `model`, for good."""
    for part in conditionals(model):
        for curved in (part.inner_weight, part.inner_bias, part.outer_weight):
            torch.nn.init.zeros_(curved.requires_grad_(False))


def draw(batch: int = B) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, D, dtype=torch.float64), (torch.rand(batch, D) > 0.3).double()


def past(model: GenerativeModel) -> Prior:
    z, action = torch.randn(B, model.size, dtype=torch.float64), torch.randn(B, A, dtype=torch.float64)
    return temporal_prior(model, z, action)


def exact(model: GenerativeModel, x: Tensor, mask: Tensor, prior: Prior) -> Tensor:
    """-log p(x) of the unmasked channels (B,), by the mean and covariance that a linear model gives them."""
    mean = model.prior_mean(prior.drive)
    root = torch.autograd.functional.jacobian(
        lambda e: model.prior_mean(prior.drive[:1] + e)[0], torch.zeros_like(mean[0])
    )
    sensor = torch.autograd.functional.jacobian(lambda z: model.predict(z), mean[0])
    covariance = sensor @ root @ torch.diag(1 / prior.precision) @ root.mT @ sensor.mT
    covariance = covariance + torch.diag((-prior.log_precision_x).exp())
    expected, energies = model.predict(mean), []
    for i, m in enumerate(mask):
        seen = m.nonzero().flatten()
        energies.append(-MultivariateNormal(expected[i, seen], covariance[seen][:, seen]).log_prob(x[i, seen]))
    return torch.stack(energies)


def q_of(mean: Tensor, std: Tensor) -> Normal:
    return Normal(mean, std, validate_args=False)


def test_kl_to_the_standard_normal_by_hand() -> None:
    """1/2 sum(m^2 + s^2 - 1 - log s^2) for m = (1, 0), s = (1, 2): 1/2 (1 + 3 - log 4)."""
    model = GenerativeModel((Node("state", 2),), D, 0, 3).double()
    q = q_of(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[1.0, 2.0]]).double())
    assert kl_to_prior(model, q, standard_prior(model, 1)).item() == pytest.approx(0.5 * (4 - math.log(4)), rel=1e-12)


def test_kl_to_a_temporal_prior_is_the_monte_carlo_mean() -> None:
    model = make_model("single", linear=True)
    prior = past(model)
    mean, std = torch.randn(2, B, model.size, dtype=torch.float64)
    q = q_of(mean, (0.5 * std).exp())
    z = sample(q, torch.randn(20_000, B, model.size, dtype=torch.float64))
    p = Normal(prior.drive, prior.precision.rsqrt())
    terms = (q.log_prob(z) - p.log_prob(z)).sum(-1)
    error = terms.std(0) / math.sqrt(len(terms))
    assert ((terms.mean(0) - kl_to_prior(model, q, prior)).abs() < 4 * error).all()


def test_kl_needs_a_diagonal_gaussian_prior() -> None:
    model = make_model("chain", linear=True)
    with pytest.raises(GanglionError, match="graph without edges"):
        kl_to_prior(model, q_of(*torch.ones(2, B, model.size).double()), past(model))


@LINEAR
def test_the_bound_is_tight_at_the_exact_posterior(graph: str) -> None:
    model = make_model(graph, linear=True)
    (x, mask), prior = draw(), past(model)
    posterior = linear_posterior(model, x, mask, prior)
    expected = exact(model, x, mask, prior)
    torch.testing.assert_close(linear_bound(model, posterior, x, mask, prior), expected, rtol=1e-10, atol=1e-10)


@LINEAR
def test_elsewhere_the_bound_is_looser_by_the_divergence_from_the_posterior(graph: str) -> None:
    model = make_model(graph, linear=True)
    (x, mask), prior = draw(), past(model)
    posterior = linear_posterior(model, x, mask, prior)
    mean, log_std = torch.randn(2, B, model.size, dtype=torch.float64)
    q = MultivariateNormal(mean, torch.diag_embed(log_std.exp().square()))
    gap = linear_bound(model, q, x, mask, prior) - exact(model, x, mask, prior)
    torch.testing.assert_close(gap, torch.distributions.kl_divergence(q, posterior), rtol=1e-9, atol=1e-9)
    assert (gap > 0).all()


def test_samples_estimate_the_bound_both_ways() -> None:
    """Both estimates have the exact bound as their mean, and differ sample by sample."""
    model = make_model("single", linear=True)
    (x, mask), prior = draw(), past(model)
    mean, log_std = 0.5 * torch.randn(2, B, model.size, dtype=torch.float64)
    q = q_of(mean, log_std.exp())
    noise = torch.randn(20_000, B, model.size, dtype=torch.float64)
    expected = linear_bound(model, MultivariateNormal(mean, torch.diag_embed(q.variance)), x, mask, prior)
    for estimate in (variational_free_energy, divergence_and_reconstruction):
        values = estimate(model, q, x, mask, prior, noise)
        assert ((values.mean(0) - expected).abs() < 4 * values.std(0) / math.sqrt(len(noise))).all()


def test_prior_samples_have_the_models_moments() -> None:
    """On a chain z_bottom = M z_top + ...: the covariance of samples is that of the ancestral pass."""
    model = make_model("chain", linear=True)
    prior = past(model)
    one = Prior(prior.drive[:1], prior.precision, prior.log_det, prior.log_precision_x)
    noise = torch.randn(40_000, model.size, dtype=torch.float64)
    z = sample_prior(model, one, noise)
    expected = torch.tensor(linear_system(model).noise)
    torch.testing.assert_close(z.mT.cov(), expected, rtol=0.0, atol=0.03 * expected.max().item())
    torch.testing.assert_close(z.mean(0), model.prior_mean(one.drive)[0], rtol=0.0, atol=0.05)


@pytest.mark.parametrize("form", [variational_free_energy, divergence_and_reconstruction])
def test_masked_channels_are_deleted_channels(form: Callable[..., Tensor]) -> None:
    """With the same q and noise, masking equals a smaller model without those channels; so does the recognition."""
    torch.manual_seed(4)
    keep = [0, 2]
    full, small = GenerativeModel((Node("state", 2),), D, 0, 3).double(), GenerativeModel((Node("state", 2),), 2, 0, 3)
    small = small.double()
    assert full.observation.free is not None
    assert small.observation.free is not None
    state = full.observation.free.state_dict()
    rows = {n: v[keep] if n.startswith(("skip", "outer")) else v for n, v in state.items()}
    small.observation.free.load_state_dict(rows)
    x, mask = draw()
    mask = torch.zeros_like(mask)
    mask[:, keep] = 1.0
    q = q_of(torch.randn(B, 2).double(), torch.rand(B, 2).double())
    noise = torch.randn(3, B, 2, dtype=torch.float64)
    masked = form(full, q, x, mask, standard_prior(full, B), noise)
    deleted = form(small, q, x[:, keep], mask[:, keep], standard_prior(small, B), noise)
    torch.testing.assert_close(masked, deleted, rtol=1e-12, atol=1e-12)
    autoencoder = VariationalAutoencoder(full, 8).double()
    first = autoencoder.bound(x, mask, noise)
    torch.testing.assert_close(autoencoder.bound(x + 7 * (1 - mask), mask, noise), first, rtol=0.0, atol=0.0)
    assert not torch.allclose(autoencoder.bound(x + 7 * mask, mask, noise), first)


def descend(module: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> float:
    """Adam, the rate falling to zero, ten times as fast on log-precisions; returns the loss at the start."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if n.endswith("raw") == scale], "speed": 10.0 if scale else 1.0}
        for scale in (True, False)
    ]
    optimizer = torch.optim.Adam(groups)
    first = loss().item()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["speed"] * rate * (1 - step / steps)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return first


def optimal_factors(covariance: Tensor, factors: int) -> float:
    """Least mean of -log p(x) over probabilistic PCA models, by the eigenvalues of the sample covariance."""
    values = torch.linalg.eigvalsh(covariance).flip(0)
    noise, size = values[factors:].mean(), len(values)
    logs = values[:factors].log().sum() + (size - factors) * noise.log()
    return float(0.5 * (size * math.log(2 * math.pi) + logs + size))


def test_autoencoder_reaches_the_optimum_of_probabilistic_pca() -> None:
    """A 2-D Gaussian, one latent, linear decoder: the bound ends within 0.01 nats of the best factor model."""
    torch.manual_seed(0)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.3]])
    x = torch.randn(2000, 2) @ root.mT + torch.tensor([0.5, -0.2])
    model = GenerativeModel((Node("state", 1),), 2, 0, 1)
    autoencoder = VariationalAutoencoder(model, 8)
    mask = torch.ones_like(x)
    straighten(model)
    best = optimal_factors((x - x.mean(0)).mT @ (x - x.mean(0)) / len(x), 1)
    first = descend(autoencoder, lambda: autoencoder.bound(x, mask, torch.randn(len(x), 1)).mean(), 250, 0.02)
    with torch.no_grad():
        bound = float(autoencoder.bound(x, mask, torch.randn(50, len(x), 1)).mean())
        likelihood = float(exact(model.double(), x.double(), mask.double(), standard_prior(model, len(x))).mean())
    assert first > bound + 1.0
    assert likelihood <= bound + 0.005  # the error of 50 samples
    assert bound < best + 0.01


def test_conditional_autoencoder_beats_ignoring_the_condition() -> None:
    """x = +-(1, 1) + 0.1 noise by the sign of c: -log p(x|c) lies below -log p(x) by at least what c tells, log 2."""
    torch.manual_seed(0)
    sign = torch.randint(2, (500, 1)).float() * 2 - 1
    x = sign + 0.1 * torch.randn(500, 2)
    mask = torch.ones_like(x)
    best = 2 * (0.5 + 0.5 * math.log(2 * math.pi) + math.log(0.1))  # entropy of the noise
    bounds, autoencoders = [], []
    for condition in (sign, torch.zeros_like(sign)):
        autoencoder = ConditionalAutoencoder(GenerativeModel((Node("state", 1),), 2, 1, 8), 1, 16)
        bound = partial(autoencoder.bound, x, mask, condition)
        descend(autoencoder, lambda bound=bound: bound(torch.randn(500, 1)).mean(), 250, 0.02)  # type: ignore[misc]
        with torch.no_grad():
            bounds.append(float(bound(torch.randn(50, 500, 1)).mean()))
        autoencoders.append(autoencoder)
    informed, ignorant = bounds
    assert best - 0.1 < informed < best + 0.1
    assert ignorant > informed + math.log(2)
    model, prior = autoencoders[0].model, autoencoders[0].prior(sign)
    with torch.no_grad():
        drawn = model.predict(sample_prior(model, prior, torch.randn(500, 1)))
    assert (drawn.sign() == sign).all()


def kalman_energy(system: System, x: Array, mask: Array, action: Array) -> float:
    """-log p(x_1 ... x_T | actions) of one sequence (T, D), from z_0 = 0 known."""
    mean, covariance, total = np.zeros(len(system.noise)), np.zeros_like(system.noise), 0.0
    for x_t, mask_t, action_t in zip(x, mask, action):
        mean, covariance = system.predict(mean, covariance, action_t)
        seen, x_t = system.seeing(mask_t), x_t[mask_t > 0]
        expected, spread = seen.expect(mean, covariance)
        error = x_t - expected
        total += 0.5 * (error @ np.linalg.solve(spread, error) + np.linalg.slogdet(2 * np.pi * spread)[1])
        mean, covariance = seen.update(mean, covariance, x_t)
    return total


def system_of(model: GenerativeModel) -> System:
    """Of one node without curvature, whose latents are tied to the leading channels."""
    dynamics, sensor = model._dynamics("state"), model.observation.free
    assert sensor is not None
    return System(
        numbers(model.persistence + dynamics.skip_weight[:, : model.size]),
        numbers(dynamics.skip_weight[:, model.size :]),
        numbers(dynamics.outer_bias),
        numbers(torch.diag((-model.latent_log_precision()).exp())),
        numbers(torch.cat((torch.eye(model.size), sensor.skip_weight))),
        numbers(torch.cat((torch.zeros(model.size), sensor.outer_bias))),
        numbers(torch.diag((-model.observation_log_precision()).exp())),
    )


def simulate(system: System, sequences: int, ticks: int) -> tuple[Tensor, Tensor]:
    """Observations and actions (T, B, .)."""
    rng = np.random.default_rng(0)
    action = rng.normal(size=(ticks, sequences, system.control.shape[1]))
    z, rows = np.zeros((sequences, len(system.noise))), []
    for a in action:
        drive = z @ system.transition.T + a @ system.control.T + system.offset
        z = drive + rng.normal(size=z.shape) @ np.linalg.cholesky(system.noise).T
        x = z @ system.sensor.T + system.bias
        rows.append(x + rng.normal(size=x.shape) @ np.linalg.cholesky(system.noise_x).T)
    return torch.tensor(np.stack(rows)).float(), torch.tensor(action).float()


def test_state_space_model_is_bounded_by_the_kalman_filter_and_comes_close() -> None:
    """A linear system with two latents, three sensors, a force, 6 ticks; nats per tick.

    0.15 is what a filter that does not look ahead and keeps its latents independent may miss of Kalman's likelihood.
    """
    torch.manual_seed(1)
    truth = System(
        transition=np.array([[0.95, 0.2], [-0.2, 0.95]]),
        control=np.array([[0.0], [0.3]]),
        offset=np.zeros(2),
        noise=0.1 * np.eye(2),
        sensor=np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]]),
        bias=np.array([0.0, 0.0, 0.1]),
        noise_x=0.03 * np.eye(3),
    )
    ticks, size = 6, 100
    x, action = simulate(truth, size, ticks)
    model = GenerativeModel((Node("state", 2),), 3, 1, 1, tied=(0, 1))
    model.latent_log_precision.set(torch.full((2,), 2.0))
    model.observation_log_precision.set(torch.full((3,), 2.0))
    ssm = LatentStateSpaceModel(model, 1, 16)
    straighten(model)

    def loss(mask: Tensor) -> Tensor:
        return ssm.bound(x, mask, action, torch.randn(ticks, size, 2)).mean() / ticks

    def kalman(system: System, mask: Tensor) -> float:
        data = [v.double().transpose(0, 1).numpy() for v in (x, mask, action)]
        return float(np.mean([kalman_energy(system, *rows) for rows in zip(*data)])) / ticks

    seen, dropped = torch.ones_like(x), (torch.rand_like(x) < 0.7).float()
    first = descend(ssm, lambda: loss(seen), 200, 0.02)
    learned = system_of(model)
    for mask in (seen, dropped):
        with torch.no_grad():
            estimates = torch.stack([loss(mask) for _ in range(30)])
        bound, error = float(estimates.mean()), float(estimates.std()) / math.sqrt(30)
        assert bound > kalman(learned, mask) - 4 * error
        if mask is seen:
            assert first > bound + 1.0
            assert bound < kalman(learned, seen) + 0.15
    assert kalman(learned, seen) < kalman(truth, seen) + 0.03
