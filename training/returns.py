"""Return and advantage estimators as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(reward: Tensor, value: Tensor, done: Tensor, last_value: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimate A_t = sum_l (gamma lam)^l delta_{t+l}, delta = r + gamma (1 - d) V' - V.

    reward, value, done are (T, N), last_value (N,) is the value after the last tick. `done` cuts the sum; a time limit
    is handled by adding gamma V(final state) to the reward of its tick beforehand.
    """
    advantage = torch.zeros_like(reward)
    running = torch.zeros_like(last_value)
    following = last_value
    for t in range(len(reward) - 1, -1, -1):
        alive = 1.0 - done[t]
        delta = reward[t] + gamma * alive * following - value[t]
        running = delta + gamma * lam * alive * running
        advantage[t] = running
        following = value[t]
    return advantage
