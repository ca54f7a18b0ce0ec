"""The three changes that make DDPG TD3."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.algorithms.replayed import GAMMA, episode_length, make, make_batch, short_run, weights
from training.algorithms.td3 import smoothed


def test_equal_twins_without_noise_and_delay_are_ddpg() -> None:
    """The same weights after 20 updates, of the policy, both critics and every target."""
    rates = {"learning_rate": 3e-4, "critic_learning_rate": 3e-4, "tau": 0.005}
    ddpg = make("ddpg", **rates)
    td3 = make("td3", policy_delay=1, target_policy_noise=0.0, **rates)
    td3.agent.load_state_dict(ddpg.agent.state_dict())
    td3.target_policy.load_state_dict(ddpg.target_policy.state_dict())
    with torch.no_grad():
        for twins, one in ((td3.critics, ddpg.critics), (td3.target_critics, ddpg.target_critics)):
            for both, single in zip(twins.parameters(), one.parameters()):
                both.copy_(single.expand_as(both))
    start = weights(ddpg.agent.policy)
    for seed in range(20):
        for algorithm in (ddpg, td3):
            algorithm.updates += 1
            algorithm.learn(make_batch(ddpg, seed=seed))
    torch.testing.assert_close(weights(td3.agent.policy), weights(ddpg.agent.policy), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weights(td3.target_policy), weights(ddpg.target_policy), rtol=1e-10, atol=1e-12)
    for twins, one in ((td3.critics, ddpg.critics), (td3.target_critics, ddpg.target_critics)):
        for both, single in zip(twins.parameters(), one.parameters()):
            torch.testing.assert_close(both, single.expand_as(both), rtol=1e-10, atol=1e-12)
    assert not torch.equal(weights(ddpg.agent.policy), start)


def test_noise_is_clipped_first_and_the_action_after_it() -> None:
    """c = 0.5: 0.9 + 0.3 -> 1, -0.9 + 0.7 -> -0.4 (not -0.2), 0.9 - 2 -> 0.4 (not -1), -0.8 - 0.7 -> -1."""
    action, noise = torch.tensor([0.9, -0.9, 0.9, -0.8]), torch.tensor([0.3, 0.7, -2.0, -0.7])
    assert smoothed(action, noise, 0.5).tolist() == pytest.approx([1.0, -0.4, 0.4, -1.0])


def test_the_target_action_is_smoothed() -> None:
    algorithm = make("td3", target_policy_noise=0.2, target_noise_clip=0.1)
    s = make_batch(algorithm, 500).after
    bare = torch.tanh(algorithm.target_policy(algorithm.agent.features(s.z)))
    with torch.no_grad():
        off = algorithm.target_action(s) - bare
    assert off.abs().max() <= 0.1 + 1e-12
    inside = off[bare.abs() < 0.8].abs()
    assert (inside > 0.1 - 1e-9).double().mean() == pytest.approx(0.617, abs=0.12), "2 (1 - Phi(1/2)) are clipped"


def test_the_target_is_made_of_the_least_of_the_twins() -> None:
    algorithm = make("td3", target_policy_noise=0.0)
    batch = make_batch(algorithm, 30)
    with torch.no_grad():
        q1, q2 = algorithm.target_critics.q(batch.after, algorithm.target_action(batch.after))
        assert 0 < (q1 < q2).sum() < 30, "each of them is the least somewhere"
        target = batch.reward + GAMMA * (1 - batch.terminated) * torch.where(q1 < q2, q1, q2)
        mine = algorithm.critics.q(batch.now, batch.action)
        expected = sum((q - target).square().mean() for q in mine)
    torch.testing.assert_close(algorithm.learn_critics(batch), expected, rtol=1e-12, atol=0)


def test_policy_and_targets_move_in_every_third_step_alone() -> None:
    algorithm = make("td3", policy_delay=3)
    slow = (algorithm.agent.policy, algorithm.target_policy, algorithm.target_critics)
    moved = []
    for step in range(1, 7):
        before, critics = weights(*slow), weights(algorithm.critics)
        algorithm.updates = step
        losses = algorithm.learn(make_batch(algorithm, seed=step))
        moved.append(not torch.equal(weights(*slow), before))
        assert ("actor_loss" in losses) == moved[-1]
        assert not torch.equal(weights(algorithm.critics), critics)
    assert moved == [False, False, True, False, False, True]


def test_td3_learns_to_balance(tmp_path: Path) -> None:
    before, after = episode_length(short_run("td3"), tmp_path)
    assert before < 60
    assert after > 2 * before
