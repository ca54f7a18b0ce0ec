"""Distributions over actions against those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from training.agent.distributions import Categorical, Distribution, Gaussian, SquashedGaussian


def gaussian(seed: int) -> Gaussian:
    torch.manual_seed(seed)
    return Gaussian(torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64) + 0.1)


def same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_gaussian_is_that_of_torch() -> None:
    one, two = gaussian(0), gaussian(1)
    first, second = (Independent(Normal(g.mean, g.std), 1) for g in (one, two))
    action = one.sample()
    same(one.log_prob(action), first.log_prob(action))
    same(one.entropy(), first.entropy())
    same(one.kl(two), kl_divergence(first, second))
    same(one.rows(torch.tensor([3, 1])).mean, one.mean[[3, 1]])


def test_squashed_gaussian_is_the_tanh_of_a_gaussian() -> None:
    inner = gaussian(0)
    one = SquashedGaussian(inner)
    base = Independent(Normal(inner.mean, inner.std), 1)
    reference = TransformedDistribution(base, [TanhTransform()])
    action, log_prob = one.sample_with_log_prob()
    assert (action.abs() < 1).all()
    same(log_prob, reference.log_prob(action))
    same(one.log_prob(action), log_prob)
    same(one.kl(SquashedGaussian(gaussian(1))), inner.kl(gaussian(1)))


def test_squashed_probabilities_sum_to_one() -> None:
    """By the midpoint rule over (-1, 1)."""
    count = 200_000
    a = (torch.arange(count, dtype=torch.float64).unsqueeze(-1) + 0.5) * 2 / count - 1
    one = SquashedGaussian(Gaussian(torch.full((count, 1), 0.3).double(), torch.full((count, 1), 0.7).double()))
    assert (one.log_prob(a).exp().sum() * 2 / count).item() == pytest.approx(1.0, abs=1e-6)


def test_squashed_log_probability_is_finite_at_the_bounds() -> None:
    one = SquashedGaussian(Gaussian(torch.zeros(2, 1), torch.ones(2, 1)))
    assert torch.isfinite(one.log_prob(torch.tensor([[1.0], [-1.0]]))).all()


def test_categorical_is_that_of_torch_and_samples_as_often_as_it_says() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    one, other = Categorical(logits), Categorical(logits.flip(-1))
    reference = TorchCategorical(logits=logits)
    action = torch.tensor([2, 0])
    same(one.log_prob(action), reference.log_prob(action))
    same(one.entropy(), reference.entropy())
    same(one.kl(other), kl_divergence(reference, TorchCategorical(logits=logits.flip(-1))))
    many = Categorical(logits[:1].expand(100_000, 3)).sample()
    shares = torch.bincount(many) / len(many)
    torch.testing.assert_close(shares.double(), reference.probs[0], atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", [Gaussian, SquashedGaussian])
def test_samples_carry_gradients(kind: type[Distribution]) -> None:
    mean = torch.zeros(4, 2, requires_grad=True)
    inner = Gaussian(mean, torch.ones(4, 2))
    (inner if kind is Gaussian else SquashedGaussian(inner)).sample().sum().backward()
    assert mean.grad is not None
    assert (mean.grad > 0).all()
