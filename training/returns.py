"""Returns, advantages, baselines and importance weights as pure functions on ticks and environments (T, N).

With the error of one tick delta_t = r_t + gamma (1 - terminated_t) V(s_{t+1}) - V(s_t) and the n-step advantage

    A^(n)_t = sum_{i<n} gamma^i delta_{t+i} = r_t + ... + gamma^{n-1} r_{t+n-1} + gamma^n V(s_{t+n}) - V(s_t)

every estimator here is a weighted mean of A^(1), A^(2), ... (000, 002, 003, 004). In all of them `terminated` (T, N) is
one where the episode truly ended: nothing comes after. `done` is one where it ended, also by a time limit: there, and
after the last tick, a sum goes on with `following` (T, N), the value of the state that the tick led to; where a time
limit cut the episode, that of its final state. Zeros as `following` leave the sum cut.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training import learners


def td_error(reward: Tensor, value: Tensor, following: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """Delta = r + gamma (1 - terminated) V' - V."""
    return reward + gamma * (1.0 - terminated) * following - value


def gae(
    reward: Tensor, value: Tensor, following: Tensor, terminated: Tensor, done: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimate A_t = sum_l (gamma lam)^l delta_{t+l} (000, 002, 003).

    Of the T ticks that are left it is (1 - lam) sum_{n<T} lam^{n-1} A^(n) + lam^{T-1} A^(T).
    """
    delta = td_error(reward, value, following, terminated, gamma)
    keep = gamma * lam * (1.0 - done)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + keep[t] * running
        advantage[t] = running
    return advantage


def td_lambda_return(
    reward: Tensor, following: Tensor, terminated: Tensor, done: Tensor, gamma: float, lam: float
) -> Tensor:
    """G_t = r_t + gamma ((1 - lam) V(s_{t+1}) + lam G_{t+1}), the target of TD(lam); nothing after a true end (000).

    With lam = 1 it is the discounted reward to go, with lam = 0 the target of TD(0).
    """
    goes_on = lam * (1.0 - done)
    returns = torch.empty_like(reward)
    running = torch.zeros_like(reward[0])
    for t in range(len(reward) - 1, -1, -1):
        share = goes_on[t] if t < len(reward) - 1 else torch.zeros_like(running)
        running = reward[t] + gamma * (1.0 - terminated[t]) * ((1.0 - share) * following[t] + share * running)
        returns[t] = running
    return returns


def reward_to_go(reward: Tensor, following: Tensor, terminated: Tensor, done: Tensor, gamma: float) -> Tensor:
    """G_t = sum_{k>=t} gamma^{k-t} r_k to the end of the episode (002, 004)."""
    return td_lambda_return(reward, following, terminated, done, gamma, 1.0)


def episode_return(reward: Tensor, following: Tensor, terminated: Tensor, done: Tensor, gamma: float) -> Tensor:
    """For every tick the return G(tau) of its whole episode, as far as the ticks show it, from its first tick (004)."""
    returns = reward_to_go(reward, following, terminated, done, gamma)
    for t in range(1, len(reward)):
        returns[t] = torch.where(done[t - 1] > 0, returns[t], returns[t - 1])
    return returns


def n_step_return(
    reward: Tensor, following: Tensor, terminated: Tensor, done: Tensor, gamma: float, steps: int
) -> Tensor:
    """r_t + ... + gamma^{n-1} r_{t+n-1} + gamma^n V(s_{t+n}); fewer than n = `steps` where the ticks end (003, 004)."""
    returns = reward + gamma * (1.0 - terminated) * following
    for _ in range(steps - 1):
        longer = reward[:-1] + gamma * (1.0 - terminated[:-1]) * returns[1:]
        returns = torch.cat((torch.where(done[:-1] > 0, returns[:-1], longer), returns[-1:]))
    return returns


def truncated_gae(
    reward: Tensor,
    value: Tensor,
    following: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    lam: float,
    steps: int,
) -> Tensor:
    """Mean of A^(1) to A^(T), T = `steps`, with weights lam^{n-1} that sum to one: the corrected one of 000,

    (1 - lam)/(1 - lam^T) sum_{n<=T} lam^{n-1} A^(n) = sum_{i<T} gamma^i (lam^i - lam^T)/(1 - lam^T) delta_{t+i}.

    Its limit for lam -> 1 is the plain mean. Where a time limit or the last tick leave fewer than T ticks, T is as many
    as there are; after a true end every longer A^(n) is the same.
    """
    delta = td_error(reward, value, following, terminated, gamma)
    window = _ticks_left(terminated, done, steps)
    advantage, alive = torch.zeros_like(delta), torch.ones_like(delta)
    for i in range(min(steps, len(delta))):
        advantage = advantage + gamma**i * _tail(lam, i, window) * alive * delta
        delta = torch.cat((delta[1:], torch.zeros_like(delta[:1])))
        alive = alive * (1.0 - torch.cat((done[i:], torch.ones_like(done[:i]))))
    return advantage


def _ticks_left(terminated: Tensor, done: Tensor, most: int) -> Tensor:
    """Ticks until a sum is cut, `most` where it is not before (T, N)."""
    left = torch.empty_like(done)
    running = torch.zeros_like(done[0])
    for t in range(len(done) - 1, -1, -1):
        running = torch.where(done[t] > 0, torch.where(terminated[t] > 0, float(most), 1.0), running + 1.0)
        left[t] = running
    return left.clamp(max=most)


def _tail(lam: float, i: int, window: Tensor) -> Tensor:
    """(lam^i - lam^T)/(1 - lam^T) for T = window (T, N), or (T - i)/T for lam = 1; zero beyond the window."""
    rest = (window - i).clamp(min=0.0)
    if lam == 1.0:
        return rest / window
    if lam == 0.0:
        return torch.full_like(window, float(i == 0))
    return lam**i * torch.expm1(rest * math.log(lam)) / torch.expm1(window * math.log(lam))


def best_baseline(squared_score: Tensor, returns: Tensor, lacking: Tensor | float = 0.0) -> Tensor:
    """The constant b* = E[g^2 R] / E[g^2] that gives g (R - b) the least variance, g the score (004).

    `lacking` is the discount gamma^n of what a return that was cut lacks, which is taken to be worth b* as anything is:
    R = returns + lacking b*, so b* = E[g^2 returns] / E[g^2 (1 - lacking)].
    """
    known = squared_score * (1.0 - lacking)
    return learners.mean((squared_score * returns).mean()) / learners.mean(known.mean())


def step_weights(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """Importance weight of every tick by itself, pi'(a|s) / pi(a|s): right to first order in pi' - pi (004)."""
    return (log_prob - old_log_prob).exp()


def trajectory_weights(log_prob: Tensor, old_log_prob: Tensor, done: Tensor) -> Tensor:
    """Exact importance weight of what led to a tick and of its action: the product of the ratios so far (004)."""
    total = log_prob - old_log_prob
    sums = [total[0]]
    for t in range(1, len(total)):
        sums.append(total[t] + (1.0 - done[t - 1]) * sums[-1])
    return torch.stack(sums).exp()
