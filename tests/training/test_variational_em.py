"""Variational expectation maximisation of factor models: exact steps, the closed-form optimum, and its limits."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from runtime.contract import Node
from runtime.errors import GanglionError
from tests.training.models import D
from tests.training.test_variational import draw, exact, optimal_factors, straighten
from training.agent.model import GenerativeModel
from training.variational import (
    expectation_maximisation,
    linear_bound,
    linear_posterior,
    maximise,
    standard_prior,
)

torch.set_num_threads(1)


def structured(rows: int, loadings: Tensor, noise: float) -> Tensor:
    """Data (N, D) whose sample covariance is exactly C C' + noise 1, with mean (1, ... 1)."""
    x = torch.randn(rows, len(loadings), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.mT @ x / rows), x.mT, upper=False).mT
    target = loadings @ loadings.mT + noise * torch.eye(len(loadings), dtype=torch.float64)
    return white @ torch.linalg.cholesky(target).mT + 1.0


def factor_model(factors: int, channels: int = D) -> GenerativeModel:
    model = GenerativeModel((Node("factors", factors),), channels, 0, 1).double()
    straighten(model)
    model.observation_log_precision.set(torch.zeros(channels))
    return model


def test_em_never_raises_f_and_finds_the_closed_form_optimum() -> None:
    """Where the sample covariance is C C' + s 1, factor analysis and probabilistic PCA share their optimum."""
    torch.manual_seed(0)
    x = structured(100, torch.randn(5, 2, dtype=torch.float64), 0.5)
    model, mask = factor_model(2, 5), torch.ones_like(x)
    energies = [f for f, _ in zip(expectation_maximisation(model, x, mask), range(600))]
    assert all(late <= early + 1e-12 for early, late in pairwise(energies))
    best = optimal_factors((x - 1).mT @ (x - 1) / len(x), 2)
    assert energies[0] > best + 0.5
    assert energies[-1] == pytest.approx(best, abs=1e-6)
    torch.testing.assert_close(
        (-model.observation_log_precision()).exp(), torch.full((5,), 0.5).double(), rtol=0.01, atol=0
    )


def test_both_halves_of_em_are_exact_also_with_missing_channels() -> None:
    """E: the bound touches -log p(x). M: no derivative of E_q[F] is left, the noise is the mean square error."""
    torch.manual_seed(0)
    x, mask = draw(80)
    model = factor_model(2)
    energies = []
    for _ in range(4):
        prior = standard_prior(model, len(x))
        q = linear_posterior(model, x, mask, prior)
        bound = linear_bound(model, q, x, mask, prior)
        torch.testing.assert_close(bound, exact(model, x, mask, prior), rtol=1e-10, atol=1e-10)
        q = MultivariateNormal(q.loc.detach(), q.covariance_matrix.detach())
        maximise(model, q, x, mask)
        after = linear_bound(model, q, x, mask, standard_prior(model, len(x))).mean()
        energies += [bound.mean().item(), after.item()]
        free = model.observation.free
        assert free is not None
        learned = [free.skip_weight, free.outer_bias, model.observation_log_precision.raw]
        for gradient in torch.autograd.grad(after, learned):
            assert gradient.abs().max() < 1e-10
    assert energies == sorted(energies, reverse=True)


def test_em_refuses_what_it_cannot_solve() -> None:
    x, mask = draw()
    curved = GenerativeModel((Node("state", 2),), D, 0, 2).double()
    with pytest.raises(GanglionError, match="a nonzero outer_weight"):
        next(expectation_maximisation(curved, x, mask))
    mask[:, 2] = 0.0
    steps = expectation_maximisation(factor_model(1), x, mask)
    next(steps)
    with pytest.raises(GanglionError, match="channel 2 is masked"):
        next(steps)
