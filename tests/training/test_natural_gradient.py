"""Fisher products, conjugate gradients, and steps of a given divergence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.agent.distributions import Categorical, Distribution, Gaussian
from training.natural_gradient import conjugate_gradient, fisher_product, natural_step, put

OBSERVED = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.1]], dtype=torch.float64)
"""Features (3, 2) of three states."""


def gaussian(weight: Tensor) -> Distribution:
    """Mean and log standard deviation linear in the features; `weight` (4,)."""
    return Gaussian(OBSERVED @ weight[:2, None], (OBSERVED @ weight[2:, None]).exp())


def categorical(weight: Tensor) -> Distribution:
    """`weight` (6,): logits of three choices."""
    return Categorical(OBSERVED @ weight.reshape(2, 3))


POLICIES = {
    "gaussian": (gaussian, torch.tensor([0.3, -0.2, 0.1, -0.4], dtype=torch.float64)),
    "categorical": (categorical, torch.tensor([0.3, -0.2, 0.1, -0.4, 0.9, 0.2], dtype=torch.float64)),
}


def fisher(kind: str) -> tuple[Tensor, Tensor]:
    """Matrix (P, P) of the products with the axes, and the explicit E[grad log pi grad log pi'] over states and
    actions: those of a categorical policy are summed, a Gaussian's have the closed form of its mean and deviation."""
    make, start = POLICIES[kind]
    weight = start.clone().requires_grad_(True)
    kl = make(start).kl(make(weight)).mean()
    product = fisher_product(kl, [weight], 0.0)
    found = torch.stack([product(axis) for axis in torch.eye(len(start), dtype=torch.float64)])
    explicit = torch.zeros_like(found)
    for row, observed in enumerate(OBSERVED):
        if kind == "gaussian":
            variance = (observed @ start[2:]).exp() ** 2
            mean = torch.cat((observed, torch.zeros(2, dtype=torch.float64)))
            deviation = torch.cat((torch.zeros(2, dtype=torch.float64), observed))
            explicit += torch.outer(mean, mean) / variance + 2 * torch.outer(deviation, deviation)
            continue
        for choice in range(3):
            log_prob = make(weight).log_prob(torch.full((3,), choice))[row]
            score = torch.autograd.grad(log_prob, weight)[0]
            explicit += log_prob.detach().exp() * torch.outer(score, score)
    return found, explicit / len(OBSERVED)


@pytest.mark.parametrize("kind", POLICIES)
def test_the_curvature_of_the_divergence_is_the_fisher_information(kind: str) -> None:
    found, explicit = fisher(kind)
    torch.testing.assert_close(found, explicit, rtol=1e-10, atol=1e-10)


def test_the_fisher_information_of_n_theta_1_is_1_and_the_step_lands_at_epsilon() -> None:
    """KL(N(t, 1), N(t + d, 1)) = d^2/2, so the step is sqrt(2 epsilon), whatever the size of the gradient."""
    theta, one, epsilon = torch.tensor([0.7], dtype=torch.float64), torch.ones(1, dtype=torch.float64), 0.01
    moved = theta.clone().requires_grad_(True)
    product = fisher_product(Gaussian(theta, one).kl(Gaussian(moved, one)), [moved], 0.0)
    assert product(one).item() == pytest.approx(1.0, abs=1e-12)
    for gradient in (one, 1e-3 * one, -50.0 * one):
        step = natural_step(product, gradient, epsilon, 1)
        assert step.item() == pytest.approx(gradient.sign().item() * (2 * epsilon) ** 0.5)
        landed = Gaussian(theta, one).kl(Gaussian(theta + step, one)).item()
        assert landed == pytest.approx(epsilon, rel=0.01)


@pytest.mark.parametrize("kind", POLICIES)
def test_the_step_lands_at_kl_epsilon_and_its_direction_is_the_natural_gradient(kind: str) -> None:
    """1/2 d'Fd = epsilon to 1e-9, the true divergence within 1 % of it, and no other step of that size gains more."""
    make, start = POLICIES[kind]
    weight, epsilon = start.clone().requires_grad_(True), 1e-6
    damping = 0.0 if kind == "gaussian" else 1e-12  # a logit for all choices changes nothing, so F is singular
    product = fisher_product(make(start).kl(make(weight)).mean(), [weight], damping)
    torch.manual_seed(0)
    action = make(start).sample()
    gradient = torch.autograd.grad((make(weight).log_prob(action) * torch.tensor([1.0, -2.0, 0.5])).mean(), weight)[0]
    step = natural_step(product, gradient, epsilon, len(start))
    assert 0.5 * (step @ product(step)).item() == pytest.approx(epsilon, rel=1e-6)
    assert make(start).kl(make(start + step)).mean().item() == pytest.approx(epsilon, rel=0.01)
    for _ in range(20):
        other = torch.randn_like(step)
        other = other * (2 * epsilon / (other @ product(other))).sqrt()
        assert gradient @ other <= gradient @ step * (1 + 1e-9)


@given(st.integers(0, 50), st.integers(1, 8))
def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_unknowns(seed: int, size: int) -> None:
    torch.manual_seed(seed)
    half, target = torch.randn(size, size).double(), torch.randn(size).double()
    matrix = half @ half.mT + torch.eye(size)
    found = conjugate_gradient(lambda v: matrix @ v, target, size, tolerance=0.0)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), rtol=1e-6, atol=1e-6)


def test_no_gradient_is_no_step() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(natural_step(lambda v: v, zero, 0.01, 5), zero)


def test_parameters_are_put_in_order() -> None:
    first, second = torch.zeros(2, 2, requires_grad=True), torch.zeros(1, requires_grad=True)
    put([first, second], torch.arange(5.0))
    assert first.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert second.tolist() == [4.0]
