"""Estimators of returns and advantages: worked by hand, their limits, and their explicit sums."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.returns import (
    best_baseline,
    episode_return,
    gae,
    n_step_return,
    reward_to_go,
    step_weights,
    td_error,
    td_lambda_return,
    trajectory_weights,
    truncated_gae,
)

TICKS, GAMMA = 7, 0.9


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


def draws(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards, values, following values and no end, of 7 ticks of 3 environments."""
    torch.manual_seed(seed)
    reward, value = torch.randn(2, TICKS, 3).double()
    following = torch.cat((value[1:], torch.randn(1, 3).double()))
    return reward, value, following, torch.zeros(TICKS, 3).double()


def n_step_advantage(delta: Tensor, n: int) -> Tensor:
    """A^(n) of the first tick, sum_{i<n} gamma^i delta_i."""
    return torch.stack([GAMMA**i * delta[i] for i in range(n)]).sum(0)


def test_gae_by_hand() -> None:
    """gamma = 0.5, lambda = 0.5: delta = (1 + 1 - 1, 2 + 0 - 2, 3 + 4 - 4) with an episode's end after the second."""
    ends, following = column(0.0, 1.0, 0.0), column(2.0, 100.0, 8.0)  # what follows an end counts for nothing
    advantage = gae(column(1.0, 2.0, 3.0), column(1.0, 2.0, 4.0), following, ends, ends, 0.5, 0.5)
    assert advantage.flatten().tolist() == pytest.approx([1.0 + 0.25 * 0.0, 0.0, 3.0])


def test_gae_of_lambda_0_is_delta_and_of_lambda_1_is_the_return_less_the_value() -> None:
    reward, value, following, never = draws()
    delta = td_error(reward, value, following, never, GAMMA)
    torch.testing.assert_close(delta, reward + GAMMA * following - value)
    torch.testing.assert_close(gae(reward, value, following, never, never, GAMMA, 0.0), delta)
    returns, running = torch.zeros_like(reward), following[-1]
    for t in reversed(range(TICKS)):
        running = reward[t] + GAMMA * running
        returns[t] = running
    torch.testing.assert_close(gae(reward, value, following, never, never, GAMMA, 1.0), returns - value)
    torch.testing.assert_close(reward_to_go(reward, following, never, never, GAMMA), returns)


@given(st.floats(0.0, 1.0))
def test_the_recursion_of_gae_is_the_sum_over_n_step_advantages(lam: float) -> None:
    """(1 - lambda) sum_{n<T} lambda^{n-1} A^(n) + lambda^{T-1} A^(T)."""
    reward, value, following, never = draws()
    delta = td_error(reward, value, following, never, GAMMA)
    longest = [n_step_advantage(delta, n) for n in range(1, TICKS + 1)]
    explicit = (1 - lam) * torch.stack([lam**n * a for n, a in enumerate(longest[:-1])]).sum(0)
    explicit = explicit + lam ** (TICKS - 1) * longest[-1]
    torch.testing.assert_close(gae(reward, value, following, never, never, GAMMA, lam)[0], explicit)


@given(st.floats(0.0, 1.0))
def test_gae_is_the_td_lambda_return_less_the_value(lam: float) -> None:
    """Also where an episode ends (tick 2 of the first column) and where a time limit cuts one (tick 4 of the second).
    V' is the value of the next tick."""
    reward, value, following, terminated = draws()
    terminated[2, 0] = 1.0
    done = terminated.clone()
    done[4, 1] = 1.0
    returns = td_lambda_return(reward, following, terminated, done, GAMMA, lam)
    advantage = gae(reward, value, following, terminated, done, GAMMA, lam)
    torch.testing.assert_close(advantage, returns - value)


def test_the_td_lambda_return_by_hand() -> None:
    """gamma = lambda = 1/2, r = (1, 2), V' = (4, 8): G_1 = 2 + 8/2 = 6, G_0 = 1 + (4/2 + 6/2)/2 = 3.5."""
    never = column(0.0, 0.0)
    returns = td_lambda_return(column(1.0, 2.0), column(4.0, 8.0), never, never, 0.5, 0.5)
    assert returns.flatten().tolist() == [3.5, 6.0]


