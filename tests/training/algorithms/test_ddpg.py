"""The deterministic policy gradient and the targets of DDPG."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
from training.algorithms.ddpg import policy_loss
from training.exploration import GaussianNoise, OrnsteinUhlenbeckNoise


def test_the_policy_gradient_is_grad_w_d_times_grad_a_q() -> None:
    """Autograd through the critic equals the chain rule with Jacobians of d and differences of q."""
    algorithm = make("ddpg")
    s, agent = make_batch(algorithm).now, algorithm.agent
    loss = policy_loss(algorithm.critics, agent, s)
    gradient = torch.autograd.grad(loss, list(agent.policy.parameters()))
    slope = action_slope(algorithm.critics, s, agent.act(s.z).detach())
    expected = explicit_policy_gradient(agent, s, slope)
    torch.testing.assert_close(-torch.cat([g.flatten() for g in gradient]), expected, rtol=1e-6, atol=1e-9)
    assert expected.abs().max() > 1e-3


def test_the_critic_descends_to_targets_of_the_target_networks() -> None:
    """E[(q(s, a) - r - gamma (1 - terminated) q'(s', d'(s')))^2], row by row; where it ended the target is r."""
    algorithm, other = make("ddpg"), make("ddpg")
    batch = make_batch(algorithm)
    with torch.no_grad():
        for p in (*algorithm.target_critics.parameters(), *algorithm.target_policy.parameters()):
            p.add_(0.1)
    total = 0.0
    for i in range(len(batch)):
        now, after = batch.now.rows(torch.tensor([i])), batch.after.rows(torch.tensor([i]))
        target = batch.reward[i]
        if batch.terminated[i] == 0:
            target = target + GAMMA * algorithm.target_critics.q(after, algorithm.target_action(after))[0, 0]
        total += (algorithm.critics.q(now, batch.action[i : i + 1])[0, 0] - target).item() ** 2
    assert algorithm.learn_critics(batch).item() == pytest.approx(total / len(batch), rel=1e-12)
    assert other.learn_critics(batch).item() != pytest.approx(total / len(batch), rel=1e-3)


def test_the_policy_step_leaves_the_critics_and_the_model_alone() -> None:
    algorithm = make("ddpg")
    batch, agent = make_batch(algorithm), algorithm.agent
    before, mine = weights(algorithm.critics, agent.model), weights(agent.policy)
    value = -policy_loss(algorithm.critics, agent, batch.now).item()
    algorithm.learn_policy(batch)
    assert torch.equal(weights(algorithm.critics, agent.model), before)
    assert not torch.equal(weights(agent.policy), mine)
    assert -policy_loss(algorithm.critics, agent, batch.now).item() > value, "it ascends q"
    assert all(p.grad is None for p in algorithm.critics.parameters())


def test_both_targets_follow_by_tau() -> None:
    algorithm = make("ddpg", tau=0.25)
    nets, targets = (algorithm.critics, algorithm.agent.policy), (algorithm.target_critics, algorithm.target_policy)
    before = weights(*targets)
    algorithm.learn(make_batch(algorithm))
    torch.testing.assert_close(weights(*targets), 0.75 * before + 0.25 * weights(*nets), rtol=1e-12, atol=1e-15)
    assert not torch.equal(weights(*targets), before)


@pytest.mark.parametrize(("kind", "noise"), [("normal", GaussianNoise), ("ornstein-uhlenbeck", OrnsteinUhlenbeckNoise)])
def test_noisy_actions_stay_within_their_bounds(kind: str, noise: type) -> None:
    algorithm = make("ddpg", noise_type=kind, noise_std=2.0)
    assert isinstance(algorithm.noise, noise)
    s = make_batch(algorithm, 200).now
    with torch.no_grad():
        tried, greedy = algorithm.try_out(s), algorithm.agent.act(s.z)
    assert tried.abs().max() == 1.0
    assert (tried - greedy).abs().mean() > 0.5


def test_ddpg_learns_to_balance(tmp_path: Path) -> None:
    before, after = episode_length(short_run("ddpg"), tmp_path)
    assert before < 60
    assert after > 2 * before
