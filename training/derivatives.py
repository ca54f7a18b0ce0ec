"""Estimators of derivatives of an expectation E_{x ~ p(x; theta)}[f(x, theta)] from samples (001, 002).

    score function        d J = E[f d log p + df/dtheta]: f times `likelihood_ratio`, x held fixed
    reparameterisation    x = g(noise, theta): differentiate f(g(noise, theta), theta), noise held fixed
    noise inference       noise = g^-1(x, theta): a recorded x replayed, differentiable in theta

The other functions are reparameterisations g. They take their noise, so that a sample can be repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.errors import GanglionError


def likelihood_ratio(log_prob: Tensor) -> Tensor:
    """p(x; theta) / q(x) at q = p: ones whose derivative is that of log_prob (...), the score function."""
    return (log_prob - log_prob.detach()).exp()


def from_noise(noise: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """The x = mean + L noise (..., n) of covariance L L^T; `root` is L (..., n, n), or its diagonal (..., n).

    A root of one axis more than `mean` is a matrix.
    """
    if root.dim() > mean.dim():
        return mean + (root @ noise.unsqueeze(-1)).squeeze(-1)
    return mean + root * noise


def infer_noise(x: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """L^-1 (x - mean) (..., n), for L as in `from_noise` and lower triangular where it is a matrix."""
    if root.dim() > mean.dim():
        return torch.linalg.solve_triangular(root, (x - mean).unsqueeze(-1), upper=False).squeeze(-1)
    return (x - mean) / root


def gumbel_noise(like: Tensor) -> Tensor:
    """-log(-log u) of uniform u, in the shape of `like`."""
    return -torch.empty_like(like).exponential_().log()


def gumbel_softmax(noise: Tensor, logits: Tensor, temperature: float, straight_through: bool = False) -> Tensor:
    """softmax((logits + noise) / temperature) (..., M), on the simplex; one-hot as the temperature goes to zero.

    With `straight_through` the value is the one-hot choice itself, an exact sample, and the derivative that of the
    softmax. Raises GanglionError for a temperature that is not positive.
    """
    if temperature <= 0.0:
        raise GanglionError(f"a Gumbel-softmax has the temperature {temperature}; expected more than 0, for example 1")
    perturbed = logits + noise
    soft = torch.softmax(perturbed / temperature, -1)
    if not straight_through:
        return soft
    hard = torch.nn.functional.one_hot(perturbed.argmax(-1), logits.shape[-1]).to(soft)
    return hard + (soft - soft.detach())


def truncated_normal(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Phi^-1(u Phi(high) + (1 - u) Phi(low)): a standard normal within [low, high], for u in (0, 1)."""
    cdf = torch.special.ndtr
    return torch.special.ndtri(u * cdf(high) + (1.0 - u) * cdf(low))


def kumaraswamy(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(1 - (1 - u)^(1/b))^(1/a), of density a b x^(a-1) (1 - x^a)^(b-1) on [0, 1], for u in (0, 1)."""
    return (1.0 - (1.0 - u) ** (1.0 / b)) ** (1.0 / a)
