"""Fits to r + gamma max_a q(s', a): tables against value iteration, maximisers against known ones, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from runtime.errors import GanglionError
from tests.training.algorithms.tabular import (
    CHOICES,
    EXACT_STEP,
    GAMMA,
    ROWS,
    STATES,
    Table,
    ends,
    make,
    one_hot,
    random_process,
)
from training.agent.situation import Situation
from training.algorithms.fqi import FQI, FQIOptions, climb, converged
from training.replay_buffer import Batch


def sgd(module: nn.Module, step: float) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=step)


def tabular(maximiser: str) -> FQI:
    """One step of a fit is exact."""
    fqi: FQI = make("fqi", "categorical", maximiser=maximiser, exact_points=ROWS, batch_size=ROWS)
    table = Table()
    parts: dict[str, Any] = {"critic": table, "critic_optimizer": sgd(table, EXACT_STEP)}
    vars(fqi).update(parts)
    return fqi


@pytest.mark.parametrize("maximiser", ["explicit", "amortized"])
def test_a_tabular_fit_is_value_iteration(maximiser: str) -> None:
    """q_{n+1} = r + gamma E max q_n, iteration by iteration, and so its fixed point in the end."""
    process = random_process(0)
    fqi, batch, q = tabular(maximiser), process.batch(), torch.zeros(STATES, CHOICES, dtype=torch.float64)
    every = one_hot(torch.arange(STATES))
    for _ in range(120):
        change, _ = fqi.iterate(batch, 1)
        following = process.backup(q)
        torch.testing.assert_close(fqi.critic.choices(every)[0].detach(), following, rtol=0, atol=1e-10)
        torch.testing.assert_close(change, (following - q).square().mean(), rtol=0, atol=1e-10)
        q = following
    torch.testing.assert_close(fqi.critic.choices(every)[0].detach(), process.optimal().q, rtol=0, atol=1e-10)


class Quadratic(nn.Module):
    """Critic q(s, a) = -curvature (a - best(s))^2, best linear in z."""

    def __init__(self, weight: list[float], constant: float = 0.0, curvature: float = 3.0) -> None:
        super().__init__()
        self.weight, self.constant = torch.tensor(weight, dtype=torch.float64), constant
        self.curvature = curvature
        self.nothing = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def best(self, s: Situation) -> Tensor:
        return (s.z @ self.weight + self.constant).unsqueeze(-1)

    def q(self, s: Situation, action: Tensor) -> Tensor:
        return -self.curvature * (action - self.best(s)).square().sum(-1).unsqueeze(0) + self.nothing


def quadratic(critic: Quadratic, **options: Any) -> FQI:
    fqi: FQI = make("fqi", "deterministic", 2, **{"batch_size": 64, "ascent_steps": 100} | options)
    parts: dict[str, Any] = {"critic": critic, "critic_optimizer": sgd(critic, 0.0)}
    vars(fqi).update(parts)
    return fqi


def points(count: int) -> Batch:
    s = Situation(*torch.randn(2, count, 2, dtype=torch.float64))
    action, numbers = torch.zeros(count, 1, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    return Batch(s, action, numbers, s, numbers)


def test_the_explicit_maximiser_of_a_quadratic_q_is_its_argmax() -> None:
    """Or the bound of the actions that is nearest to it."""
    critic = Quadratic([0.5, -0.8])
    s = points(200).now
    best = critic.best(s)
    assert (best.abs() > 1).any()
    torch.testing.assert_close(quadratic(critic).maximise(s), best.clamp(-1, 1), rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(-6, 6))
def test_the_ascent_does_not_mind_the_scale_of_q(seed: int, magnitude: float) -> None:
    """Each component has its own curvature, over two orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    best = 1.2 * (2 * torch.rand(7, 3, generator=generator, dtype=torch.float64) - 1)
    curvature = 10.0**magnitude * torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    starts = 2 * torch.rand(2, 7, 3, generator=generator, dtype=torch.float64) - 1
    found = climb(lambda a: -(curvature * (a - best) ** 2).sum(-1), starts, 100)
    torch.testing.assert_close(found, best.clamp(-1, 1), rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_ascent_never_ends_below_its_best_start(seed: int, steps: int) -> None:
    """On waves that are too short for the steps."""
    generator = torch.Generator().manual_seed(seed)
    starts = 2 * torch.rand(3, 20, 2, generator=generator, dtype=torch.float64) - 1

    def q(action: Tensor) -> Tensor:
        return torch.sin(60 * action).sum(-1)

    assert (q(climb(q, starts, steps)) >= q(starts).amax(0)).all()


class Bent(Quadratic):
    """Its argmax is the tanh of a linear function, which a linear actor can represent."""

    def best(self, s: Situation) -> Tensor:
        return torch.tanh(super().best(s))


@pytest.mark.parametrize("maximiser", ["explicit", "amortized"])
def test_the_actor_finds_the_argmax_of_a_quadratic_q(maximiser: str) -> None:
    """Also at points at which nothing was searched for."""
    critic = Bent([0.9, -0.6], constant=0.3)
    fqi = quadratic(critic, maximiser=maximiser, exact_points=64)
    fqi.agent.policy = nn.Sequential(nn.Linear(2, 1, dtype=torch.float64))
    vars(fqi)["optimizer"] = sgd(fqi.agent.policy, 1.0)
    batch = points(200)
    for _ in range(2):
        _, error = fqi.iterate(batch, 200)
    assert error < 1e-8
    torch.testing.assert_close(fqi.act(batch.after), critic.best(batch.after), rtol=0, atol=1e-3)


def test_the_amortized_target_takes_the_actor_s_action_where_none_was_searched_for() -> None:
    """The actor answers 0 and the best is 0.5, so y is -3 (0 - 0.5)^2 there and 0 at the searched points."""
    fqi = quadratic(Quadratic([0.0, 0.0], constant=0.5), maximiser="amortized", exact_points=40)
    for parameter in fqi.agent.policy.parameters():
        nn.init.zeros_(parameter)
    seen: list[Tensor] = []

    def remember(batch: Batch, target: Tensor, steps: int) -> None:
        seen.append(target)

    vars(fqi)["fit_critic"] = remember
    fqi.iterate(points(100), 1)
    values, counts = (seen[0] / GAMMA).round(decimals=4).unique(return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist())) == {-0.75: 60, 0.0: 40}


