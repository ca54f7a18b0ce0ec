"""The estimators against closed forms; expectations over a normal x by Gauss-Hermite quadrature, so they are exact."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from runtime.errors import GanglionError
from training.derivatives import (
    from_noise,
    gumbel_noise,
    gumbel_softmax,
    infer_noise,
    kumaraswamy,
    likelihood_ratio,
    truncated_normal,
)


def _quadrature() -> tuple[Tensor, Tensor]:
    """Nodes and weights of E over N(0, 1), exact for polynomials up to degree 23."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def _naive(noise: Tensor, theta: Tensor) -> Tensor:
    x = from_noise(noise, theta, torch.ones_like(theta)).detach()
    return x * x * theta


def _score(noise: Tensor, theta: Tensor) -> Tensor:
    x = from_noise(noise, theta, torch.ones_like(theta)).detach()
    return x * x * theta * likelihood_ratio(-0.5 * (x - theta) ** 2)


def _reparameterised(noise: Tensor, theta: Tensor) -> Tensor:
    x = from_noise(noise, theta, torch.ones_like(theta))
    return x * x * theta


def _moments(estimator: Callable[[Tensor, Tensor], Tensor], theta: float) -> tuple[float, float]:
    """Mean and variance of the derivative that the estimator gives for one sample."""
    noise, weight = _quadrature()
    parameter = torch.full_like(noise, theta, requires_grad=True)
    (gradient,) = torch.autograd.grad(estimator(noise, parameter).sum(), parameter)
    mean = (weight * gradient).sum()
    return float(mean), float((weight * (gradient - mean) ** 2).sum())


@pytest.mark.parametrize(
    ("estimator", "mean", "variance"), [(_naive, 2.0, 6.0), (_score, 4.0, 60.0), (_reparameterised, 4.0, 18.0)]
)
def test_at_theta_1_the_mean_is_2_4_4_and_the_variance_of_N_samples_6_60_18_over_N(
    estimator: Callable[[Tensor, Tensor], Tensor], mean: float, variance: float
) -> None:
    assert _moments(estimator, 1.0) == pytest.approx((mean, variance), abs=1e-9)
    torch.manual_seed(0)
    trials, n = 2000, 50
    theta = torch.ones(trials, n, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(estimator(torch.randn_like(theta), theta).sum(), theta)
    means = gradient.mean(1)
    assert means.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / n / trials))
    assert means.var().item() == pytest.approx(variance / n, rel=0.2)


@pytest.mark.parametrize("estimator", [_score, _reparameterised])
@pytest.mark.parametrize("theta", [-1.0, 0.0, 0.5, 2.0])
def test_dJ_is_1_plus_3_theta_squared_and_not_3_plus_theta_squared(
    estimator: Callable[[Tensor, Tensor], Tensor], theta: float
) -> None:
    mean, _ = _moments(estimator, theta)
    assert mean == pytest.approx(1 + 3 * theta**2, abs=1e-9)
    if theta == 2.0:
        assert mean == pytest.approx(13.0, abs=1e-9)
        assert abs(mean - (3 + theta**2)) > 5.0


def test_likelihood_ratio_is_one_and_its_derivative_is_the_score() -> None:
    log_prob = torch.tensor([-3.0, 0.7], requires_grad=True)
    ratio = likelihood_ratio(log_prob)
    assert ratio.tolist() == [1.0, 1.0]
    assert torch.autograd.grad(ratio.sum(), log_prob)[0].tolist() == [1.0, 1.0]


def test_score_function_of_a_categorical_equals_enumeration() -> None:
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    log_prob = torch.log_softmax(logits, -1)
    (exact,) = torch.autograd.grad((log_prob.exp() * value).sum(), logits)
    surrogate = (log_prob.exp().detach() * likelihood_ratio(torch.log_softmax(logits, -1)) * value).sum()
    (estimated,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(estimated, exact, rtol=0, atol=1e-14)


def test_x_from_noise_has_covariance_L_Lt_so_L_is_a_square_root_of_it() -> None:
    covariance = torch.tensor([[4.0, 1.2], [1.2, 1.0]], dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    unit = torch.eye(2, dtype=torch.float64)
    columns = from_noise(unit, torch.zeros_like(unit), root.expand(2, 2, 2))
    torch.testing.assert_close(columns.mT @ columns, covariance)  # E[x x'] = sum of L e e' L' over unit noises
    one = from_noise(torch.ones(1), torch.zeros(1), torch.tensor([2.0]))  # variance 4, not 16: the slip of the source
    assert one.item() == 2.0


def test_inferred_noise_is_L_inverse_x_minus_mean_and_gives_x_back() -> None:
    torch.manual_seed(1)
    mean, noise = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    root = torch.linalg.cholesky(torch.eye(3, dtype=torch.float64) + 0.3)
    for chosen in (root.expand(5, 3, 3), root.diagonal().expand(5, 3)):
        x = from_noise(noise, mean, chosen)
        torch.testing.assert_close(infer_noise(x, mean, chosen), noise, rtol=0, atol=1e-12)
        torch.testing.assert_close(from_noise(infer_noise(x, mean, chosen), mean, chosen), x, rtol=0, atol=1e-12)
    by_hand = infer_noise(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0]), torch.tensor([[2.0, 0.0], [1.0, 3.0]]))
    assert by_hand.tolist() == [1.0, 1.0]  # 2 = 2 * 1, 4 = 1 * 1 + 3 * 1


