"""Adam's step as a function of tensors alone, which can be part of a compiled one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.adam import adam as adam_step


class Moments(NamedTuple):
    """What Adam remembers of each parameter. The optimizer has the same tensors, so its checkpoints hold them."""

    mean: list[Tensor]
    square: list[Tensor]
    steps: list[Tensor]
    """(), float32."""


def moments(optimizer: Adam) -> Moments:
    """Those of all its parameters; zeros, put into the optimizer, before the first step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p in parameters:
        if not optimizer.state[p]:
            zeros = {name: torch.zeros_like(p, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **zeros}
    state = [optimizer.state[p] for p in parameters]
    return Moments(*([s[name] for s in state] for name in ("exp_avg", "exp_avg_sq", "step")))


@torch.no_grad()
def clipped(gradients: Sequence[Tensor], longest: float) -> list[Tensor]:
    """All of them times the same factor, so that their common Euclidean length is at most `longest`."""
    length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    factor = (longest / (length + 1e-6)).clamp(max=1.0)
    return list(torch._foreach_mul(list(gradients), factor))


@torch.no_grad()
def descend(
    parameters: list[Tensor], gradients: list[Tensor], memory: Moments, learning_rate: Tensor, eps: float
) -> None:
    """One step of Adam, in place, of size `learning_rate` ()."""
    adam_step(
        parameters, gradients, memory.mean, memory.square, [], memory.steps,
        foreach=False, fused=not torch.compiler.is_compiling(),
        amsgrad=False, beta1=0.9, beta2=0.999, lr=learning_rate, weight_decay=0.0, eps=eps, maximize=False,
    )  # fmt: skip
