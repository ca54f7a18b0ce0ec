"""Scores of single ticks, and which ticks REINFORCE learns from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.algorithms.rollouts import TASKS, learner, plain, random_rollout
from training.algorithms.on_policy import policy_parameters
from training.algorithms.reinforce import squared_scores
from training.presets import preset


@pytest.mark.parametrize("task", TASKS)
def test_squared_scores_are_those_of_each_tick_alone(task: str) -> None:
    agent = learner(plain(task, "reinforce")).agent
    rollout = random_rollout(agent, 3, 2)
    situation, action = rollout.now.flat(), rollout.action.flatten(0, 1)
    found = squared_scores(agent, situation, action)
    for i in range(6):
        log_prob = agent.distribution(situation.z[i : i + 1]).log_prob(action[i : i + 1]).sum()
        gradients = torch.autograd.grad(log_prob, policy_parameters(agent))
        assert found[i].item() == pytest.approx(sum(g.square().sum().item() for g in gradients), rel=1e-10)


def test_ticks_whose_return_is_cut_are_not_learned_from() -> None:
    """gamma = 0.5: the discount is below a tenth after four ticks, so the last four of twelve change nothing."""
    config = replace(plain("cartpole", "reinforce"), gamma=0.5)
    rollout = random_rollout(learner(config).agent)
    weights = []
    for ticks in (0, 4, 5):
        action = rollout.action.clone()
        action[len(action) - ticks :] += 1.0
        algorithm = learner(config)
        algorithm.update(replace(rollout, action=action))
        weights.append(torch.cat([p.detach().flatten() for p in algorithm.agent.policy.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("to_go", [True, False])
def test_a_reward_that_never_changes_teaches_nothing(to_go: bool) -> None:
    """Though time limits and the end of the rollout cut the returns at many lengths."""
    config = replace(plain("cartpole", "reinforce", reward_to_go=to_go), gamma=0.9)
    algorithm = learner(config)
    rollout = random_rollout(algorithm.agent, ticks=40)
    limits = torch.zeros_like(rollout.done)
    limits[3::7, 1] = limits[5::11, 2] = 1.0
    steady = replace(rollout, reward=torch.ones_like(rollout.reward), terminated=0 * limits, done=limits)
    logs = algorithm.update(steady)
    assert logs["train/policy_loss"] == pytest.approx(0.0, abs=1e-6)
    assert logs["train/return"] > 1.0


def test_three_quarters_of_a_rollout_are_known_by_default() -> None:
    """gamma = 0.99: 0.99^230 < 0.1, so 928 ticks, the next multiple of the sequences' 16 above 4 times 230."""
    config = preset("cartpole", "reinforce")
    assert config.horizon == 928
    assert config.horizon % config.sequence == 0


@pytest.mark.parametrize("to_go", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_weights_log_probabilities_by_returns_summed_by_hand(task: str, to_go: bool) -> None:
    """gamma = 0.5, the first eight of twelve ticks; returns are summed to the end of the episode or of the rollout,
    from the tick, or from where its episode is first seen, and stay as large as they are."""
    config = replace(plain(task, "reinforce", baseline=False, reward_to_go=to_go), gamma=0.5)
    algorithm = learner(config)
    rollout = random_rollout(algorithm.agent)
    returns = torch.zeros(8, 4).double()
    for t in range(8):
        for i in range(4):
            ends = [k for k in range(12) if rollout.done[k, i]]
            begin = t if to_go else max([k + 1 for k in ends if k < t], default=0)
            last = min([k for k in ends if k >= t], default=11)
            returns[t, i] = sum(0.5 ** (k - begin) * rollout.reward[k, i] for k in range(begin, last + 1))
    log_prob = algorithm.agent.distribution(rollout.now.z).log_prob(rollout.action)[:8]
    expected = -(log_prob * returns).mean()
    logs = algorithm.update(rollout)
    assert logs["train/policy_loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert logs["train/return"] == pytest.approx(returns.mean().item(), rel=1e-9)
