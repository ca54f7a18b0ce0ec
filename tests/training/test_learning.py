"""Estimators, the PPO objective, sensor failures and the model's loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sim.tasks import task_class
from training.algorithms.ppo import clipped_objective
from training.augment import SensorDropout, failure_units
from training.checkpoint import build_agent
from training.config import preset
from training.returns import gae
from training.world_model import filter_loss


def test_gae_by_hand() -> None:
    """gamma = 0.5, lambda = 0.5: delta = (1 + 1 - 1, 2 + 0 - 2, 3 + 4 - 4) with an episode's end after the second."""

    def column(*values: float) -> torch.Tensor:
        return torch.tensor(values).reshape(-1, 1)

    advantage = gae(column(1.0, 2.0, 3.0), column(1.0, 2.0, 4.0), column(0.0, 1.0, 0.0), torch.tensor([8.0]), 0.5, 0.5)
    assert advantage.flatten().tolist() == pytest.approx([1.0 + 0.25 * 0.0, 0.0, 3.0])


def test_gae_limits() -> None:
    """lambda = 0 gives delta, lambda = 1 gives the discounted return minus the value."""
    torch.manual_seed(0)
    reward, value = torch.randn(2, 6, 3, dtype=torch.float64)
    last, done, gamma = torch.randn(3, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.float64), 0.9
    following = torch.cat((value[1:], last[None]))
    torch.testing.assert_close(gae(reward, value, done, last, gamma, 0.0), reward + gamma * following - value)
    returns, running = torch.zeros_like(reward), last
    for t in reversed(range(6)):
        running = reward[t] + gamma * running
        returns[t] = running
    torch.testing.assert_close(gae(reward, value, done, last, gamma, 1.0), returns - value)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"), [(1.5, 1.0, 1.2), (1.5, -1.0, -1.5), (0.5, 1.0, 0.5), (0.5, -1.0, -0.8)]
)
def test_clipped_objective_corners(ratio: float, advantage: float, expected: float) -> None:
    assert clipped_objective(torch.tensor(ratio), torch.tensor(advantage), 0.2).item() == pytest.approx(expected)


def test_failure_units_of_the_arm() -> None:
    units = [u.tolist() for u in failure_units(task_class("kuka_reach").observations)]
    assert [0] in units
    assert [2, 9] in units, "an encoder is the position and the velocity of one joint"
    assert [14, 15, 16] in units, "the tracked end effector may vanish as a whole"
    assert not any(i >= 17 for u in units for i in u), "the required target never fails"


def test_dropout_spares_what_is_required_and_keeps_the_least_number() -> None:
    observations = task_class("kuka_reach").observations
    dropout = SensorDropout(observations, 200, np.random.default_rng(0))
    masks = np.stack([dropout.step() for _ in range(300)])
    assert masks[..., 17:].all()
    assert (masks[..., :7].sum(-1) >= 3).all()
    seen = masks[..., :17].mean((0, 2))
    assert (seen == 1.0).any(), "some episodes are clean"
    assert (seen < 0.9).any(), "some are not"
    disabled = SensorDropout(observations, 4, np.random.default_rng(0), enabled=False)
    assert disabled.step().all()


def test_filter_loss_is_finite_and_reaches_every_parameter() -> None:
    config = replace(preset("cartpole"), horizon=8, sequence=8)
    torch.manual_seed(0)
    agent = build_agent(config)
    t, b, z = 8, 5, agent.model.size
    mask = (torch.rand(t, b, 4) > 0.3).float()
    first = torch.zeros(t, b)
    first[3, 2] = 1.0
    terms = filter_loss(
        agent, torch.randn(t, b, 4), mask, torch.randn(t, b, 1), first, torch.randn(b, z), torch.tensor([0, 1, 2, 4, 8])
    )
    torch.stack(list(terms.values())).sum().backward()
    unused = [
        n for n, p in agent.named_parameters() if p.grad is None and not n.startswith(("policy", "critic", "log_std"))
    ]
    assert unused == []
    assert all(torch.isfinite(v) for v in terms.values())


def test_filter_forgets_at_the_start_of_an_episode() -> None:
    agent = build_agent(preset("cartpole"))
    shape = (1, 3, 4)
    x, mask, action = torch.randn(shape), torch.ones(shape), torch.zeros(1, 3, 1)
    steps = torch.zeros(3, dtype=torch.int64)
    fresh, stale = torch.zeros(3, agent.model.size), torch.randn(3, agent.model.size)
    losses = [
        filter_loss(agent, x, mask, action, torch.ones(1, 3), z, steps)["reconstruction"].item() for z in (fresh, stale)
    ]
    assert losses[0] == losses[1]
