"""Adam's step as a function of tensors alone, which can be part of a compiled one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.adam import adam


class AdamState(NamedTuple):
    """All of a step but the gradient. The optimizer has the same tensors, so its checkpoints hold them."""

    parameters: list[Tensor]
    mean: list[Tensor]
    square: list[Tensor]
    steps: list[Tensor]
    """(), float32."""
    learning_rate: float | Tensor
    """()."""
    eps: float


def adam_state(optimizer: Adam) -> AdamState:
    """That of an optimizer with one group; its tensors are zeros, put into it, before the first step."""
    (group,) = optimizer.param_groups
    for p in group["params"]:
        if not optimizer.state[p]:
            zeros = {name: torch.zeros_like(p, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **zeros}
    states = [optimizer.state[p] for p in group["params"]]
    mean, square, steps = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    return AdamState(list(group["params"]), mean, square, steps, group["lr"], group["eps"])


def descend(state: AdamState, loss: Tensor, longest: float = 0.0) -> None:
    """One step of Adam in place, down the gradient of `loss` (), computed for these parameters alone.

    All the gradient is shortened, where `longest` is not 0, to that Euclidean length.
    """
    gradients = torch.autograd.grad(loss, state.parameters)
    with torch.no_grad():
        adam(
            state.parameters, clipped(gradients, longest) if longest else list(gradients),
            state.mean, state.square, [], state.steps,
            foreach=False, fused=not torch.compiler.is_compiling(), amsgrad=False, beta1=0.9, beta2=0.999,
            lr=state.learning_rate, weight_decay=0.0, eps=state.eps, maximize=False,
        )  # fmt: skip


def clipped(gradients: Sequence[Tensor], longest: float) -> list[Tensor]:
    """All of them times the same factor, so that their common Euclidean length is at most `longest`."""
    length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    factor = (longest / (length + 1e-6)).clamp(max=1.0)
    return list(torch._foreach_mul(list(gradients), factor))
