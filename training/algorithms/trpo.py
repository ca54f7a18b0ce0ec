"""Trust region policy optimisation (000, 004): maximise E[pi'(a|s)/pi(a|s) A] subject to KL(pi, pi') <= epsilon.

The natural step is the whole way to the boundary by the quadratic model of the divergence; a line search goes back
along it until the true divergence is within epsilon and the surrogate has grown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from training import learners
from training.algorithms.npg import NPG, NPGOptions, surrogate
from training.algorithms.on_policy import Batch
from training.natural_gradient import put
from training.ranges import Count, OpenShare


@dataclass(frozen=True)
class TRPOOptions(NPGOptions):
    """Settings of TRPO."""

    line_search_steps: Count = 10
    """Shares of the step that are tried before the policy is left as it is."""
    line_search_shrinking: OpenShare = 0.8
    """Each share, as a part of the one before."""


def backtracked(judge: Callable[[float], tuple[float, float]], epsilon: float, steps: int, shrinking: float) -> float:
    """The first share 1, s, s^2, ... of a step for which judge(share) gives a gain above 0 and a KL divergence of at
    most `epsilon`; 0 if none of `steps` does.
    """
    for k in range(steps):
        share = shrinking**k
        gain, kl = judge(share)
        if gain > 0.0 and kl <= epsilon:
            return share
    return 0.0


class TRPO(NPG):
    """The natural policy gradient with a line search."""

    name = "trpo"
    summary = "natural steps with a line search on KL divergence and gain"
    options_class = TRPOOptions
    options: TRPOOptions

    def take(self, step: Tensor, batch: Batch) -> dict[str, float]:
        """Move the policy's parameters by the largest share of `step` (P,) that is good."""
        o = self.options
        with torch.no_grad():
            start, before = parameters_to_vector(self.parameters), learners.mean(surrogate(self.agent, batch)[0])

        @torch.no_grad()
        def judge(share: float) -> tuple[float, float]:
            put(self.parameters, start + share * step)
            gain, kl = (learners.mean(part) for part in surrogate(self.agent, batch))
            return float(gain - before), float(kl)

        share = backtracked(judge, o.target_kl, o.line_search_steps, o.line_search_shrinking)
        put(self.parameters, start + share * step)
        return {"train/line_search": share}
