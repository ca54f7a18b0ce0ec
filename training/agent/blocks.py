"""Block-diagonal matrices (B, n, b, b) on vectors (B, Z), Z = n b: one block is a full matrix, size 1 a diagonal one.

With b = Z everything here is exact. Smaller blocks drop the covariance between blocks and cost Z^2 b instead of Z^3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@torch.library.custom_op("ganglion::inverse", mutates_args=())
def _inverse(matrix: Tensor) -> Tensor:
    return torch.linalg.inv(matrix)


@_inverse.register_fake
def _(matrix: Tensor) -> Tensor:
    return torch.empty_like(matrix)


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of (..., b, b). An operator of its own, so that the export can name onnxruntime's kernel for it."""
    result: Tensor = _inverse(matrix) if torch.compiler.is_exporting() else torch.linalg.inv(matrix)
    return result


def symmetric_inverse(matrix: Tensor) -> Tensor:
    """Inverse of a symmetric positive definite (..., b, b), symmetric also in floating point."""
    half = inverse(2.0 * matrix)
    return half + half.mT


def identity(count: int, size: int) -> Tensor:
    """(1, n, b, b)."""
    return torch.eye(size).expand(1, count, size, size).clone()


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix (B, n, b, b) times vector (..., B, Z)."""
    count, size = matrix.shape[-3], matrix.shape[-1]
    if len(matrix) == count == 1:
        return vector @ matrix.reshape(size, size).mT
    parts = vector.reshape(*vector.shape[:-1], count, 1, size)
    return (parts @ matrix.mT).reshape(vector.shape)


def diagonal(matrix: Tensor) -> Tensor:
    """Diagonal (..., Z) of (..., n, b, b)."""
    return matrix.diagonal(dim1=-2, dim2=-1).flatten(-2)


def congruence(rows: Tensor, matrix: Tensor) -> Tensor:
    """Diagonal blocks of A M A', (B, n, b, b), for A (B, Z, Z) and M (B, n, b, b)."""
    count, size = matrix.shape[-3], matrix.shape[-1]
    left = rows.unflatten(-1, (count, size)).transpose(-3, -2) @ matrix  # (B, n, Z, b)
    product = left.transpose(-3, -2).flatten(-2)  # A M, (B, Z, Z)
    shape = (count, size)
    return product.unflatten(-2, shape) @ rows.unflatten(-2, shape).mT


def gram(jacobian: Tensor, weights: Tensor, count: int) -> Tensor:
    """Diagonal blocks of J' diag(weights) J, (B, n, b, b), for J (B, D, Z) and weights (B, D)."""
    parts = _columns(jacobian, count)
    return (parts * weights.unsqueeze(-2).unsqueeze(-2)) @ parts.mT


def _columns(jacobian: Tensor, count: int) -> Tensor:
    """J (B, D, Z) as J' in blocks, (B, n, b, D)."""
    return jacobian.mT.unflatten(-2, (count, -1))


def spread(jacobian: Tensor, matrix: Tensor) -> Tensor:
    """Diagonal of J M J', (B, D), for J (B, D, Z) and M (B, n, b, b)."""
    parts = _columns(jacobian, matrix.shape[-3])
    return ((matrix @ parts) * parts).sum(-2).sum(-2)


@dataclass
class Covariance:
    """Covariance matrices (B, n, b, b) as correlations and standard deviations."""

    correlations: Tensor
    """(B, n, b, b)."""
    std: Tensor
    """(B, n, 1, b)."""

    @classmethod
    def saturated(cls, matrix: Tensor, largest: float) -> Covariance:
        """M (B, n, b, b) scaled by rows and columns so that no variance is above `largest`; it stays definite."""
        diagonal = torch.arange(matrix.shape[-1]).expand_as(matrix[..., :1, :])
        variances = matrix.gather(-2, diagonal)
        std = variances.sqrt()
        return cls(matrix / (std.mT * std), std.clamp(max=math.sqrt(largest)))

    @property
    def matrix(self) -> Tensor:
        """(B, n, b, b)."""
        return self.correlations * (self.std.mT * self.std)

    def inverse(self) -> Tensor:
        """(B, n, b, b)."""
        return inverse(self.correlations) / (self.std.mT * self.std)

    def log_det(self) -> Tensor:
        """Of the whole block-diagonal matrix (B,).

        The determinant of the correlations is in (0, 1] where that of the matrix may not be a float.
        """
        smallest = torch.finfo(self.std.dtype).tiny
        rest = torch.linalg.det(self.correlations).clamp(min=smallest).log().unsqueeze(-1).unsqueeze(-1)
        return (rest + 2.0 * self.std.log().sum(-1, keepdim=True)).flatten(1).sum(-1)
