"""Noise that a deterministic policy adds to its action to explore (002).

Gaussian: N_t = sigma eps_t. Ornstein-Uhlenbeck, by Euler-Maruyama:

    N_{t+1} = N_t - theta N_t dt + sigma sqrt(dt) eps_t,

whose variance comes to rest at sigma^2 / (theta (2 - theta dt)).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from runtime.errors import GanglionError

NOISES = ("normal", "ornstein-uhlenbeck")


class Noise(ABC):
    """Draws for N environments at a time."""

    @abstractmethod
    def sample(self, like: Tensor) -> Tensor:
        """The next noise, of the shape of the actions `like` (N, A)."""


class GaussianNoise(Noise):
    """Independent from tick to tick."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def sample(self, like: Tensor) -> Tensor:
        return self.sigma * torch.randn_like(like)


class OrnsteinUhlenbeckNoise(Noise):
    """Drifts back to zero; each environment begins with a draw from where it comes to rest."""

    def __init__(self, sigma: float, theta: float, dt: float) -> None:
        """Raises GanglionError if the noise would grow without bound."""
        if not 0.0 < theta * dt < 2.0:
            raise GanglionError(f"noise_theta {theta} times noise_dt {dt} is {theta * dt}, expected between 0 and 2")
        self.sigma, self.theta, self.dt = sigma, theta, dt
        self._value: Tensor | None = None

    @property
    def stationary_std(self) -> float:
        """sqrt(sigma^2 / (theta (2 - theta dt)))."""
        return self.sigma / math.sqrt(self.theta * (2.0 - self.theta * self.dt))

    def sample(self, like: Tensor) -> Tensor:
        fresh = torch.randn_like(like)
        if self._value is None:
            self._value = self.stationary_std * fresh
        else:
            self._value = (1.0 - self.theta * self.dt) * self._value + self.sigma * math.sqrt(self.dt) * fresh
        return self._value


def make_noise(kind: str, sigma: float, theta: float, dt: float) -> Noise:
    """The noise called `kind`. Raises GanglionError for an unknown one."""
    if kind not in NOISES:
        raise GanglionError(f"there is no noise_type '{kind}'; expected one of {', '.join(NOISES)}")
    return GaussianNoise(sigma) if kind == "normal" else OrnsteinUhlenbeckNoise(sigma, theta, dt)
