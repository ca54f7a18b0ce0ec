"""A small Markov decision process whose values are known exactly, and limits that need no statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from training.off_policy.estimators import (
    Estimate,
    discounted_return,
    doubly_robust,
    effective_size,
    importance_sampling,
    interval,
    per_decision,
    weights,
)
from training.off_policy.fitted_q import LinearQ, Transitions

STATES, ACTIONS, TICKS, GAMMA = 3, 2, 5, 0.9
EPISODES, REPETITIONS = 200, 100
# Time is part of the state, so that the horizon of five ticks is an end like any other.
MOVES = np.random.default_rng(1).dirichlet(np.ones(STATES), (STATES, ACTIONS))
REWARD = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 3.0]])
NOISE = 0.3
START = np.array([0.5, 0.3, 0.2])
BEHAVIOUR = np.array([[0.6, 0.4], [0.5, 0.5], [0.4, 0.6]])
TARGET = np.array([[0.3, 0.7], [0.7, 0.3], [0.5, 0.5]])


def true_value(policy: np.ndarray) -> float:
    """Backwards from the end: V_t = sum_a pi (R + gamma P V_{t+1})."""
    value = np.zeros(STATES)
    for _ in range(TICKS):
        value = (policy * (REWARD + GAMMA * MOVES @ value)).sum(1)
    return float(START @ value)


@dataclass(frozen=True)
class Episodes:
    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray

    @property
    def log_ratio(self) -> np.ndarray:
        return np.log(TARGET[self.state, self.action] / BEHAVIOUR[self.state, self.action])


def draw(seed: int) -> Episodes:
    rng = np.random.default_rng(seed)
    state, columns = rng.choice(STATES, EPISODES, p=START), []
    for _ in range(TICKS):
        action = (rng.random(EPISODES) > BEHAVIOUR[state, 0]).astype(int)
        reward = REWARD[state, action] + NOISE * rng.standard_normal(EPISODES)
        columns.append((state, action, reward))
        following = np.cumsum(MOVES[state, action], axis=1)
        state = (rng.random(EPISODES)[:, None] > following).sum(1).clip(max=STATES - 1)
    return Episodes(*(np.stack(c, axis=1) for c in zip(*columns)))


def fitted(data: Episodes) -> LinearQ:
    """One feature for every time, state and action."""
    size = TICKS * STATES * ACTIONS
    time = np.broadcast_to(np.arange(TICKS), data.state.shape)
    cell = ((time * STATES + data.state) * ACTIONS).ravel()
    one = np.eye(size)
    target = sum(TARGET[data.state.ravel(), a, None] * one[cell + a] for a in range(ACTIONS))
    phi = one[cell + data.action.ravel()]
    episode = np.repeat(np.arange(EPISODES), TICKS)
    return LinearQ(Transitions(phi, target, data.reward.ravel(), time.ravel() == TICKS - 1, episode), GAMMA)


def robust(data: Episodes, weighted: bool) -> Estimate:
    q, v = (x.reshape(data.reward.shape) for x in fitted(data).cross_fitted())
    return doubly_robust(data.reward, data.log_ratio, q, v, GAMMA, weighted)


ESTIMATORS: dict[str, Callable[[Episodes], Estimate]] = {
    "importance sampling": lambda d: importance_sampling(d.reward, d.log_ratio, GAMMA),
    "weighted": lambda d: importance_sampling(d.reward, d.log_ratio, GAMMA, weighted=True),
    "per decision": lambda d: per_decision(d.reward, d.log_ratio, GAMMA),
    "weighted per decision": lambda d: per_decision(d.reward, d.log_ratio, GAMMA, weighted=True),
    "fitted Q": lambda d: fitted(d).estimate(),
    "doubly robust": lambda d: robust(d, weighted=False),
    "weighted doubly robust": lambda d: robust(d, weighted=True),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_interval_holds_the_truth_in_90_of_100_repetitions(name: str) -> None:
    truth, on_policy = true_value(TARGET), true_value(BEHAVIOUR)
    found = [ESTIMATORS[name](draw(seed)) for seed in range(REPETITIONS)]
    covered = sum(e.low <= truth <= e.high for e in found)
    assert 90 <= covered <= 99
    mean, spread = np.mean([e.value for e in found]), np.std([e.value for e in found])
    assert abs(mean - truth) < 4 * spread / np.sqrt(REPETITIONS)
    assert abs(on_policy - truth) > 4 * spread / np.sqrt(REPETITIONS), "the two policies differ by more than that"


def test_equal_policies_leave_the_mean_return() -> None:
    data = draw(0)
    zero = np.zeros_like(data.reward)
    mean = discounted_return(data.reward, GAMMA).mean()
    for estimate in (importance_sampling, per_decision):
        for weighted in (False, True):
            found = estimate(data.reward, zero, GAMMA, weighted)
            assert found.value == pytest.approx(mean, rel=1e-12)
            assert found.effective == pytest.approx(EPISODES)


def test_two_episodes_by_hand() -> None:
    """Ratios (2, 2) and (1, 1/2), rewards (1, 3) and (2, 4), gamma 1/2."""
    reward, log_ratio = np.array([[1.0, 3.0], [2.0, 4.0]]), np.log([[2.0, 2.0], [1.0, 0.5]])
    np.testing.assert_allclose(weights(log_ratio), np.array([[2, 4], [1, 0.5]]))
    assert effective_size(weights(log_ratio)[:, -1]) == pytest.approx(4.5**2 / 16.25)
    assert importance_sampling(reward, log_ratio, 0.5).value == pytest.approx((4 * 2.5 + 0.5 * 4) / 2)
    assert importance_sampling(reward, log_ratio, 0.5, True).value == pytest.approx((4 * 2.5 + 0.5 * 4) / 4.5)
    assert per_decision(reward, log_ratio, 0.5).value == pytest.approx((2 + 6 + 2 + 1) / 2)
    assert per_decision(reward, log_ratio, 0.5, True).value == pytest.approx(4 / 3 + 0.5 * 14 / 4.5)


def test_a_perfect_model_leaves_the_weights_nothing_to_do() -> None:
    """Without noise and with exact Q and V every term of the doubly robust estimate is V(s_0)."""
    reward, log_ratio = np.array([[1.0, 2.0], [1.0, 2.0]]), np.log([[9.0, 7.0], [0.1, 0.2]])
    q = v = np.array([[2.0, 2.0], [2.0, 2.0]])
    assert doubly_robust(reward, log_ratio, q, v, 0.5).value == pytest.approx(2.0)
    assert doubly_robust(reward, log_ratio, q, v, 0.5, weighted=True).value == pytest.approx(2.0)


def test_weights_beyond_all_bounds_stay_finite() -> None:
    found = importance_sampling(np.ones((3, 2)), np.array([[1e4, 1e4], [0, 0], [-1e4, -1e4]]), 0.9, weighted=True)
    assert found.value == pytest.approx(1.9)
    assert found.effective == pytest.approx(1.0)


def test_one_episode_tells_no_interval() -> None:
    assert interval(lambda shares: shares[:, 0], 1.0, 1) == (-np.inf, np.inf)
