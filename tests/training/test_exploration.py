"""Noise of deterministic policies: what it comes to rest at, and how fast it forgets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import GanglionError
from training.exploration import GaussianNoise, OrnsteinUhlenbeckNoise, make_noise


def test_ornstein_uhlenbeck_comes_to_rest_at_a_variance_of_0_1334() -> None:
    """sigma^2 / (theta (2 - theta dt)) at theta = 0.15, sigma = 0.2, dt = 0.01."""
    assert OrnsteinUhlenbeckNoise(0.2, 0.15, 0.01).stationary_std ** 2 == pytest.approx(0.1334, abs=5e-5)


@given(st.floats(0.01, 2.0), st.floats(0.01, 1.9), st.floats(0.001, 1.0))
def test_the_resting_variance_is_the_fixed_point_of_a_step(sigma: float, theta: float, dt: float) -> None:
    """v = (1 - theta dt)^2 v + sigma^2 dt."""
    v = OrnsteinUhlenbeckNoise(sigma, theta, dt).stationary_std ** 2
    assert (1 - theta * dt) ** 2 * v + sigma**2 * dt == pytest.approx(v, rel=1e-9)


def test_draws_have_the_resting_variance_from_the_first_tick_and_the_memory_of_the_equation() -> None:
    """20,000 environments: the variance within 4 standard errors (4 %), N_{t+k} correlates by (1 - theta dt)^k."""
    torch.manual_seed(0)
    noise = OrnsteinUhlenbeckNoise(0.2, 0.15, 1.0)
    like = torch.zeros(20_000, 1, dtype=torch.float64)
    ticks = torch.stack([noise.sample(like) for _ in range(6)]).squeeze(-1)
    expected = 0.2**2 / (0.15 * (2 - 0.15))
    for tick in ticks:
        assert tick.var().item() == pytest.approx(expected, rel=0.04)
    for k in (1, 5):
        correlation = (ticks[0] * ticks[k]).mean() / expected
        assert correlation.item() == pytest.approx(0.85**k, abs=4 / math.sqrt(20_000))


def test_a_step_is_that_of_euler_and_maruyama(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 1.5 with theta dt = 0.03 and sigma sqrt(dt) = 0.04: 1.5 - 0.045 + 0.04 eps."""
    noise = OrnsteinUhlenbeckNoise(0.2, 0.75, 0.04)
    noise._value = torch.tensor([[1.5, -1.5]])
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.tensor([[1.0, -2.0]]))
    assert noise.sample(torch.zeros(1, 2)).flatten().tolist() == pytest.approx([1.495, -1.535])


def test_gaussian_noise_is_independent_and_of_its_sigma() -> None:
    torch.manual_seed(0)
    noise = GaussianNoise(0.3)
    first, second = noise.sample(torch.zeros(20_000, 2)), noise.sample(torch.zeros(20_000, 2))
    assert first.shape == (20_000, 2)
    assert first.std().item() == pytest.approx(0.3, rel=0.03)
    assert abs((first * second).mean().item()) < 4 * 0.09 / math.sqrt(40_000)


def test_noises_by_name() -> None:
    assert isinstance(make_noise("normal", 0.1, 0.15, 1.0), GaussianNoise)
    drifting = make_noise("ornstein-uhlenbeck", 0.1, 0.2, 0.5)
    assert isinstance(drifting, OrnsteinUhlenbeckNoise)
    assert (drifting.sigma, drifting.theta, drifting.dt) == (0.1, 0.2, 0.5)
    with pytest.raises(GanglionError, match="no noise_type 'pink'; expected one of normal, ornstein-uhlenbeck"):
        make_noise("pink", 0.1, 0.15, 1.0)
    with pytest.raises(GanglionError, match=r"noise_theta 3.0 times noise_dt 1.0 is 3.0, expected between 0 and 2"):
        make_noise("ornstein-uhlenbeck", 0.1, 3.0, 1.0)
