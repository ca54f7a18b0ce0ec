"""The n-step return in a model, as one function to differentiate: DPMB-R, DPMB-SF, BPO and SVG(n) (002).

    J(w) = E[ sum_{i<n} gamma^i r(s_i, a_i) + gamma^n V(s_n) ],   s_{i+1} = f(s_i, a_i, xi_i),   V(s) = Q(s, d(s, eps))

    n = 0                                       DPG, or SVG(0) with a stochastic policy
    deterministic policy, noise xi replayed     DPMB-R
    next states sampled, without a derivative   DPMB-SF: what follows is weighted by the likelihood ratio of s'
    deterministic policy and f, no V            BPO
    stochastic policy, noise xi replayed        SVG(n); without V and with a large n SVG(infinity)

With the exact Q of the policy at hand J is the same for every n, and so is its gradient. With that Q held fixed, the
actions of n + 1 ticks learn; each of them alone has the same gradient at every n.

Whatever ends, or is sampled without a derivative, weighs all that follows it: the probability that the episode goes on,
and a likelihood ratio, which is one and has the derivative of the log probability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")


class Act(NamedTuple):
    """What the policy does in a state."""

    action: Tensor
    """(B, A)."""
    ratio: Tensor | None = None
    """Likelihood ratio of the action (B,), where it was sampled without a derivative."""


def model_return(
    state: S,
    act: Callable[[S], Act],
    step: Callable[[S, Tensor, int], tuple[S, Tensor, Tensor]],
    depth: int,
    gamma: float,
    value: Callable[[S], Tensor] | None = None,
    baseline: Callable[[S], Tensor] | None = None,
) -> Tensor:
    """J (B,) of the n = `depth` steps from `state`: sum_{i<n} gamma^i w_i r_i + gamma^n w_n V(s_n).

    `step(s, a, i)` gives s', the reward (B,), and the weight (B,) of all that follows: the probability of going on,
    times the likelihood ratio of s' where it was sampled without a derivative. `value` is V(s) (B,) as the policy makes
    it, differentiable; none ends the sum at n. `baseline` (B,) is subtracted from what the likelihood ratio of an
    action weighs, which leaves the value and the mean of its derivative as they are.
    """
    total: Tensor = torch.zeros(())
    weight: Tensor = torch.ones(())
    for i in range(depth):
        action, ratio = act(state)
        if ratio is not None:
            if baseline is not None:
                total = total + gamma**i * weight * (1.0 - ratio) * baseline(state).detach()
            weight = weight * ratio
        state, reward, onward = step(state, action, i)
        total = total + gamma**i * weight * reward
        weight = weight * onward
    return total if value is None else total + gamma**depth * weight * value(state)
