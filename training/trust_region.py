"""The classical trust region method (002): minimise f by its quadratic model within a radius that earns its size.

At x_k the model m(p) = f + g'p + 1/2 p'B p is minimised over |p| <= Delta, and the reduction that came of it is
compared with the promised one, rho = (f(x) - f(x + p)) / (m(0) - m(p)). The step is taken if rho > eta_1. The radius
shrinks under eta_1, stays between, and grows from eta_2 on. TRPO is its kin, with the KL divergence for the distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import hessian as hessian_of
from torch.autograd.functional import jacobian


@dataclass(frozen=True)
class Region:
    """How a radius follows the ratio rho."""

    poor: float = 0.25
    """eta_1: the step is refused up to it, and the radius shrinks under it."""
    good: float = 0.75
    """eta_2: the radius grows from it on."""
    shrink: float = 0.25
    """alpha_1, below one."""
    grow: float = 2.0
    """alpha_2, above one."""

    def radius(self, radius: float, ratio: float) -> float:
        """The next radius."""
        if ratio < self.poor:
            return self.shrink * radius
        return radius if ratio < self.good else self.grow * radius


def constrained_minimum(gradient: Tensor, hessian: Tensor, radius: float) -> Tensor:
    """A step p (n,) that lowers g'p + 1/2 p'B p with |p| <= radius, for any symmetric B (n, n).

    Conjugate gradients, to the minimum where it lies inside. The path stops at the boundary where it leaves the region,
    and where B curves down along it.
    """
    p, residual, direction = torch.zeros_like(gradient), -gradient, -gradient
    for _ in range(len(gradient)):
        square = residual @ residual
        if square == 0.0:
            break
        curvature = direction @ hessian @ direction
        longer = p + square / curvature * direction
        if curvature <= 0.0 or longer.norm() >= radius:
            return _to_boundary(p, direction, radius)
        p, residual = longer, residual - square / curvature * (hessian @ direction)
        direction = residual + (residual @ residual) / square * direction
    return p


def _to_boundary(p: Tensor, direction: Tensor, radius: float) -> Tensor:
    """P + tau d with tau >= 0 and the norm `radius`."""
    along, square = p @ direction, direction @ direction
    return p + ((along**2 + square * (radius**2 - p @ p)).sqrt() - along) / square * direction


def minimise(
    f: Callable[[Tensor], Tensor], x: Tensor, radius: float, steps: int, region: Region | None = None
) -> list[tuple[Tensor, float, float]]:
    """(x, ratio, next radius) after each of `steps` steps from x (n,), f a scalar function that is differentiable
    twice. Ends early at a point where the model promises nothing.
    """
    region = region or Region()
    path: list[tuple[Tensor, float, float]] = []
    for _ in range(steps):
        gradient, hessian = jacobian(f, x), hessian_of(f, x)
        p = constrained_minimum(gradient, hessian, radius)
        promised = -float(gradient @ p + 0.5 * p @ hessian @ p)
        if promised <= torch.finfo(x.dtype).eps * (1.0 + abs(float(f(x)))):
            break
        ratio = float(f(x) - f(x + p)) / promised
        if ratio > region.poor:
            x = x + p
        radius = region.radius(radius, ratio)
        path.append((x, ratio, radius))
    return path
