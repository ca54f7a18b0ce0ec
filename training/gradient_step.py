"""Steps down the gradient of a loss; those of Adam also as a function of tensors, to be compiled with the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.adam import adam

from training import learners


def descend(optimizer: Optimizer, loss: Tensor, longest: float = 0.0) -> None:
    """One step down the gradient of `loss` (), computed for the optimizer's parameters alone.

    It is the mean over all learners. All the gradient is shortened, where `longest` is not 0, to that Euclidean length.
    """
    parameters = parameters_of(optimizer)
    learned = [p for p in parameters if p.requires_grad]
    gradients = dict(zip(learned, torch.autograd.grad(loss, learned, allow_unused=True), strict=True))
    follow(optimizer, [gradients.get(p) for p in parameters], longest)


def follow(optimizer: Optimizer, gradients: Iterable[Tensor | None], longest: float = 0.0) -> None:
    """The step of `descend` for known gradients, in the order of the parameters; one that is None stays."""
    parameters = parameters_of(optimizer)
    moved, known = zip(*((p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None))
    optimizer.zero_grad()
    for parameter, gradient in zip(moved, clipped(learners.averaged(known), longest)):
        parameter.grad = gradient
    optimizer.step()


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All that it steps, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


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

    def slower(self, factor: float) -> AdamState:
        """With a step size that is so many times as large; a tensor, which may change without compiling anew."""
        return self._replace(learning_rate=torch.as_tensor(self.learning_rate * factor))

    def descend(self, loss: Tensor, longest: float = 0.0) -> None:
        """The step of the function `descend`, in place."""
        gradients = learners.averaged(torch.autograd.grad(loss, self.parameters))
        with torch.no_grad():
            adam(
                self.parameters, clipped(gradients, longest), self.mean, self.square, [], self.steps,
                foreach=False, fused=not torch.compiler.is_compiling(), amsgrad=False, beta1=0.9, beta2=0.999,
                lr=self.learning_rate, weight_decay=0.0, eps=self.eps, maximize=False,
            )  # fmt: skip


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


def clipped(gradients: list[Tensor], longest: float) -> list[Tensor]:
    """All of them times the same factor, so that their common Euclidean length is at most `longest`; 0 is no limit."""
    if longest == 0.0:
        return gradients
    length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    factor = (longest / (length + 1e-6)).clamp(max=1.0)
    return list(torch._foreach_mul(gradients, factor))
