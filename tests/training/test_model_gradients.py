"""The n-step return in a model: LQR with exact Q, both estimators, enumeration, and numbers worked by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from training.derivatives import from_noise, likelihood_ratio
from training.model_gradients import Act, model_return

GAMMA = 0.9


def _float64(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


A, B = _float64([0.9, 0.2], [-0.1, 1.05]), _float64([0.1], [0.5])
COST, EFFORT = _float64([1.0, 0.1], [0.1, 0.5]), _float64([0.3])
ROOT = torch.linalg.cholesky(_float64([0.04, 0.01], [0.01, 0.09]))
Linear = tuple[Tensor, int]
"""States (N, 2), and the number of the tick."""


def _policy() -> tuple[Tensor, Tensor]:
    """Gain K (1, 2) and log standard deviation (1,) of a = K s + sigma eps."""
    return _float64([-0.1, -0.6]).requires_grad_(), _float64(-0.7).requires_grad_()


def _solve(left: Tensor, right: Tensor) -> Tensor:
    """The X of X = right + left X left^T, differentiable."""
    n = len(right)
    matrix = torch.eye(n * n, dtype=torch.float64) - torch.kron(left, left)
    return torch.linalg.solve(matrix, right.flatten()).view(n, n)


def _quadratic(x: Tensor, matrix: Tensor) -> Tensor:
    return (x @ matrix * x).sum(-1)


def _reward(s: Tensor, a: Tensor) -> Tensor:
    return -_quadratic(s, COST) - _quadratic(a, EFFORT)


class Exact:
    """Value and action value of the policy, by the discounted Lyapunov equation."""

    def __init__(self, gain: Tensor, log_std: Tensor) -> None:
        moved = GAMMA**0.5 * (A + B @ gain)
        self.cost = _solve(moved.mT, COST + gain.mT @ EFFORT @ gain)
        noise = GAMMA * (ROOT.mT @ self.cost @ ROOT).trace()
        tried = (2 * log_std).exp() * (EFFORT + GAMMA * B.mT @ self.cost @ B)
        self.constant = (noise + tried.squeeze()) / (1 - GAMMA)
        self._noise = noise

    def v(self, s: Tensor) -> Tensor:
        return -_quadratic(s, self.cost) - self.constant

    def q(self, s: Tensor, a: Tensor) -> Tensor:
        after = s @ A.mT + a @ B.mT
        return _reward(s, a) - GAMMA * (_quadratic(after, self.cost) + self.constant) - self._noise


class World:
    """SVG(n) in the known system; rows are points whose mean is the expectation of every quadratic function.

    The points +-sqrt(d) e_j have the mean and the covariance of the d independent normal noises of s_0, eps and xi.
    """

    def __init__(self, depth: int, gain: Tensor, log_std: Tensor, spread: Tensor) -> None:
        """`spread` (2, 2), square root of the covariance of s_0."""
        count = 2 + (depth + 1) + 2 * depth
        points = count**0.5 * torch.cat((torch.eye(count), -torch.eye(count))).double()
        self._s, self._eps, self._xi = points.split((2, depth + 1, 2 * depth), -1)
        self.depth, self.gain, self.std = depth, gain, log_std.exp()
        self.start: Linear = (self._s @ spread.mT, 0)

    def act(self, state: Linear) -> Act:
        s, i = state
        return Act(s @ self.gain.mT + self.std * self._eps[:, i : i + 1])

    def step(self, state: Linear, a: Tensor, i: int) -> tuple[Linear, Tensor, Tensor]:
        s, tick = state
        mean = s @ A.mT + a @ B.mT
        after = from_noise(self._xi[:, 2 * i : 2 * i + 2], mean, ROOT.expand(len(s), 2, 2))
        return (after, tick + 1), _reward(s, a), torch.ones(len(s), dtype=torch.float64)

    def value(self, exact: Exact) -> Callable[[Linear], Tensor]:
        return lambda state: exact.q(state[0], self.act(state).action)

    def objective(self, exact: Exact) -> Tensor:
        return model_return(self.start, self.act, self.step, self.depth, GAMMA, self.value(exact)).mean()


SPREAD = torch.linalg.cholesky(_float64([1.0, 0.3], [0.3, 0.5]))


@pytest.mark.parametrize("depth", range(6))
def test_with_exact_Q_of_the_policy_the_gradient_does_not_depend_on_n(depth: int) -> None:
    parameters = _policy()
    exact = Exact(*parameters)
    objective = World(depth, *parameters, SPREAD).objective(exact)
    expected = -(SPREAD.mT @ exact.cost @ SPREAD).trace() - exact.constant  # E V(s_0)
    torch.testing.assert_close(objective, expected, rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(objective, parameters, retain_graph=True)
    for gradient, right in zip(gradients, torch.autograd.grad(expected, parameters)):
        torch.testing.assert_close(gradient, right, rtol=0, atol=1e-8)
        assert right.abs().max() > 0.1


def _first_action_gradient(depth: int) -> tuple[Tensor, ...]:
    """Of the policy in the first action alone: the later ones follow it, but do not learn."""
    gain, log_std = _policy()
    world = World(depth, gain, log_std, SPREAD)
    fixed = World(depth, gain.detach(), log_std.detach(), SPREAD)
    exact = Exact(gain.detach(), log_std.detach())

    def act(state: Linear) -> Act:
        return (world if state[1] == 0 else fixed).act(state)

    def value(state: Linear) -> Tensor:
        return exact.q(state[0], act(state).action)

    return torch.autograd.grad(model_return(world.start, act, world.step, depth, GAMMA, value).mean(), (gain, log_std))


@pytest.mark.parametrize("depth", range(1, 6))
def test_with_exact_Q_the_gradient_by_one_action_is_that_of_SVG_0_at_every_n(depth: int) -> None:
    for gradient, right in zip(_first_action_gradient(depth), _first_action_gradient(0)):
        torch.testing.assert_close(gradient, right, rtol=0, atol=1e-8)
        assert right.abs().max() > 0.1


@pytest.mark.parametrize("depth", range(1, 6))
def test_with_exact_Q_held_fixed_and_stationary_states_n_only_scales_the_gradient(depth: int) -> None:
    parameters = _policy()
    gain, log_std = (p.detach() for p in parameters)
    stationary = _solve(A + B @ gain, ROOT @ ROOT.mT + (2 * log_std).exp() * B @ B.mT)
    exact, spread = Exact(gain, log_std), torch.linalg.cholesky(stationary)
    gradients = [torch.autograd.grad(World(n, *parameters, spread).objective(exact), parameters) for n in (0, depth)]
    scale = sum(GAMMA**i for i in range(depth + 1))  # actions of n + 1 ticks learn
    for zero, deep in zip(*gradients):
        torch.testing.assert_close(deep, scale * zero, rtol=0, atol=1e-8)


def test_SVG_0_is_the_expectation_of_dQ_da_da_dw() -> None:
    gain, log_std = _policy()
    exact = Exact(gain.detach(), log_std.detach())
    world = World(0, gain, log_std, SPREAD)
    gradient = torch.autograd.grad(world.objective(exact), (gain, log_std))
    s, eps = world.start[0], world._eps
    a = (s @ gain.mT + log_std.exp() * eps).detach()
    by_action = -2 * a @ EFFORT - 2 * GAMMA * (s @ A.mT + a @ B.mT) @ exact.cost @ B
    torch.testing.assert_close(gradient[0], (by_action * s).mean(0, keepdim=True), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient[1], (by_action * eps).mean(0) * log_std.exp(), rtol=0, atol=1e-12)


def test_SVG_0_with_sigma_0_is_the_deterministic_policy_gradient() -> None:
    gain, _ = _policy()
    none = torch.tensor([-torch.inf], dtype=torch.float64)
    exact = Exact(gain.detach(), none)
    world = World(0, gain, none, SPREAD)
    (gradient,) = torch.autograd.grad(world.objective(exact), gain)
    s = world.start[0]
    a = (s @ gain.mT).detach().requires_grad_()
    (by_action,) = torch.autograd.grad(exact.q(s, a).sum(), a)
    torch.testing.assert_close(gradient, (by_action * s).mean(0, keepdim=True), rtol=0, atol=1e-12)


def test_the_backward_recursion_of_BPO_is_the_forward_one_of_the_source() -> None:
    """dJ/dw = sum gamma^t (r_a da/dw + r_s ds/dw), da/dw = d_w + d_s ds/dw, ds'/dw = f_a da/dw + f_s ds/dw from 0."""
    gain = _policy()[0]
    s = _float64([1.0, -0.5])

    def step(state: Tensor, a: Tensor, _: int) -> tuple[Tensor, Tensor, Tensor]:
        return state @ A.mT + a @ B.mT, _reward(state, a), torch.ones(1, dtype=torch.float64)

    objective = model_return(s, lambda state: Act(state @ gain.mT), step, 7, GAMMA)
    (gradient,) = torch.autograd.grad(objective.sum(), gain)
    by_w, total, k = torch.zeros(2, 2).double(), torch.zeros(2).double(), gain.detach()
    for t in range(7):
        a = s @ k.mT
        action_by_w = s + k @ by_w
        total = total + GAMMA**t * (-2 * a @ EFFORT @ action_by_w - 2 * s @ COST @ by_w).squeeze(0)
        by_w = B @ action_by_w + A @ by_w
        s = s @ A.mT + a @ B.mT
    torch.testing.assert_close(gradient.squeeze(0), total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_DPMB_R_and_DPMB_SF_agree_in_the_mean(depth: int) -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(14)
    grid = list(itertools.product(range(14), repeat=depth))
    xi, weight = _float64(*(nodes[list(g)].tolist() for g in grid)), _float64(*(weights[list(g)].prod() for g in grid))
    weight = weight / weight.sum()
    w, std = _float64(0.4).requires_grad_(), _float64(0.7)

    def gradient(by_score: bool) -> Tensor:
        def step(s: Tensor, a: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
            mean = 0.8 * s + 0.5 * a + 0.1 * s * a
            after = from_noise(xi[:, i], mean, std.squeeze())
            reward = -(s**2) - 0.3 * a**2
            if not by_score:
                return after, reward, torch.ones_like(s)
            after = after.detach()
            return after, reward, likelihood_ratio(-0.5 * ((after - mean) / std) ** 2)

        def value(s: Tensor) -> Tensor:
            return -1.5 * s**2 - 0.4 * s * w * s + 0.2 * (w * s) ** 2

        start = torch.full((len(xi),), 1.3, dtype=torch.float64)
        objective = model_return(start, lambda s: Act(w * s), step, depth, GAMMA, value)
        return torch.autograd.grad((weight * objective).sum(), w)[0]

    torch.testing.assert_close(gradient(True), gradient(False), rtol=0, atol=1e-8)
    assert gradient(False).abs() > 0.1


TABLE = _float64([1.0, -0.5, 0.2], [0.3, 0.8, -1.0], [-0.2, 0.1, 0.5])
VALUES, WAGES = _float64(2.0, -1.0, 0.5), _float64(1.0, 0.0, -2.0)


def test_score_function_of_discrete_dynamics_equals_enumeration_of_the_states() -> None:
    w = _float64(0.3, -0.8, 0.6).requires_grad_()
    depth, start = 2, 1
    matrix = torch.softmax(TABLE * torch.tanh(w).unsqueeze(-1), -1)  # p(s' | s, d(s))
    reward, value = WAGES - torch.tanh(w) ** 2, VALUES + 0.5 * torch.tanh(w)
    exact = (reward + GAMMA * matrix @ (reward + GAMMA * matrix @ value))[start]
    (expected,) = torch.autograd.grad(exact, w, retain_graph=True)
    paths = torch.tensor(list(itertools.product(range(3), repeat=depth)))

    def step(s: Tensor, a: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        after = paths[:, i]
        log_prob = torch.log_softmax(TABLE[s] * a.unsqueeze(-1), -1).gather(-1, after.unsqueeze(-1)).squeeze(-1)
        return after, WAGES[s] - a**2, likelihood_ratio(log_prob)

    objective = model_return(
        torch.full((len(paths),), start), lambda s: Act(torch.tanh(w)[s]), step, depth, GAMMA,
        lambda s: VALUES[s] + 0.5 * torch.tanh(w)[s],
    )  # fmt: skip
    probability = (matrix[start, paths[:, 0]] * matrix[paths[:, 0], paths[:, 1]]).detach()
    torch.testing.assert_close((probability * objective).sum(), exact, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad((probability * objective).sum(), w)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def _scored_actions(baseline: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of the gradient over all pairs of actions, and the exact one; states are numbers."""
    logits = _float64(0.2, -0.4, 0.9).requires_grad_()
    pairs = torch.tensor(list(itertools.product(range(3), repeat=2)))
    s0, ticks = torch.zeros(len(pairs), dtype=torch.float64), iter(pairs.T)

    def act(s: Tensor) -> Act:
        choice = next(ticks)
        return Act(WAGES[choice], likelihood_ratio(torch.log_softmax(logits, -1)[choice]))

    def step(s: Tensor, a: Tensor, _: int) -> tuple[Tensor, Tensor, Tensor]:
        return 0.5 * s + a, 10.0 - (s - a) ** 2, torch.full_like(s, 0.8)

    objective = model_return(s0, act, step, 2, GAMMA, None, baseline)
    p = torch.softmax(logits, -1)
    first = 10.0 - WAGES**2
    second = 10.0 - (WAGES.unsqueeze(-1) - WAGES) ** 2
    exact = p @ first + GAMMA * 0.8 * p @ second @ p
    weight = (p[pairs[:, 0]] * p[pairs[:, 1]]).detach()
    torch.testing.assert_close((weight * objective).sum(), exact, rtol=0, atol=1e-12)
    each = torch.stack([torch.autograd.grad(row, logits, retain_graph=True)[0] for row in objective])
    mean = (weight.unsqueeze(-1) * each).sum(0)
    variance = (weight.unsqueeze(-1) * (each - mean) ** 2).sum(0)
    return mean, variance, torch.autograd.grad(exact, logits)[0]


def test_score_function_of_discrete_actions_equals_enumeration_and_a_baseline_only_lowers_its_variance() -> None:
    mean, variance, exact = _scored_actions(None)
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-12)
    based, less, _ = _scored_actions(lambda s: 14.0 + 0.0 * s)
    torch.testing.assert_close(based, exact, rtol=0, atol=1e-12)
    assert (less < 0.5 * variance).all()


def test_two_steps_by_hand() -> None:
    """gamma .5: 1 + .5 .8 2 + .25 .8 .5 4 = 2.2; after an end nothing counts, 1 + 0 + 0."""

    def step(s: Tensor, a: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        onward = torch.tensor([[0.8, 0.0], [0.5, 1.0]])[i]
        return s + a, torch.tensor([1.0, 2.0])[i].expand(2), onward

    total = model_return(torch.zeros(2), lambda s: Act(s + 1), step, 2, 0.5, lambda _: torch.full((2,), 4.0))
    assert total.tolist() == pytest.approx([2.2, 1.0])


def test_what_follows_an_end_has_no_gradient() -> None:
    w = torch.tensor(0.5, requires_grad=True)

    def step(s: Tensor, a: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        return s + a, a * (i + 1.0), torch.tensor([0.0, 1.0])

    total = model_return(torch.zeros(2), lambda s: Act(w.expand(2)), step, 2, 0.5, lambda s: 4.0 * s)
    gradients = [torch.autograd.grad(row, w, retain_graph=True)[0].item() for row in total]
    assert gradients == pytest.approx([1.0, 1.0 + 0.5 * 2.0 + 0.25 * 8.0])
