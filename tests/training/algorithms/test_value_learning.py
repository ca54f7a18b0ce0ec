"""The algorithms of fitted values learn what to do in every state of a problem whose best action is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.algorithms.tabular import CHOICES, make
from training.agent.situation import Situation
from training.rollout import Rollout

TICKS, SIZE = 1024, 2


def best_action(x: Tensor) -> Tensor:
    """In [-1, 1], for states x (..., SIZE)."""
    return 0.7 * x[..., 0] - 0.3 * x[..., 1]


def experience(discrete: bool) -> Rollout:
    """Random actions in states that stay; the reward is the less, the farther they are from the best one."""
    x = 2 * torch.rand(TICKS, 1, SIZE) - 1
    value = 2 * torch.rand(TICKS, 1, 1) - 1
    action = torch.randint(CHOICES, (TICKS, 1)) if discrete else value
    taken = torch.linspace(-1, 1, CHOICES)[action] if discrete else value.squeeze(-1)
    ones = torch.ones(TICKS, 1)
    reward = 1 - (taken - best_action(x)).square()
    s = Situation(x, x)
    return Rollout(x, value, ones, [], ones[0].long(), s, s, action, reward, 0 * ones, ones)


@pytest.mark.parametrize(
    ("name", "head", "options"),
    [
        ("dqn", "categorical", {"target_update_interval": 10, "gradient_steps": 0.5}),
        ("fqi", "categorical", {"maximiser": "explicit", "critic_learning_rate": 3e-3}),
        ("fqi", "deterministic", {"maximiser": "explicit", "critic_learning_rate": 3e-3}),
        ("fqi", "deterministic", {"maximiser": "amortized", "critic_learning_rate": 3e-3}),
    ],
)
def test_it_learns_the_best_action_of_every_state(name: str, head: str, options: dict[str, Any]) -> None:
    """A choice is right in nine states of ten, a continuous action within 0.2 of the best one on average."""
    common = {"learning_starts": 100, "learning_rate": 3e-3, "critic_hidden": 32}
    known = make(name, head, SIZE).options.__dataclass_fields__
    algorithm = make(name, head, SIZE, **{k: v for k, v in (common | options).items() if k in known})
    for part in vars(algorithm).values():
        if isinstance(part, nn.Module):
            part.float()
    for _ in range(3):
        logs = algorithm.update(experience(head == "categorical"))
    assert all(torch.isfinite(torch.tensor(v)) for v in logs.values())
    x = 2 * torch.rand(500, SIZE) - 1
    with torch.no_grad():
        found = algorithm.agent.act(x).squeeze(-1)
    best = best_action(x)
    if head == "categorical":
        assert ((found - best).abs() < 1.2 / (CHOICES - 1)).float().mean() > 0.9
    else:
        assert (found - best).abs().mean() < 0.2
