"""Messages against the enumeration of all trajectories, soft against hard value iteration, all in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from runtime.errors import ContractError
from training.control_as_inference import (
    Backup,
    TabularMDP,
    Values,
    backward_messages,
    control_backup,
    discounted_hard_value_iteration,
    discounted_soft_value_iteration,
    forward_messages,
    hard_value_iteration,
    inference_backup,
    posterior_policy,
    smoothed_states,
    soft_policy,
    soft_value_iteration,
)

Array = NDArray[np.float64]
BACKUPS = [control_backup, inference_backup]
horizons = st.integers(1, 4)
temperatures = st.floats(0.2, 5.0)


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor | Array | float, tolerance: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64).expand_as(actual)
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@st.composite
def processes(draw: st.DrawFn, deterministic: bool = False) -> TabularMDP:
    """Up to 3 states and 3 actions, with rows that may rule out actions and successors."""
    states, actions = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sparse = draw(st.booleans())

    def distribution(*shape: int) -> Array:
        weight = rng.uniform(0.05, 1.0, shape)
        weight[..., 1:] *= rng.random((*shape[:-1], shape[-1] - 1)) < (0.5 if sparse else 1.0)
        return weight / weight.sum(axis=-1, keepdims=True)

    transition = distribution(states, actions, states)
    if deterministic:
        transition = np.eye(states)[rng.integers(states, size=(states, actions))]
    reward = rng.normal(size=(states, actions))
    prior = distribution(states, actions)
    return TabularMDP(torch.as_tensor(reward), torch.as_tensor(transition), torch.as_tensor(prior))


def enumerated(mdp: TabularMDP, initial: Tensor, horizon: int, temperature: float) -> Array:
    """p(s_t, a_t, O) (T, S, A) by the sum over every trajectory; no recursion, no logarithm."""
    reward, transition, prior = (t.numpy() for t in (mdp.reward, mdp.transition, mdp.action_prior))
    states, actions = reward.shape
    joint = np.zeros((horizon, states, actions))
    pairs = list(itertools.product(range(states), range(actions)))
    for trajectory in itertools.product(pairs, repeat=horizon):
        weight = float(initial[trajectory[0][0]])
        for pair in trajectory:
            weight *= prior[pair] * math.exp(reward[pair] / temperature)
        for pair, (successor, _) in itertools.pairwise(trajectory):
            weight *= transition[pair][successor]
        for t, pair in enumerate(trajectory):
            joint[t][pair] += weight
    return joint


@given(processes(), st.integers(1, 3), temperatures, st.integers(0, 2))
def test_the_messages_are_the_marginals_of_all_trajectories(
    mdp: TabularMDP, horizon: int, temperature: float, start: int
) -> None:
    """Start 0 and 1: that state alone (which leaves others unreachable), 2: anywhere."""
    states = len(mdp.reward)
    initial = torch.full((states,), 1 / states, dtype=torch.float64)
    if start < min(2, states):
        initial = torch.eye(states, dtype=torch.float64)[start]
    joint = enumerated(mdp, initial, horizon, temperature)
    evidence = joint.sum(axis=(1, 2))

    backward = backward_messages(mdp, horizon, temperature)
    forward = forward_messages(mdp, initial, horizon, temperature)
    close(smoothed_states(forward, backward.log_state), joint.sum(axis=2) / evidence[:, None])
    close(torch.logsumexp(forward + backward.log_state, dim=-1), np.log(evidence))  # the same log p(O) at every tick

    visited = joint.sum(axis=2) > 0
    policy = posterior_policy(mdp, backward)
    close(policy[torch.as_tensor(visited)], joint[visited] / joint[visited].sum(axis=-1, keepdims=True))
    close(policy.sum(dim=-1), 1.0)


def bet() -> TabularMDP:
    """State 0 offers state 1 for sure or a coin for 2 and 3, which pay log 2, log 4 and log ½ once; state 4 ends it."""
    transition = torch.zeros(5, 2, 5, dtype=torch.float64)
    transition[0, 0, 1] = 1.0
    transition[0, 1, 2] = transition[0, 1, 3] = 0.5
    transition[1:, :, 4] = 1.0
    reward = double([0.0, math.log(2), math.log(4), math.log(0.5), 0.0]).unsqueeze(-1).expand(5, 2)
    return TabularMDP(reward, transition, torch.full((5, 2), 0.5, dtype=torch.float64))


def test_inference_seeks_the_risk_that_control_avoids() -> None:
    """By hand at α = 1. E exp V = (4 + ½) / 2 = 2.25 > 2 but E V = (log 4 + log ½) / 2 = ½ log 2 < log 2."""
    mdp = bet()
    inference = soft_value_iteration(mdp, 2, 1.0, inference_backup)
    close(inference.q[0, 0], double([math.log(2), math.log(2.25)]))
    close(inference.v[0, 0], math.log(4.25 / 2))
    close(soft_policy(mdp, inference, 1.0)[0, 0], double([2 / 4.25, 2.25 / 4.25]))
    control = soft_value_iteration(mdp, 2, 1.0, control_backup)
    close(control.q[0, 0], double([math.log(2), 0.5 * math.log(2)]))
    close(soft_policy(mdp, control, 1.0)[0, 0], double([2, math.sqrt(2)]) / (2 + math.sqrt(2)))


def test_the_posterior_bends_the_dynamics() -> None:
    """Given that all goes well the fair coin falls 8 : 1: weights 2, 2.25·8/9 = 2 and 2.25·1/9 = ¼ of 4.25."""
    mdp, initial = bet(), double([1.0, 0, 0, 0, 0])
    forward = forward_messages(mdp, initial, 2, 1.0)
    smoothed = smoothed_states(forward, backward_messages(mdp, 2, 1.0).log_state)
    close(smoothed[1], double([0, 2, 2, 0.25, 0]) / 4.25)
    close(forward.exp()[1], double([0, 0.5, 0.25, 0.25, 0]))


@given(processes(), horizons, temperatures)
def test_messages_are_values_in_units_of_the_temperature(mdp: TabularMDP, horizon: int, temperature: float) -> None:
    messages = backward_messages(mdp, horizon, temperature)
    values = soft_value_iteration(mdp, horizon, temperature, inference_backup)
    close(temperature * messages.log_state_action, values.q)
    close(temperature * messages.log_state, values.v)
    close(posterior_policy(mdp, messages), soft_policy(mdp, values, temperature))


@given(processes(deterministic=True), horizons, temperatures)
def test_without_chance_both_backups_are_one(mdp: TabularMDP, horizon: int, temperature: float) -> None:
    messages = backward_messages(mdp, horizon, temperature)
    control = soft_value_iteration(mdp, horizon, temperature, control_backup)
    close(temperature * messages.log_state_action, control.q)
    close(temperature * messages.log_state, control.v)


def test_the_chain_by_hand() -> None:
    """Three states in a row, stay (reward 0) or step (reward −log 2, and log 8 from the second to the last), α = 1.

    Prior ¾ stay, ¼ step. With one tick left β(1) = ¾ + ¼·8 = 2.75, β(0) = ¾ + ¼·½ = 0.875, β(2) = ¾ + ¼·½ = 0.875;
    with two β(0) = ¾·0.875 + ¼·½·2.75 = 1 and β(0, stay) : β(0, step) = 0.65625 : 0.34375 after the prior.
    """
    transition = double([[[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]]])
    reward = double([[0, -math.log(2)], [0, math.log(8)], [0, -math.log(2)]])
    mdp = TabularMDP(reward, transition, double([[0.75, 0.25]] * 3))
    messages = backward_messages(mdp, 2, 1.0)
    close(messages.log_state.exp()[1], double([0.875, 2.75, 0.875]))
    close(messages.log_state_action.exp()[0, 0], double([0.875, 1.375]))
    close(messages.log_state.exp()[0, 0], 1.0)
    close(posterior_policy(mdp, messages)[0, 0], double([0.65625, 0.34375]))


@given(processes(), horizons, temperatures)
def test_the_action_prior_is_a_reward_of_alpha_log_p(mdp: TabularMDP, horizon: int, temperature: float) -> None:
    """Not of p, as source 001 has it; a uniform prior costs α log A a tick, which the reward gives back."""
    prior = mdp.action_prior.clamp_min(0.01)
    prior = prior / prior.sum(dim=-1, keepdim=True)
    actions = prior.shape[1]
    uniform = torch.full_like(prior, 1 / actions)
    shaped = TabularMDP(mdp.reward + temperature * (prior.log() + math.log(actions)), mdp.transition, uniform)
    biased = TabularMDP(mdp.reward, mdp.transition, prior)
    for backup in BACKUPS:
        ours = soft_value_iteration(biased, horizon, temperature, backup)
        theirs = soft_value_iteration(shaped, horizon, temperature, backup)
        close(ours.v, theirs.v)
        close(soft_policy(biased, ours, temperature), soft_policy(shaped, theirs, temperature))


def optimistic_values(mdp: TabularMDP, horizon: int) -> list[Array]:
    """V = max_a [r + max_s' V] over what the prior and the dynamics allow, first tick first, in numpy."""
    reward, transition, prior = (t.numpy() for t in (mdp.reward, mdp.transition, mdp.action_prior))
    values = [np.zeros(len(reward))]
    for _ in range(horizon):
        hope = np.where(transition > 0, values[0], -np.inf).max(axis=-1)
        values.insert(0, np.where(prior > 0, reward + hope, -np.inf).max(axis=-1))
    return values[:-1]


def rarest(probability: Tensor) -> float:
    return float(probability[probability > 0].min())


def assert_approaches(soft: Tensor, limit: Tensor | Array, slack: Tensor, rounding: float = 1e-12) -> None:
    """limit − slack ≤ soft ≤ limit, up to rounding."""
    gap = torch.as_tensor(limit) - soft
    assert (gap >= -rounding).all()
    assert (gap <= slack + rounding).all()


@given(processes(), horizons, st.sampled_from([1.0, 1e-2, 1e-4, 1e-9]))
def test_cold_control_is_hard_value_iteration(mdp: TabularMDP, horizon: int, temperature: float) -> None:
    """max Q + α log min p ≤ V ≤ max Q at every tick, and the errors add up over the ticks left."""
    left = torch.arange(horizon, 0, -1, dtype=torch.float64).unsqueeze(-1)
    slack = left * temperature * -math.log(rarest(mdp.action_prior))
    soft = soft_value_iteration(mdp, horizon, temperature, control_backup)
    assert_approaches(soft.v, hard_value_iteration(mdp, horizon).v, slack)


@given(processes(), horizons, st.sampled_from([1.0, 1e-2, 1e-4, 1e-9]))
def test_cold_inference_hopes_for_the_best_successor(mdp: TabularMDP, horizon: int, temperature: float) -> None:
    left = torch.arange(horizon, 0, -1, dtype=torch.float64).unsqueeze(-1)
    slack = left * temperature * -math.log(rarest(mdp.action_prior) * rarest(mdp.transition))
    soft = soft_value_iteration(mdp, horizon, temperature, inference_backup)
    assert_approaches(soft.v, np.stack(optimistic_values(mdp, horizon)), slack)


@given(processes(deterministic=True), horizons)
def test_cold_inference_without_chance_is_hard_value_iteration(mdp: TabularMDP, horizon: int) -> None:
    slack = double(1e-9 * horizon * -math.log(rarest(mdp.action_prior)))
    soft = soft_value_iteration(mdp, horizon, 1e-9, inference_backup)
    assert_approaches(soft.v, hard_value_iteration(mdp, horizon).v, slack)


def test_the_cold_policy_is_greedy() -> None:
    """Control takes the sure state of the bet, inference the coin; the next best is worth ½ log 2 (log 2) less."""
    mdp = bet()
    for backup, best in ((control_backup, 0), (inference_backup, 1)):
        values = soft_value_iteration(mdp, 2, 1e-3, backup)
        close(soft_policy(mdp, values, 1e-3)[0, 0], torch.eye(2, dtype=torch.float64)[best])
    hard = hard_value_iteration(mdp, 2)
    close(hard.q[0, 0], double([math.log(2), 0.5 * math.log(2)]))
    close(hard.v[0, 0], math.log(2))


def regularised_return(mdp: TabularMDP, policy: Tensor, temperature: float) -> Tensor:
    """E Σ [r − α log π/p] under the true dynamics, (T, S), for a policy (T, S, A)."""
    v = torch.zeros(len(mdp.reward), dtype=torch.float64)
    values = []
    for pi in policy.flip(0):
        cost = torch.where(pi > 0, (pi / mdp.action_prior).log(), 0.0)
        v = (pi * (mdp.reward - temperature * cost + mdp.transition @ v)).sum(dim=-1)
        values.append(v)
    return torch.stack(values[::-1])


@given(processes(), horizons, temperatures, st.integers(0, 1000))
def test_control_is_the_best_policy_under_the_true_dynamics(
    mdp: TabularMDP, horizon: int, temperature: float, seed: int
) -> None:
    """Its value is its policy's regularised return, no other policy's is larger, and the posterior promises more."""
    control = soft_value_iteration(mdp, horizon, temperature, control_backup)
    inference = soft_value_iteration(mdp, horizon, temperature, inference_backup)
    close(regularised_return(mdp, soft_policy(mdp, control, temperature), temperature), control.v)
    noise = torch.rand((horizon, *mdp.reward.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other = noise * mdp.action_prior
    other = other / other.sum(dim=-1, keepdim=True)
    for policy in (other, soft_policy(mdp, inference, temperature)):
        assert (regularised_return(mdp, policy, temperature) <= control.v + 1e-12).all()
    assert (inference.v >= control.v - 1e-12).all()


def test_discounted_values_by_hand() -> None:
    """One state, r = (0, log 3), even prior, γ = ½: V = log ((1 + 3) / 2) + ½ V = 2 log 2, and 2 log 3 when hard."""
    mdp = TabularMDP(double([[0, math.log(3)]]), double([[[1], [1]]]), double([[0.5, 0.5]]))
    for backup in BACKUPS:
        soft = discounted_soft_value_iteration(mdp, 0.5, 1.0, backup, 1e-13)
        close(soft.v, 2 * math.log(2))
        close(soft.q, double([[math.log(2), math.log(6)]]))
        close(soft_policy(mdp, soft, 1.0), double([[0.25, 0.75]]))
    hard = discounted_hard_value_iteration(mdp, 0.5, 1e-13)
    close(hard.v, 2 * math.log(3))
    close(hard.q, double([[math.log(3), math.log(9)]]))


@given(processes(), st.floats(0.0, 0.95), temperatures)
def test_discounted_values_keep_the_tolerance(mdp: TabularMDP, discount: float, temperature: float) -> None:
    """Loose answers lie within their tolerance of the tight one, which solves its own equation."""

    def solve(backup: Backup | None, tolerance: float) -> Values:
        if backup is None:
            return discounted_hard_value_iteration(mdp, discount, tolerance)
        return discounted_soft_value_iteration(mdp, discount, temperature, backup, tolerance)

    for backup in (*BACKUPS, None):
        tight = solve(backup, 1e-11)
        successor = (backup or control_backup)(tight.v, mdp.transition, temperature)
        close(tight.q, mdp.reward + discount * successor, 3e-11)
        for tolerance in (1.0, 1e-2, 1e-5):
            loose = solve(backup, tolerance)
            close(loose.v, tight.v, tolerance + 1e-11)
            close(loose.q, tight.q, tolerance + 1e-11)


@given(processes(), st.floats(0.0, 0.9))
def test_cold_discounted_control_is_hard_value_iteration(mdp: TabularMDP, discount: float) -> None:
    soft = discounted_soft_value_iteration(mdp, discount, 1e-6, control_backup, 1e-12)
    hard = discounted_hard_value_iteration(mdp, discount, 1e-12)
    slack = 1e-6 * -math.log(rarest(mdp.action_prior)) / (1 - discount)
    assert_approaches(soft.v, hard.v, double(slack), rounding=2e-12)


def test_hard_discounted_values_solve_the_linear_equation_of_the_greedy_policy() -> None:
    """V = (I − γ P_π)⁻¹ r_π for the policy that is greedy in q."""
    rng = np.random.default_rng(3)
    transition = rng.dirichlet(np.ones(4), size=(4, 3))
    reward = rng.normal(size=(4, 3))
    prior = torch.full((4, 3), 1 / 3, dtype=torch.float64)
    mdp = TabularMDP(torch.as_tensor(reward), torch.as_tensor(transition), prior)
    hard = discounted_hard_value_iteration(mdp, 0.9, 1e-12)
    greedy = hard.q.argmax(dim=-1).numpy()
    rows = np.arange(4)
    expected = np.linalg.solve(np.eye(4) - 0.9 * transition[rows, greedy], reward[rows, greedy])
    close(hard.v, expected, 2e-12)


def test_soft_bellman_v_is_beta_log_integral_of_exp_q_over_beta() -> None:
    """q = -c (a - a*)^2 / 2: v = (beta / 2) log(2 pi beta / c) = .1129 at c = 2, beta = .5, and pi = N(a*, beta / c).

    The integral over a in [-7, 9) is that of 400 choices with the prior 1 / 400, whose values are beta log 16 less.
    """
    c, beta, best, width, count = 2.0, 0.5, 1.0, 16.0, 400
    action = best - width / 2 + width * torch.arange(count, dtype=torch.float64) / count
    q = -0.5 * c * (action - best).square()
    prior = torch.full((1, count), 1 / count, dtype=torch.float64)
    mdp = TabularMDP(q.unsqueeze(0), torch.ones(1, count, 1, dtype=torch.float64), prior)
    values = soft_value_iteration(mdp, 1, beta, control_backup)
    v = values.v + beta * math.log(width)
    close(v, 0.5 * beta * math.log(2 * math.pi * beta / c), 1e-8)
    close(v, 0.1129, 5e-5)
    policy = soft_policy(mdp, values, beta)[0, 0]
    mean = (policy * action).sum()
    close(mean, best, 1e-8)
    close((policy * (action - mean).square()).sum(), beta / c, 1e-8)


@pytest.mark.parametrize("backup", BACKUPS)
def test_a_forbidden_action_is_never_taken(backup: Backup) -> None:
    """However well it pays: 1e6 at α = 1e-3 would overflow outside of the exponent."""
    mdp = TabularMDP(double([[1e6, 1, 1]]), double([[[1], [1], [1]]]), double([[0, 0.5, 0.5]]))
    values = soft_value_iteration(mdp, 2, 1e-3, backup)
    close(soft_policy(mdp, values, 1e-3), double([0.0, 0.5, 0.5]).expand(2, 1, 3))
    close(posterior_policy(mdp, backward_messages(mdp, 2, 1e-3)), double([0.0, 0.5, 0.5]).expand(2, 1, 3))
    close(values.v, double([[2.0], [1.0]]))
    close(hard_value_iteration(mdp, 2).v, double([[2.0], [1.0]]))


def single(dtype: torch.dtype) -> TabularMDP:
    return TabularMDP(
        torch.tensor([[0.1, 0.7]], dtype=dtype), torch.ones(1, 2, 1, dtype=dtype), torch.full((1, 2), 0.5, dtype=dtype)
    )


def test_tables_keep_their_dtype() -> None:
    mdp = single(torch.float32)
    messages = backward_messages(mdp, 3, 0.5)
    forward = forward_messages(mdp, torch.ones(1), 3, 0.5)
    soft = discounted_soft_value_iteration(mdp, 0.9, 0.5, control_backup, 1e-4)
    assert {t.dtype for t in (*messages, forward, *soft, *hard_value_iteration(mdp, 2))} == {torch.float32}


def test_a_tolerance_below_rounding_is_refused() -> None:
    with pytest.raises(ContractError, match=r"below the rounding of torch.float32; .* torch.float64"):
        discounted_soft_value_iteration(single(torch.float32), 0.99, 1.0, control_backup, 1e-9)
    soft = discounted_soft_value_iteration(single(torch.float64), 0.99, 1.0, control_backup, 1e-9)
    close(soft.v, 100 * math.log((math.exp(0.1) + math.exp(0.7)) / 2), 1e-9)


ONE = torch.ones(1, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ((ONE, ONE, ONE), r"\(\(1, 1\), \(1, 1\), \(1, 1\)\); expected \(S, A\), \(S, A, S\)"),
        ((ONE[:0], ONE[:0, None], ONE[:0]), "expected"),
        ((ONE, ONE[None].float(), ONE), r"torch.float32, torch.float64; convert"),
        ((ONE.long(), ONE[None].long(), ONE.long()), r"torch.int64; convert"),
        ((ONE * math.nan, ONE[None], ONE), "a reward is not finite"),
        ((ONE, 0.5 * ONE[None], ONE), "a row of transition is no distribution"),
        ((ONE.expand(1, 2), ONE[None].expand(1, 2, 1), double([[2.0, -1.0]])), "a row of action prior"),
    ],
)
def test_bad_tables_are_refused(tables: tuple[Tensor, Tensor, Tensor], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        TabularMDP(*tables)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: backward_messages(m, 0, 1.0), "horizon is 0; expected at least 1"),
        (lambda m: hard_value_iteration(m, -1), "horizon is -1"),
        (lambda m: backward_messages(m, 1, 0.0), "temperature is 0.0; expected a finite number > 0"),
        (lambda m: soft_value_iteration(m, 1, math.nan, control_backup), "temperature is nan"),
        (lambda m: soft_policy(m, hard_value_iteration(m, 1), -1.0), "temperature is -1.0"),
        (lambda m: forward_messages(m, double([1.0]), 0, 1.0), "horizon is 0"),
        (lambda m: forward_messages(m, double([1.0]), 1, math.inf), "temperature is inf"),
        (lambda m: forward_messages(m, double([0.5, 0.5]), 1, 1.0), r"initial has shape \(2,\).*expected \(1,\)"),
        (lambda m: forward_messages(m, torch.ones(1), 1, 1.0), "torch.float32; expected"),
        (lambda m: forward_messages(m, double([0.5]), 1, 1.0), "a row of initial is no distribution"),
        (lambda m: discounted_hard_value_iteration(m, 1.0, 1e-6), "discount is 1.0"),
        (lambda m: discounted_hard_value_iteration(m, 0.5, 0.0), "tolerance 0.0; expected"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[TabularMDP], object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        call(single(torch.float64))
