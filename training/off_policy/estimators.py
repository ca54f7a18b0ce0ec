"""Returns of a target policy from episodes of another one, by importance weights. Pure functions on padded arrays.

With rho_t = pi(a_t|s_t) / b(a_t|s_t) and w_t = rho_0 ... rho_t of each of n episodes:

    importance sampling               mean of w_T G,  G = sum_t gamma^t r_t
    per decision                      mean of sum_t gamma^t w_t r_t
    weighted, weighted per decision   the weights of all episodes divided by their mean, w_t at each t
    doubly robust                     mean of sum_t gamma^t (w_{t-1} V(s_t) + w_t (r_t - Q(s_t, a_t)))

(Precup, Sutton and Singh 2000; Jiang and Li 2016; Thomas and Brunskill 2016.) The weighted ones trade a bias that
vanishes with n for a much smaller variance. An episode that has ended keeps its last weight and earns nothing.
Rewards and log-ratios are (n, T), zero behind the end of an episode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
_LARGEST_LOG_WEIGHT = 300.0  # keeps exp and its square finite

Statistic = Callable[[np.ndarray], np.ndarray]
"""Estimates (B,) for B rows of shares (B, n) of the episodes."""


@dataclass(frozen=True)
class Estimate:
    """A value and how far it can be trusted."""

    value: float
    low: float
    high: float
    """95 % interval, from episodes drawn anew."""
    effective: float
    """Effective number of episodes."""


def weights(log_ratio: np.ndarray) -> np.ndarray:
    """w_t (n, T) from log rho_t (n, T)."""
    summed = np.cumsum(log_ratio, axis=1)
    return np.exp(np.clip(summed, -_LARGEST_LOG_WEIGHT, _LARGEST_LOG_WEIGHT))


def effective_size(weight: np.ndarray) -> np.ndarray:
    """(sum w)^2 / sum w^2 over the first axis (Kish): n for equal weights, 1 if one episode carries all."""
    largest = np.maximum(weight.max(0), np.finfo(float).tiny)
    scaled = weight / largest
    return scaled.sum(0) ** 2 / np.maximum((scaled**2).sum(0), np.finfo(float).tiny)


def discounted_return(reward: np.ndarray, gamma: float) -> np.ndarray:
    """G (n,) of rewards (n, T)."""
    return reward @ _discount(reward, gamma)


def importance_sampling(reward: np.ndarray, log_ratio: np.ndarray, gamma: float, weighted: bool = False) -> Estimate:
    """By the weight of each whole episode."""
    last = weights(log_ratio)[:, -1]
    terms = last * discounted_return(reward, gamma)
    effective = float(effective_size(last))
    if weighted:
        return _estimate(lambda shares: (shares @ terms) / np.maximum(shares @ last, _TINY), len(reward), effective)
    return _estimate(lambda shares: shares @ terms, len(reward), effective)


def per_decision(reward: np.ndarray, log_ratio: np.ndarray, gamma: float, weighted: bool = False) -> Estimate:
    """By the weight of each reward's past."""
    return doubly_robust(reward, log_ratio, np.zeros_like(reward), np.zeros_like(reward), gamma, weighted)


def doubly_robust(
    reward: np.ndarray,
    log_ratio: np.ndarray,
    q: np.ndarray,
    v: np.ndarray,
    gamma: float,
    weighted: bool = False,
) -> Estimate:
    """By a model Q(s_t, a_t) and V(s_t), each (n, T), whose errors the weights correct.

    Q and V must be zero behind the end of an episode, and must not have been fitted on the episode itself.
    """
    now = weights(log_ratio)
    before = np.concatenate((np.ones((len(now), 1)), now[:, :-1]), axis=1)
    discount = _discount(reward, gamma)
    effective = float(effective_size(now) @ discount / discount.sum())
    error = reward - q
    if not weighted:
        terms = (before * v + now * error) @ discount
        return _estimate(lambda shares: shares @ terms, len(reward), effective)

    def normalised(shares: np.ndarray) -> np.ndarray:
        corrected = (shares @ (now * error)) / np.maximum(shares @ now, _TINY)
        expected = (shares @ (before * v)) / np.maximum(shares @ before, _TINY)
        return (corrected + expected) @ discount

    return _estimate(normalised, len(reward), effective)


_TINY = np.finfo(float).tiny


def _discount(reward: np.ndarray, gamma: float) -> np.ndarray:
    return gamma ** np.arange(reward.shape[1])


def _estimate(statistic: Statistic, episodes: int, effective: float) -> Estimate:
    value = float(statistic(np.full((1, episodes), 1.0 / episodes))[0])
    return Estimate(value, *interval(statistic, value, episodes), effective)


def interval(statistic: Statistic, value: float, episodes: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % bootstrap interval of `value`: the quantiles of the statistic of episodes drawn anew, with replacement.

    Widened by sqrt(n / (n - 1)), since resampling n of n understates the spread by as much. Of a single episode
    nothing can be said: the interval is infinite.
    """
    if episodes < 2:
        return -np.inf, np.inf
    rng = np.random.default_rng(0)
    shares = rng.multinomial(episodes, np.full(episodes, 1.0 / episodes), resamples) / episodes
    low, high = np.quantile(statistic(shares), (0.025, 0.975))
    wider = np.sqrt(episodes / (episodes - 1))
    return float(value - wider * (value - low)), float(value + wider * (high - value))
