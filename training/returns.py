"""Return and advantage estimators as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    reward: Tensor, value: Tensor, following: Tensor, terminated: Tensor, done: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimate A_t = sum_l (gamma lam)^l delta_{t+l}, delta = r + gamma (1 - terminated) V' - V.

    All are (T, N). `following` is V', the value of the state that the tick led to: where a time limit cut an episode,
    that of its final state. `done` cuts the sum, `terminated` also the bootstrap.
    """
    delta = reward + gamma * (1.0 - terminated) * following - value
    keep = gamma * lam * (1.0 - done)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + keep[t] * running
        advantage[t] = running
    return advantage
