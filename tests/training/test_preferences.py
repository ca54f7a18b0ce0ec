"""Boltzmann preference, the mixture bound and the gradient of the preference term, all in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from runtime.errors import ContractError
from training.preferences import (
    boltzmann_preference,
    mixture_bound,
    mixture_surprisal,
    policy_posterior,
    preference_energy,
)

numbers = st.floats(-20.0, 20.0)
vectors = st.integers(1, 6).flatmap(lambda n: st.lists(numbers, min_size=n, max_size=n))
triples = st.integers(1, 6).flatmap(lambda n: st.lists(st.tuples(numbers, numbers, numbers), min_size=n, max_size=n))


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor | float, tolerance: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64).expand_as(actual)
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_preference_by_hand() -> None:
    """V = (0, log 2, log 3), β = 2: weights 1, 4 and 9 of 14; a batch of states in front changes nothing."""
    values = double([0.0, math.log(2), math.log(3)])
    preference = boltzmann_preference(torch.stack((values, values + 1.0)), 2.0)
    close(preference.log_probability.exp(), double([1, 4, 9]) / 14)
    close(preference.log_normalizer, double([math.log(14), math.log(14) + 2.0]))


@given(vectors)
def test_no_preference_is_uniform(values: list[float]) -> None:
    preference = boltzmann_preference(double(values), 0.0)
    close(preference.log_probability, -math.log(len(values)))
    close(preference.log_normalizer, math.log(len(values)))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=6))
def test_perfect_rationality_is_the_argmax_shared_by_ties(values: list[int]) -> None:
    """At β = 1000 a gap of 1 is exp(−1000), zero in float64."""
    best = double([float(v == max(values)) for v in values])
    preference = boltzmann_preference(double(values), 1000.0)
    close(preference.log_probability.exp(), best / best.sum(), 1e-15)
    assert ((preference.log_probability.exp() > 0) == (best > 0)).all()


@given(vectors, st.floats(0.0, 10.0))
def test_preference_is_normalised_and_ordered(values: list[float], beta: float) -> None:
    """log p = β V − log Z, sums to one, and the odds of two policies are exp(β ΔV)."""
    v = double(values)
    log_p, log_z = boltzmann_preference(v, beta)
    close(log_p.exp().sum(), 1.0)
    close(log_p, beta * v - log_z)
    close(log_p[0] - log_p, beta * (v[0] - v))


def test_mixture_bound_by_hand() -> None:
    """p = (½, ½), π(a) = (¼, ¾): E_p π(a) = ½, posterior (¼, ¾); at q = p the bound is −½ log (3/16)."""
    likelihood, prior = double([0.25, 0.75]).log(), double([0.5, 0.5]).log()
    close(mixture_surprisal(likelihood, prior), math.log(2))
    close(policy_posterior(likelihood, prior).exp(), double([0.25, 0.75]))
    close(mixture_bound(likelihood, prior, policy_posterior(likelihood, prior)), math.log(2))
    close(mixture_bound(likelihood, prior, prior), -0.5 * math.log(3 / 16))
    sure = double([0.0, -math.inf])  # q = the first policy alone: log 2 + log 4
    close(mixture_bound(likelihood, prior, sure), math.log(8))


@given(triples)
def test_the_bound_holds_and_its_gap_is_the_distance_to_the_posterior(rows: list[tuple[float, float, float]]) -> None:
    """KL(q‖p) + E_q[−log π(a)] + log E_p[π(a)] = KL(q‖posterior) ≥ 0, zero at the posterior."""
    columns = double(rows).T
    likelihood, (prior, q) = columns[0], torch.log_softmax(columns[1:], dim=-1)
    surprisal = mixture_surprisal(likelihood, prior)
    close(surprisal, -(prior.exp() * likelihood.exp()).sum().log())
    posterior = policy_posterior(likelihood, prior)
    close(posterior.exp().sum(), 1.0)
    close(mixture_bound(likelihood, prior, posterior), surprisal, 1e-11)
    gap = mixture_bound(likelihood, prior, q) - surprisal
    assert gap >= -1e-11
    close(gap, (q.exp() * (q - posterior)).sum(), 1e-11)


def test_the_bound_is_stationary_at_the_posterior() -> None:
    """The gradient through normalised logits vanishes there, and not at the prior."""
    likelihood, prior = double([-0.3, -2.0, -0.9]), torch.log_softmax(double([0.2, 1.0, -0.5]), dim=-1)

    def gradient(log_q: Tensor) -> Tensor:
        logits = log_q.clone().requires_grad_()
        mixture_bound(likelihood, prior, torch.log_softmax(logits, dim=-1)).backward()
        assert logits.grad is not None
        return logits.grad

    close(gradient(policy_posterior(likelihood, prior)), 0.0)
    assert gradient(prior).abs().max() > 0.1


def test_policies_that_are_ruled_out() -> None:
    """The action rules out the first policy, so q may not use it; what q never uses does no harm."""
    likelihood, prior = double([-math.inf, -1.0, -2.0]), double([0.2, 0.3, 0.5]).log()
    posterior = policy_posterior(likelihood, prior)
    assert posterior.exp()[0] == 0
    close(mixture_bound(likelihood, prior, posterior), mixture_surprisal(likelihood, prior))
    assert mixture_bound(likelihood, prior, prior) == math.inf
    impossible = prior.new_tensor([-math.inf, math.log(0.4), math.log(0.6)])
    q = double([-math.inf, 0.0, -math.inf]).requires_grad_()
    bound = mixture_bound(likelihood, impossible, q)
    close(bound.detach(), 1.0 - math.log(0.4))
    bound.backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()


def test_the_bound_takes_batches() -> None:
    torch.manual_seed(0)
    likelihood = torch.randn(4, 1, 3, dtype=torch.float64)
    prior, q = torch.log_softmax(torch.randn(2, 5, 3, dtype=torch.float64), dim=-1)
    bound = mixture_bound(likelihood, prior, q)
    assert bound.shape == (4, 5)
    close(bound[2, 3], mixture_bound(likelihood[2, 0], prior[3], q[3]))
    assert policy_posterior(likelihood, prior).shape == (4, 5, 3)


def policy_values(state: Tensor) -> Tensor:
    """Three smooth values of a state (2,): a hill each, at different places and of different height."""
    centres = double([[1.0, 0.0], [-0.5, 0.8], [0.3, -1.2]])
    return double([1.0, 2.0, 1.5]) * torch.exp(-0.5 * (state - centres).square().sum(dim=-1))


STATE = [0.4, -0.3]
BETA = 1.7
LOG_Q = torch.log_softmax(double([0.5, -1.0, 0.1]), dim=-1)


def gradient_at(function: Callable[[Tensor], Tensor]) -> Tensor:
    state = double(STATE).requires_grad_()
    (gradient,) = torch.autograd.grad(function(state), state)
    return gradient


def term(state: Tensor) -> Tensor:
    return preference_energy(policy_values(state), BETA, LOG_Q)


def finite_differences(function: Callable[[Tensor], Tensor], step: float = 1e-5) -> Tensor:
    steps = step * torch.eye(2, dtype=torch.float64)
    return torch.stack([(function(double(STATE) + h) - function(double(STATE) - h)) / (2 * step) for h in steps])


def test_the_preference_term_is_the_expected_surprisal_of_the_preference() -> None:
    values = policy_values(double(STATE))
    expected = -(LOG_Q.exp() * boltzmann_preference(values, BETA).log_probability).sum()
    close(term(double(STATE)), expected)
    one_policy = double([-math.inf, 0.0, -math.inf])
    close(preference_energy(values, BETA, one_policy), -boltzmann_preference(values, BETA).log_probability[1])


def test_the_gradient_keeps_log_z() -> None:
    """Autograd = finite differences of the full term = −β (E_q − E_p) ∇V; without log Z it is another vector."""
    gradient = gradient_at(term)
    close(gradient, finite_differences(term), 1e-9)
    jacobian = torch.autograd.functional.jacobian(policy_values, double(STATE))
    q, p = LOG_Q.exp(), boltzmann_preference(policy_values(double(STATE)), BETA).log_probability.exp()
    close(gradient, -BETA * (q - p) @ jacobian)
    without = gradient_at(lambda s: -BETA * (LOG_Q.exp() * policy_values(s)).sum())
    close(gradient - without, BETA * p @ jacobian)
    assert (gradient - without).norm() > 0.1


def test_a_value_that_all_policies_share_moves_no_state() -> None:
    """Adding c(s) to every V_π leaves term and gradient alone; −β E_q V alone would climb c."""

    def shared(state: Tensor) -> Tensor:
        return 3.0 * state.square().sum() + state[0]

    def shifted(state: Tensor) -> Tensor:
        return preference_energy(policy_values(state) + shared(state), BETA, LOG_Q)

    close(shifted(double(STATE)), term(double(STATE)))
    close(gradient_at(shifted), gradient_at(term))


def test_a_satisfied_preference_moves_no_state() -> None:
    """At q = p the gradient with respect to the state is zero."""
    satisfied = boltzmann_preference(policy_values(double(STATE)), BETA).log_probability
    close(gradient_at(lambda s: preference_energy(policy_values(s), BETA, satisfied)), 0.0)
    assert gradient_at(term).norm() > 0.1


def test_preference_drift_and_entropy_are_the_bound() -> None:
    """(c) + (d) − H[q] with the Boltzmann preference as prior is the mixture bound."""
    values, likelihood = policy_values(double(STATE)), double([-0.2, -1.5, -0.7])
    q = LOG_Q.exp()
    parts = preference_energy(values, BETA, LOG_Q) - (q * likelihood).sum() + (q * LOG_Q).sum()
    close(mixture_bound(likelihood, boltzmann_preference(values, BETA).log_probability, LOG_Q), parts)


EVEN = double([0.5, 0.5]).log()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: boltzmann_preference(EVEN, -1.0), "beta is -1.0; expected a finite number >= 0"),
        (lambda: boltzmann_preference(EVEN, math.inf), "beta is inf"),
        (lambda: boltzmann_preference(EVEN, math.nan), "beta is nan"),
        (lambda: preference_energy(EVEN, 1.0, EVEN.exp()), "log_posterior is not normalised; apply torch.log_softmax"),
        (lambda: preference_energy(EVEN, 1.0, double([0.0])), "log_posterior has 1 policies; expected 2"),
        (lambda: mixture_bound(EVEN, EVEN + 0.1, EVEN), "log_prior is not normalised"),
        (lambda: mixture_bound(EVEN, EVEN, EVEN - 0.1), "log_posterior is not normalised"),
        (lambda: mixture_bound(EVEN, double([0.0]), EVEN), "log_prior has 1 policies; expected 2"),
        (lambda: mixture_surprisal(EVEN, double([math.nan, 0.0])), "log_prior is not normalised"),
        (lambda: policy_posterior(double([-math.inf, 0.0]), double([0.0, -math.inf])), "no policy of the prior takes"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        call()