def test_replaying_inferred_noise_reproduces_the_trajectory_of_unknown_noise() -> None:
    torch.manual_seed(2)
    move = torch.tensor([[0.9, 0.2], [-0.1, 0.8]], dtype=torch.float64)
    root = torch.linalg.cholesky(torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=torch.float64))
    states = [torch.randn(2, dtype=torch.float64)]
    for _ in range(20):
        states.append(move @ states[-1] + root @ torch.randn(2, dtype=torch.float64))
    noises = [infer_noise(after, move @ before, root) for before, after in itertools.pairwise(states)]
    state = states[0]
    for noise, recorded in zip(noises, states[1:]):
        state = from_noise(noise, move @ state, root)
        torch.testing.assert_close(state, recorded, rtol=0, atol=1e-12)


def test_frequencies_of_a_uniform_3_categorical_are_one_third() -> None:
    torch.manual_seed(0)
    n = 30_000
    logits = torch.zeros(n, 3)
    hard = gumbel_softmax(gumbel_noise(logits), logits, 1.0, straight_through=True)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    deviation = math.sqrt(1 / 3 * 2 / 3 / n)
    assert hard.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=4 * deviation)
    soft = gumbel_softmax(gumbel_noise(logits), logits, 1.0)
    assert soft.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=4 * deviation)  # by symmetry; spread less


def test_the_largest_component_has_the_frequency_of_its_probability() -> None:
    torch.manual_seed(0)
    n, p = 30_000, torch.tensor([0.6, 0.3, 0.1])
    choice = gumbel_softmax(gumbel_noise(p.expand(n, 3)), p.log().expand(n, 3), 0.5).argmax(-1)
    frequency = choice.bincount(minlength=3) / n
    deviation = (p * (1 - p) / n).sqrt()
    assert ((frequency - p).abs() < 4 * deviation).all()


def test_gumbel_softmax_is_one_hot_as_temperature_goes_to_0_and_uniform_as_it_grows() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    noise = gumbel_noise(logits)
    one_hot = torch.nn.functional.one_hot((logits + noise).argmax(), 3).double()
    torch.testing.assert_close(gumbel_softmax(noise, logits, 1e-3), one_hot, rtol=0, atol=1e-12)
    torch.testing.assert_close(gumbel_softmax(noise, logits, 1e6), torch.full((3,), 1 / 3).double(), rtol=0, atol=1e-5)


def test_straight_through_has_the_derivative_of_the_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.2, -0.4, 0.1], dtype=torch.float64, requires_grad=True)
    noise, value = gumbel_noise(logits.detach()), torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    gradients = [
        torch.autograd.grad((gumbel_softmax(noise, logits, 0.7, straight) * value).sum(), logits)[0]
        for straight in (False, True)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-15)
    assert gradients[0].abs().max() > 0.01


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(GanglionError, match="expected more than 0"):
        gumbel_softmax(torch.zeros(2), torch.zeros(2), 0.0)


def _uniform(count: int) -> Tensor:
    """Midpoints of equal parts of (0, 1): the mean over them is an integral over u."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, 1.5), (-3.0, -1.0)])
def test_truncated_normal_has_mean_phi_a_minus_phi_b_over_Phi_b_minus_Phi_a(low: float, high: float) -> None:
    def density(x: float) -> float:
        return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)

    def cdf(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (low, high))
    x = truncated_normal(_uniform(100_000), a, b)
    assert low < x.min().item()
    assert x.max().item() < high
    mass, mean = cdf(high) - cdf(low), (density(low) - density(high)) / (cdf(high) - cdf(low))
    assert x.mean().item() == pytest.approx(mean, abs=1e-8)
    slopes = torch.autograd.grad(x.mean(), (a, b))
    by_hand = (density(low) * (mean - low) / mass, density(high) * (high - mean) / mass)  # quotient rule, phi' = -x phi
    assert [float(s) for s in slopes] == pytest.approx(by_hand, abs=1e-6)


def test_kumaraswamy_with_a_2_b_2_has_mean_8_over_15() -> None:
    two = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = kumaraswamy(_uniform(100_000), two, two)
    assert x.mean().item() == pytest.approx(8 / 15, abs=1e-6)  # 4 (x^2 - x^4) integrates to 4/3 - 4/5
    assert round(x.mean().item(), 4) == 0.5333
    assert torch.autograd.grad(x.mean(), two)[0].isfinite()


@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (0.5, 3.0), (5.0, 1.0)])
def test_kumaraswamy_inverts_its_distribution_function(a: float, b: float) -> None:
    u = _uniform(101)
    x = kumaraswamy(u, torch.tensor(a), torch.tensor(b))
    torch.testing.assert_close(1 - (1 - x**a) ** b, u, rtol=0, atol=1e-6)
