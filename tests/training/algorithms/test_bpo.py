"""BPO: its imagined return by hand, and that it learns; its gradient is proved in `test_model_gradients`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from runtime.errors import GanglionError
from tests.training.algorithms.linear_world import GAMMA, experience, linear_agent, score, settings
from training.algorithms.bpo import BPO, BPOOptions

FAST = BPOOptions(depth=10, learning_rate=3e-3, outcome_learning_rate=3e-3)


def _make(head: str, options: BPOOptions = FAST) -> BPO:
    agent = linear_agent(head)
    algorithm = BPO(settings(options), agent)
    algorithm.buffer.add(experience(agent))
    return algorithm


def test_J_is_the_discounted_sum_of_imagined_rewards_until_the_end() -> None:
    algorithm = _make("deterministic")
    batch = algorithm.buffer.sample(50)
    z, total, alive = batch.now.z, torch.zeros(50), torch.ones(50)
    with torch.no_grad():
        for t in range(10):
            command = torch.tanh(algorithm.agent.policy(z))
            reward, logit = algorithm.dynamics.outcome(torch.cat((z, command), -1)).unbind(-1)
            total, alive = total + GAMMA**t * alive * (1 - GAMMA) * reward, alive * torch.sigmoid(logit)
            z = algorithm.agent.model.drive(z, command)
        torch.testing.assert_close(algorithm.objective(batch), total)


def test_the_gradient_is_clipped() -> None:
    algorithm = _make("deterministic")
    algorithm.ascend(1e6 * algorithm.objective(algorithm.buffer.sample(50)))
    norm = torch.cat([p.grad.flatten() for p in algorithm.agent.policy.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("head", ["deterministic", "categorical"])
def test_it_learns_to_hold_a_cart(head: str) -> None:
    """Without control it scores about 0, the best linear control .96."""
    algorithm = _make(head)
    assert score(algorithm.agent) < 0.1
    for _ in range(100):
        algorithm.learn(algorithm.buffer.sample(128))
    assert score(algorithm.agent) > 0.75


def test_exploration_stays_within_the_action_and_has_the_given_noise() -> None:
    algorithm = _make("deterministic")
    with torch.no_grad():
        list(algorithm.agent.policy.parameters())[-1].fill_(-3.0)
    now = algorithm.buffer.sample(4000).now
    tried = algorithm.try_out(now)
    assert tried.min().item() == -1.0
    inside = tried[tried > -1.0] - torch.tanh(torch.tensor(-3.0))
    assert inside.abs().mean().item() == pytest.approx(0.3 * (2 / torch.pi) ** 0.5, rel=0.1)


def test_a_policy_that_is_certain_still_tries_the_given_share_of_other_choices() -> None:
    """Of three choices, 0.3 at random: 0.8 are those of the policy, 0.1 each of the others."""
    algorithm = _make("categorical", replace(FAST, exploration_eps=0.3))
    with torch.no_grad():
        list(algorithm.agent.policy.parameters())[-1].copy_(torch.tensor([50.0, 0.0, 0.0]))
    now = algorithm.buffer.sample(9000).now
    assert (algorithm.try_out(now).bincount(minlength=3) / 9000).tolist() == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_a_depth_of_zero_is_told() -> None:
    with pytest.raises(GanglionError, match="depth is 0, expected a whole number of at least 1"):
        BPOOptions(depth=0)
