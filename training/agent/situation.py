"""What a policy and a critic read of a tick."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Situation(NamedTuple):
    """The state s of the algorithms, for `agent.distribution(s.z, s.gait)` and `agent.value(*s)`."""

    z: Tensor
    """Belief (..., Z)."""
    x: Tensor
    """Normalised observation without failures (..., D), for critics alone."""
    gait: Tensor | None = None
    """State of the gait (..., S), where there is one."""

    def rows(self, index: Tensor | slice) -> Situation:
        """Those of the first axis at `index`."""
        return Situation(self.z[index], self.x[index], None if self.gait is None else self.gait[index])

    def flat(self) -> Situation:
        """(T, N, ...) as (T N, ...)."""
        gait = None if self.gait is None else self.gait.flatten(0, 1)
        return Situation(self.z.flatten(0, 1), self.x.flatten(0, 1), gait)


def stack(situations: list[Situation]) -> Situation:
    """Situations (N, ...) of T ticks as one (T, N, ...)."""
    gaits = [s.gait for s in situations if s.gait is not None]
    beliefs, observations = torch.stack([s.z for s in situations]), torch.stack([s.x for s in situations])
    return Situation(beliefs, observations, torch.stack(gaits) if gaits else None)
