"""The natural gradient F^-1 g without a matrix: products with F from the curvature of the KL divergence (000, 004).

At theta' = theta the KL divergence has the Hessian F, the Fisher information, so KL(theta, theta + d) = 1/2 d' F d to
second order. Among the steps with 1/2 d' F d = epsilon that of greatest gain g'd is sqrt(2 epsilon / g'F^-1 g) F^-1 g.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A symmetric positive definite matrix (P, P) times a vector (P,)."""


def flat_gradient(output: Tensor, parameters: Sequence[Tensor], differentiable: bool = False) -> Tensor:
    """Gradient (P,) of a scalar; `differentiable` for another one through it."""
    gradients = torch.autograd.grad(output, parameters, create_graph=differentiable, retain_graph=True)
    return torch.cat([g.flatten() for g in gradients])


def fisher_product(kl: Tensor, parameters: Sequence[Tensor], damping: float) -> Product:
    """Of (F + damping I), from the mean divergence `kl` () of the old policy from the present one, which are equal.

    Its gradient is zero there, and the derivative of (gradient of KL) . v is F v.
    """
    gradient = flat_gradient(kl, parameters, differentiable=True)

    def product(vector: Tensor) -> Tensor:
        return flat_gradient(gradient @ vector, parameters) + damping * vector

    return product


def conjugate_gradient(product: Product, target: Tensor, steps: int, tolerance: float = 1e-10) -> Tensor:
    """X (P,) with A x = `target`, exact after P steps; ends early once the squared residual is
    within `tolerance` of that of the start.
    """
    x, residual, direction = torch.zeros_like(target), target, target
    square = residual @ residual
    enough = tolerance * square
    for _ in range(steps):
        if square <= enough:
            break
        curved = product(direction)
        length = square / (direction @ curved)
        x = x + length * direction
        residual = residual - length * curved
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    return x


def natural_step(product: Product, gradient: Tensor, epsilon: float, steps: int) -> Tensor:
    """sqrt(2 epsilon / g'F^-1 g) F^-1 g (P,), for which 1/2 d' F d = epsilon; zero where the gradient is."""
    direction = conjugate_gradient(product, gradient, steps)
    gain = gradient @ direction
    if gain <= 0.0:
        return torch.zeros_like(gradient)
    return (2.0 * epsilon / gain).sqrt() * direction


@torch.no_grad()
def put(parameters: Sequence[Tensor], values: Tensor) -> None:
    """Set the parameters to `values` (P,)."""
    for parameter, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))
