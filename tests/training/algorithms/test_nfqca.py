"""The fits and the ascent of NFQCA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.algorithms.replayed import (
    GAMMA,
    action_slope,
    episode_length,
    explicit_policy_gradient,
    make,
    make_batch,
    short_run,
    weights,
)
from training.replay_buffer import Batch


class Everything:
    """In the place of a buffer: the same base points every time."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def at_most(self, size: int) -> Batch:
        assert len(self.batch) <= size
        return self.batch


def with_points(rows: int = 12, **options: Any) -> tuple[Any, Batch]:
    algorithm = make("nfqca", batch_size=rows, **options)
    algorithm.buffer = Everything(make_batch(algorithm, rows))
    return algorithm, algorithm.buffer.batch


def test_the_ascent_is_the_chain_rule_at_the_fitted_critic() -> None:
    """One plain step of size 1 on all base points moves w by E[grad_w d grad_a q(theta_{n+1})]."""
    algorithm, points = with_points(iterations=1)
    policy = algorithm.agent.policy
    algorithm.optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    before = weights(policy)
    steps = list(algorithm.improve(1))
    assert [list(step) for step in steps] == [["critic_loss"], ["actor_loss"]]
    moved = weights(policy) - before
    torch.nn.utils.vector_to_parameters(before, policy.parameters())
    action = algorithm.agent.act(points.now.z).detach()
    slope = action_slope(algorithm.critics, points.now, action)
    expected = explicit_policy_gradient(algorithm.agent, points.now, slope)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-9)
    assert moved.abs().max() > 1e-4


def test_targets_are_r_plus_gamma_q_of_the_policy_and_r_at_an_end() -> None:
    algorithm, points = with_points()
    with torch.no_grad():
        target = algorithm.target(points)
        for i in range(len(points)):
            after = points.after.rows(torch.tensor([i]))
            expected = points.reward[i].item()
            if points.terminated[i] == 0:
                expected += GAMMA * algorithm.critics.q(after, algorithm.agent.act(after.z))[0, 0].item()
            assert target[i].item() == pytest.approx(expected, rel=1e-12)


def test_targets_stay_during_a_fit_and_are_new_in_the_next_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, points = with_points(iterations=2)
    seen: list[Tensor] = []
    loss = algorithm.fit_loss

    def watched(s: Any, action: Tensor, target: Tensor) -> Any:
        seen.append(target.sort().values)  # minibatches of all points differ in their order alone
        return loss(s, action, target)

    monkeypatch.setattr(algorithm, "fit_loss", watched)
    first = algorithm.target(points).detach().sort().values
    assert sum("critic_loss" in step for step in algorithm.improve(10)) == 10
    assert all(torch.equal(target, first) for target in seen[:5])
    assert all(torch.equal(target, seen[5]) for target in seen[5:])
    assert not torch.equal(seen[5], first)


def test_a_fit_comes_close_to_its_targets() -> None:
    algorithm, points = with_points(iterations=1, critic_learning_rate=1e-2)
    target = algorithm.target(points).detach()
    losses = [step["critic_loss"].item() for step in algorithm.improve(400) if "critic_loss" in step]
    assert losses[-1] < 0.05 * losses[0]
    error = (algorithm.critics.q(points.now, points.action)[0] - target).square().mean().item()
    assert error < 0.05 * losses[0]


def test_base_points_are_drawn_once_there_are_more() -> None:
    algorithm = make("nfqca", base_points=8, iterations=1)
    drawn: list[int] = []

    class Many(Everything):
        def at_most(self, size: int) -> Batch:
            drawn.append(size)
            return make_batch(algorithm, size)

    algorithm.buffer = Many(make_batch(algorithm, 20))
    list(algorithm.improve(3))
    assert drawn == [8]


def test_nfqca_learns_to_balance(tmp_path: Path) -> None:
    before, after = episode_length(short_run("nfqca"), tmp_path)
    assert before < 60
    assert after > 2 * before
