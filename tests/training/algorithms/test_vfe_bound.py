"""The whole F_t of two ticks, with finitely many states and policies: its six terms, its bound and its slopes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.training.algorithms.exact import close, differences, double, gradient
from training.preferences import boltzmann_preference, policy_posterior, preference_energy

torch.set_num_threads(1)

BETA = 1.7


class World:
    """Two ticks of 3 states, 2 actions and 4 policies: everything that F_2 and -log p(x_1, x_2, a_1) are made of."""

    def __init__(self) -> None:
        torch.manual_seed(4)
        self.log_first = torch.log_softmax(torch.randn(3).double(), -1)
        self.log_transition = torch.log_softmax(torch.randn(3, 2, 3).double(), -1)  # s, a, s'
        self.log_emission = torch.log_softmax(torch.randn(3, 5).double(), -1)  # s, x
        self.log_policy = torch.log_softmax(torch.randn(4, 3, 2).double(), -1)  # pi, s, a
        self.value = torch.randn(3, 4).double()  # V_pi(s), s, pi
        self.x, self.a = (1, 3), 1

    def terms(self, q_states: Tensor, q_policy: Tensor) -> dict[str, Tensor]:
        """Of log q(s_1, s_2) (3, 3) and log q(pi | s_1) (3, 4)."""
        q, first = q_states.exp(), q_states.exp().sum(1)
        perception = self.log_first.unsqueeze(1) + self.log_transition[:, self.a]
        prediction = self.log_emission[:, self.x[0]].unsqueeze(1) + self.log_emission[:, self.x[1]]
        drift = (q_policy.exp() * self.log_policy[:, :, self.a].T).sum(-1)
        return {
            "a": -(q * perception).sum(),
            "b": -(q * prediction).sum(),
            "c": (first * preference_energy(self.value, BETA, q_policy)).sum(),
            "d": -(first * drift).sum(),
            "e": (q * q_states).sum(),
            "f": (first * (q_policy.exp() * q_policy).sum(-1)).sum(),
        }

    def free_energy(self, q_states: Tensor, q_policy: Tensor) -> Tensor:
        return torch.stack(list(self.terms(q_states, q_policy).values())).sum()

    def log_joint(self) -> Tensor:
        """Log p(s_1, s_2, x_1, x_2, a_1) (3, 3), by the mixture over the policies itself."""
        log_action = torch.logsumexp(
            boltzmann_preference(self.value, BETA).log_probability + self.log_policy[:, :, self.a].T, -1
        )
        return (
            (self.log_first + self.log_emission[:, self.x[0]] + log_action).unsqueeze(1)
            + self.log_transition[:, self.a]
            + self.log_emission[:, self.x[1]]
        )

    def posterior(self) -> tuple[Tensor, Tensor]:
        log_prior = boltzmann_preference(self.value, BETA).log_probability
        joint = self.log_joint()
        return joint - torch.logsumexp(joint.flatten(), 0), policy_posterior(self.log_policy[:, :, self.a].T, log_prior)


def arbitrary() -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    states = torch.log_softmax(torch.randn(9).double(), 0).view(3, 3)
    return states, torch.log_softmax(torch.randn(3, 4).double(), -1)


def test_the_six_terms_bound_the_surprise_of_observations_and_actions() -> None:
    """F_t >= -log p(x_{1:t}, a_{<t}), with equality at the posteriors of states and policies."""
    world = World()
    surprise = -torch.logsumexp(world.log_joint().flatten(), 0)
    close(world.free_energy(*world.posterior()), surprise)
    assert world.free_energy(*arbitrary()) > surprise + 0.1


def test_the_gap_of_the_bound_is_the_distance_of_q_from_the_posteriors() -> None:
    """F - (-log p) = KL(q(s) || p(s | x, a)) + E_q KL(q(pi | s_1) || p(pi | s_1, a_1))."""
    world, (states, policy) = World(), arbitrary()
    true_states, true_policy = world.posterior()
    gap = world.free_energy(states, policy) - world.free_energy(true_states, true_policy)
    of_states = (states.exp() * (states - true_states)).sum()
    of_policies = (states.exp().sum(1) * (policy.exp() * (policy - true_policy)).sum(-1)).sum()
    close(gap, of_states + of_policies)


def test_the_six_terms_by_hand() -> None:
    """One tick each of two states, two policies and two actions, all halves and quarters; beta V = log 3 or 0.

    (a) the state is drawn evenly and stays with 3/4: log 2 - 1/2 log(3/4) - 1/2 log(1/4) at q uniform over the four
    paths; (b) a state shows its own sign always in q's view with 1/2: 2 log 2; (c) p(pi) = (3/4, 1/4) and q = (1/2,
    1/2): -1/2 log(3/16); (d) the policies take the action with 1/2 and 1/4: 1/2 log 8; (e) -log 4; (f) -log 2.
    """
    world = World()
    world.log_first = double([0.5, 0.5]).log()
    world.log_transition = double([[[0.75, 0.25]] * 2, [[0.25, 0.75]] * 2]).log()
    world.log_emission = torch.full((2, 5), 0.5).double().log()
    world.log_policy = double([[[0.5, 0.5]] * 2, [[0.75, 0.25]] * 2]).log()
    world.value = double([[math.log(3.0) / BETA, 0.0]] * 2)
    terms = world.terms(torch.full((2, 2), 0.25).double().log(), torch.full((2, 2), 0.5).double().log())
    expected = {
        "a": math.log(2) - 0.5 * math.log(3 / 16),
        "b": 2 * math.log(2),
        "c": -0.5 * math.log(3 / 16),
        "d": 0.5 * math.log(8),
        "e": -math.log(4),
        "f": -math.log(2),
    }
    assert {n: v.item() for n, v in terms.items()} == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_the_free_energy_is_that_of_finite_differences() -> None:
    """With respect to q(s), with log Z(s) kept, and to q(pi | s)."""
    world, (states, policy) = World(), arbitrary()

    def of_states(logits: Tensor) -> Tensor:
        return world.free_energy(torch.log_softmax(logits.flatten(), 0).view(3, 3), policy)

    def of_policy(logits: Tensor) -> Tensor:
        return world.free_energy(states, torch.log_softmax(logits, -1))

    close(gradient(of_states, states), differences(of_states, states), 1e-8)
    close(gradient(of_policy, policy), differences(of_policy, policy), 1e-8)

    def without_log_z(logits: Tensor) -> Tensor:
        q = torch.log_softmax(logits.flatten(), 0).view(3, 3)
        return world.free_energy(q, policy) - (q.exp().sum(1) * torch.logsumexp(BETA * world.value, -1)).sum()

    assert (gradient(of_states, states) - gradient(without_log_z, states)).norm() > 0.05