def test_the_n_step_sum_ends_at_the_tick_t_plus_n_minus_1() -> None:
    """gamma = 1/2, r = (1, 2, 4, 8), V' = (16, 32, 64, 128): of two steps 1 + 2/2 + 32/4 = 10, and so on; the last tick
    has but one."""
    never = column(0.0, 0.0, 0.0, 0.0)
    arguments = (column(1.0, 2.0, 4.0, 8.0), column(16.0, 32.0, 64.0, 128.0), never, never, 0.5)
    assert n_step_return(*arguments, 1).flatten().tolist() == [9.0, 18.0, 36.0, 72.0]
    assert n_step_return(*arguments, 2).flatten().tolist() == [10.0, 20.0, 40.0, 72.0]
    assert n_step_return(*arguments, 3).flatten().tolist() == [11.0, 22.0, 40.0, 72.0]
    assert n_step_return(*arguments, 9).tolist() == reward_to_go(*arguments).tolist()


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_an_end_cuts_the_n_step_return_and_a_time_limit_goes_on_with_the_value(steps: int) -> None:
    """gamma = 1/2; after r = 2 an end: 1 + 2/2; a time limit with V' = 32: 1 + (2 + 32/2)/2 = 10."""
    reward, following = column(1.0, 2.0, 4.0), column(16.0, 32.0, 64.0)
    end, never = column(0.0, 1.0, 0.0), column(0.0, 0.0, 0.0)
    assert n_step_return(reward, following, end, end, 0.5, steps).flatten().tolist() == [2.0, 2.0, 36.0]
    assert n_step_return(reward, following, never, end, 0.5, steps).flatten().tolist() == [10.0, 18.0, 36.0]