@pytest.mark.parametrize(("maximiser", "expected"), [("amortized", 0.25), ("explicit", 0.3)])
def test_the_actor_learns_from_the_maximisers_of_the_last_k_iterations(maximiser: str, expected: float) -> None:
    """They are 0.1, 0.2 and 0.3 everywhere and K = 2: the least squared error of the last two is their mean.

    The explicit maximiser is asked in every iteration, so that its actor follows the last one.
    """
    fqi = quadratic(Quadratic([0.0, 0.0]), maximiser=maximiser, window=2, exact_points=32)
    layer = nn.Linear(2, 1, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    fqi.agent.policy = nn.Sequential(layer)
    vars(fqi)["optimizer"] = torch.optim.SGD([layer.bias], lr=0.25)
    batch = points(32)
    for best in (0.1, 0.2, 0.3):
        fqi.critic.constant = best  # type: ignore[assignment]
        fqi.iterate(batch, 200)
    torch.testing.assert_close(fqi.act(batch.now), torch.full((32, 1), expected).double(), rtol=0, atol=1e-6)


def test_the_window_goes_on_with_the_run() -> None:
    fqi, other = (quadratic(Quadratic([0.1, 0.2]), window=3) for _ in range(2))
    for _ in range(4):
        fqi.iterate(points(20), 1)
    other.restore(fqi.state())
    assert len(other.window) == 3
    for (s, best), (s_other, best_other) in zip(fqi.window, other.window):
        assert all(torch.equal(a, b) for a, b in ((s.z, s_other.z), (s.x, s_other.x), (best, best_other)))


def test_iterations_end_once_both_changes_are_below_the_tolerance() -> None:
    """The inequality of source 002 is the other way round and would end after the first."""
    assert converged(0.1, 0.2, 0.3)
    assert not converged(0.4, 0.2, 0.3)
    assert not converged(0.1, 0.4, 0.3)
    for tolerance, made in ((1e9, 1), (0.0, 7)):
        fqi = quadratic(Quadratic([0.1, 0.2]), iterations=7, tolerance=tolerance)
        fqi.agent.float()
        fqi.critic.weight = fqi.critic.weight.float()
        ends(fqi, torch.zeros(1, 3, 1), 2)
        assert len(list(fqi.improve(7))) == made


def test_nothing_is_searched_for_beyond_a_true_end() -> None:
    fqi = quadratic(Quadratic([0.1, 0.2]), maximiser="explicit")
    batch = points(10)
    batch.terminated[:4] = 1.0
    batch.after.z[:4] = torch.nan
    fqi.iterate(batch, 1)
    assert len(fqi.window[0][1]) == 6


def test_an_end_is_worth_its_reward_and_a_time_limit_is_no_end() -> None:
    """Every action is worth -3 (a - 0.5)^2; 0.5 and 0 follow."""
    fqi = quadratic(Quadratic([0.0, 0.0], constant=0.5))
    fqi.critic.weight = fqi.critic.weight.float()
    batch = ends(fqi, torch.zeros(1, 3, 1), 2)
    target = fqi.targets(batch, torch.tensor([[0.0], [0.5], [0.0]])).float()
    torch.testing.assert_close(target, torch.tensor([1.0, 2.0, 3.0 - GAMMA * 0.75]))
    target = fqi.targets(batch, torch.tensor([[0.0], [0.0], [0.5]])).float()
    torch.testing.assert_close(target, torch.tensor([1.0, 2.0 - GAMMA * 0.75, 3.0]))


def test_an_unknown_maximiser_is_refused() -> None:
    with pytest.raises(GanglionError, match="no maximiser 'luck'; expected one of explicit, amortized"):
        FQIOptions(maximiser="luck")
