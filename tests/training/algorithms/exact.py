"""Numbers in float64, what they are compared to, and slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(got: Tensor, expected: Tensor | float, tolerance: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=got.dtype).expand_as(got)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.detach().clone().requires_grad_()
    (result,) = torch.autograd.grad(function(at), at)
    return result


def differences(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    flat = at.flatten()
    steps = step * torch.eye(len(flat), dtype=at.dtype)
    slopes = [(function((flat + h).view_as(at)) - function((flat - h).view_as(at))) / (2 * step) for h in steps]
    return torch.stack(slopes).view_as(at)
