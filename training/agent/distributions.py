"""Distributions over actions as the algorithms use them: rows can be picked, and every number is one per row.

The squashed Gaussian is that of soft actor-critic: a = tanh(u), u ~ N(mean, std^2), with

    log p(a) = log N(u) - sum_i log(1 - tanh(u_i)^2),   log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from training.derivatives import gumbel_noise

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_ALMOST_ONE = 1.0 - 1e-6  # tanh of 7.25: actions beyond it would have come from an infinite u


class Distribution(ABC):
    """Over the actions of a batch (..., A), or (...) int64 where they are choices."""

    @abstractmethod
    def sample(self) -> Tensor:
        """One action per row; differentiable in the parameters unless actions are choices."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """(...) for actions as `sample` gives them."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """(...) in nats."""

    @abstractmethod
    def kl(self, other: Distribution) -> Tensor:
        """KL(self || other) (...) in nats; `other` is of the same kind."""

    @abstractmethod
    def rows(self, index: Tensor | slice) -> Distribution:
        """Those of the first axis at `index`."""


@dataclass(frozen=True)
class Gaussian(Distribution):
    """Independent normal components."""

    mean: Tensor
    """(..., A)."""
    std: Tensor
    """(..., A)."""

    def sample(self) -> Tensor:
        return self.mean + self.std * torch.randn_like(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        unit = (action - self.mean) / self.std
        return -(0.5 * unit * unit + self.std.log() + _HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        return (self.std.log() + (0.5 + _HALF_LOG_2PI)).sum(-1)

    def kl(self, other: Distribution) -> Tensor:
        assert isinstance(other, Gaussian)
        ratio, shift = self.std / other.std, (self.mean - other.mean) / other.std
        return (0.5 * (ratio * ratio + shift * shift - 1.0) - ratio.log()).sum(-1)

    def rows(self, index: Tensor | slice) -> Gaussian:
        return Gaussian(self.mean[index], self.std[index])


@dataclass(frozen=True)
class SquashedGaussian(Distribution):
    """Tanh of independent normal components, within (-1, 1)."""

    inner: Gaussian
    """Before the tanh."""

    def sample(self) -> Tensor:
        return torch.tanh(self.inner.sample())

    def sample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        """An action (..., A) and its log probability (...), without the way back through the tanh."""
        u = self.inner.sample()
        return torch.tanh(u), self.inner.log_prob(u) - _log_slope(u)

    def log_prob(self, action: Tensor) -> Tensor:
        u = torch.atanh(action.clamp(-_ALMOST_ONE, _ALMOST_ONE))
        return self.inner.log_prob(u) - _log_slope(u)

    def entropy(self) -> Tensor:
        """Estimated by one sample: it has no closed form."""
        return -self.sample_with_log_prob()[1]

    def kl(self, other: Distribution) -> Tensor:
        assert isinstance(other, SquashedGaussian)
        return self.inner.kl(other.inner)  # the same map on both sides leaves it as it is

    def rows(self, index: Tensor | slice) -> SquashedGaussian:
        return SquashedGaussian(self.inner.rows(index))


@dataclass(frozen=True)
class Categorical(Distribution):
    """One of M choices."""

    logits: Tensor
    """(..., M), not normalised."""

    @property
    def log_probs(self) -> Tensor:
        """(..., M)."""
        return torch.log_softmax(self.logits, -1)

    def sample(self) -> Tensor:
        return (self.logits + gumbel_noise(self.logits)).argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: Distribution) -> Tensor:
        assert isinstance(other, Categorical)
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)

    def rows(self, index: Tensor | slice) -> Categorical:
        return Categorical(self.logits[index])


def _log_slope(u: Tensor) -> Tensor:
    """Sum of log(1 - tanh(u)^2), (...) for u (..., A)."""
    return (2.0 * (math.log(2.0) - u - softplus(-2.0 * u))).sum(-1)