def test_returns_bootstrap_through_a_time_limit_but_not_through_an_end() -> None:
    """gamma = 1/2, lambda = 1, two columns: cut by time after the first tick, and over after the second."""
    reward, value = torch.tensor([[[1.0, 1.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 2.0]]], dtype=torch.float64)
    following = torch.tensor([[4.0, 2.0], [8.0, 9.0]], dtype=torch.float64)
    done, terminated = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    expected = torch.tensor([[1.0 + 2.0, 1.0 + 1.0], [2.0 + 4.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(reward_to_go(reward, following, terminated, done, 0.5), expected)
    torch.testing.assert_close(gae(reward, value, following, terminated, done, 0.5, 1.0), expected - value)


@given(st.floats(0.0, 0.99), st.integers(1, TICKS))
def test_truncated_gae_is_the_mean_of_n_step_advantages_with_weights_that_sum_to_one(lam: float, steps: int) -> None:
    """(1 - lambda)/(1 - lambda^T) sum_{n<=T} lambda^{n-1} A^(n)
    = sum_{i<T} gamma^i (lambda^i - lambda^T)/(1 - lambda^T) delta_i."""
    reward, value, following, never = draws()
    delta = td_error(reward, value, following, never, GAMMA)
    means = torch.stack([lam ** (n - 1) * n_step_advantage(delta, n) for n in range(1, steps + 1)]).sum(0)
    by_n = (1 - lam) / (1 - lam**steps) * means
    by_i = torch.stack([GAMMA**i * (lam**i - lam**steps) / (1 - lam**steps) * delta[i] for i in range(steps)]).sum(0)
    found = truncated_gae(reward, value, following, never, never, GAMMA, lam, steps)[0]
    torch.testing.assert_close(found, by_n)
    torch.testing.assert_close(found, by_i)


@pytest.mark.parametrize("lam", [1.0, 1.0 - 1e-9])
def test_truncated_gae_of_lambda_1_is_the_plain_mean(lam: float) -> None:
    reward, value, following, never = draws()
    delta = td_error(reward, value, following, never, GAMMA)
    mean = torch.stack([n_step_advantage(delta, n) for n in (1, 2, 3, 4)]).mean(0)
    found = truncated_gae(reward, value, following, never, never, GAMMA, lam, 4)[0]
    torch.testing.assert_close(found, mean, rtol=1e-7, atol=1e-7)


def test_truncated_gae_where_an_episode_is_over_or_the_ticks_end() -> None:
    """gamma = lambda = 1, T = 4, delta = 1 in every tick. After a true end A^(2) = A^(3) = A^(4): (1 + 2 + 2 + 2)/4;
    cut by time, or by the last tick, there are only A^(1) and A^(2): (1 + 2)/2."""
    reward, nothing = torch.ones(5, 1).double(), torch.zeros(5, 1).double()
    end = column(0.0, 1.0, 0.0, 0.0, 0.0)
    over = truncated_gae(reward, nothing, nothing, end, end, 1.0, 1.0, 4)
    cut = truncated_gae(reward, nothing, nothing, nothing, end, 1.0, 1.0, 4)
    assert over.flatten().tolist() == pytest.approx([7 / 4, 1.0, 2.0, 1.5, 1.0])
    assert cut.flatten().tolist() == pytest.approx([1.5, 1.0, 2.0, 1.5, 1.0])


def test_episode_return_by_hand() -> None:
    """gamma = 1/2, r = (1, 2, 4, 8), an end after the second: 1 + 2/2 twice, 4 + 8/2 twice, which 16 as the value of
    what follows raise by 16/4; those of a time limit as well."""
    reward, end, nothing = column(1.0, 2.0, 4.0, 8.0), column(0.0, 1.0, 0.0, 0.0), column(0.0, 0.0, 0.0, 0.0)
    assert episode_return(reward, nothing, end, end, 0.5).flatten().tolist() == [2.0, 2.0, 8.0, 8.0]
    worth = torch.full_like(reward, 16.0)
    assert episode_return(reward, worth, end, end, 0.5).flatten().tolist() == [2.0, 2.0, 12.0, 12.0]
    assert episode_return(reward, worth, nothing, end, 0.5).flatten().tolist() == [6.0, 6.0, 12.0, 12.0]


def test_the_best_constant_baseline_by_hand() -> None:
    """g = (1, -1, 2, -2), R = (1, 3, 2, 4): b* = (1 + 3 + 8 + 16)/(1 + 1 + 4 + 4) = 2.8, and no other has less
    variance; the mean 2.5 of the returns is not it."""
    score, returns = column(1.0, -1.0, 2.0, -2.0), column(1.0, 3.0, 2.0, 4.0)
    best = best_baseline(score.square(), returns).item()
    assert best == pytest.approx(2.8)

    def variance(b: float) -> float:
        return float((score * (returns - b)).var(correction=0))

    assert all(variance(best) < variance(b) for b in (0.0, 2.5, best - 1e-3, best + 1e-3))
    assert float((score * (returns - best)).mean()) == pytest.approx(float((score * returns).mean())), "no bias"


def test_what_a_cut_return_lacks_is_worth_the_baseline() -> None:
    """gamma = 1/2, a reward of 1 for ever: returns of 1, 2 and 3 ticks are 1, 1.5, 1.75 and lack 1/2, 1/4, 1/8 of the
    discount. Whatever the scores, b* = 2, the value of every state."""
    returns, lacking = column(1.0, 1.5, 1.75), column(0.5, 0.25, 0.125)
    best = best_baseline(column(3.0, 1.0, 7.0), returns, lacking)
    assert best.item() == pytest.approx(2.0)
    assert (returns + lacking * best).flatten().tolist() == pytest.approx([2.0] * 3)


def test_importance_weights_by_hand() -> None:
    """Ratios 2, 3, 5 with an episode's end after the second: products 2, 6, 5."""
    new, old = column(math.log(2), math.log(3), math.log(5)), column(0.0, 0.0, 0.0)
    done = column(0.0, 1.0, 0.0)
    assert step_weights(new, old).flatten().tolist() == pytest.approx([2.0, 3.0, 5.0])
    assert trajectory_weights(new, old, done).flatten().tolist() == pytest.approx([2.0, 6.0, 5.0])
    assert step_weights(new, new).tolist() == [[1.0]] * 3
    assert trajectory_weights(new, new, done).tolist() == [[1.0]] * 3
