"""y = r + gamma (1 - d) max_a q_target(s', a), on tables against value iteration in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from runtime.errors import GanglionError
from tests.training.algorithms.tabular import (
    CHOICES,
    EXACT_STEP,
    GAMMA,
    STATES,
    ends,
    make,
    one_hot,
    random_process,
)
from training.algorithms.dqn import DQN, epsilon, epsilon_greedy, value_of_best
from training.presets import preset

EVERY = torch.arange(STATES)


def tabular(interval: int, double_q: bool, step: float = 2 * EXACT_STEP) -> DQN:
    """The huber loss of small errors is half of the squared one, so the exact step is twice as long."""
    dqn: DQN = make("dqn", "categorical", target_update_interval=interval, double_q=double_q, huber=100.0)
    dqn.agent.policy = constant(0.0)
    dqn.target = constant(0.0).requires_grad_(False)
    vars(dqn)["optimizer"] = torch.optim.SGD(dqn.agent.policy.parameters(), lr=step)
    return dqn


def constant(value: float) -> nn.Sequential:
    """A table of one value, linear in one-hot states."""
    layer = nn.Linear(STATES, CHOICES, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, value)
    return nn.Sequential(layer)


def table(dqn: DQN) -> torch.Tensor:
    return dqn.agent.answer(one_hot(EVERY).z).detach()


@pytest.mark.parametrize("double_q", [False, True])
def test_a_table_is_value_iteration(double_q: bool) -> None:
    """With a step that fits the table and a target that follows at once, step by step."""
    process = random_process(0)
    dqn, batch, q = tabular(1, double_q), process.batch(), torch.zeros(STATES, CHOICES, dtype=torch.float64)
    for _ in range(20):
        dqn.updates += 1
        dqn.learn(batch)
        q = process.backup(q)
        torch.testing.assert_close(table(dqn), q, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("double_q", [False, True])
def test_one_hot_states_converge_to_the_optimal_q(seed: int, double_q: bool) -> None:
    """In short steps and with a target that is late."""
    process = random_process(seed)
    dqn, batch = tabular(7, double_q, 0.7 * EXACT_STEP), process.batch()
    for _ in range(1500):
        dqn.updates += 1
        dqn.learn(batch)
    optimal = process.optimal()
    torch.testing.assert_close(table(dqn), optimal.q, rtol=0, atol=1e-10)
    choices = torch.linspace(-1, 1, CHOICES)[optimal.q.argmax(-1)]
    torch.testing.assert_close(dqn.agent.act(one_hot(EVERY).z).squeeze(-1).float(), choices)


def test_the_target_stands_still_between_its_updates() -> None:
    process = random_process(4)
    dqn, batch = tabular(3, False), process.batch()
    seen = []
    for _ in range(6):
        dqn.updates += 1
        dqn.learn(batch)
        seen.append(table(dqn))
    first = process.backup(torch.zeros(STATES, CHOICES, dtype=torch.float64))
    for q, expected in zip(seen, [first] * 3 + [process.backup(first)] * 3):
        torch.testing.assert_close(q, expected, rtol=0, atol=1e-10)


def test_double_q_takes_the_value_of_the_other_s_choice_by_hand() -> None:
    target, chooser = torch.tensor([[5.0, 1.0], [2.0, 3.0]]), torch.tensor([[0.0, 9.0], [1.0, 2.0]])
    assert value_of_best(target, chooser).tolist() == [1.0, 3.0]
    assert value_of_best(target, target).tolist() == [5.0, 3.0]


def test_an_end_is_worth_its_reward_and_a_time_limit_is_no_end() -> None:
    """Every state that follows is worth 5 times the sum of its numbers."""
    dqn: DQN = make("dqn", "categorical")
    dqn.agent.policy = dqn.target = constant(5.0).float()
    batch = ends(dqn, torch.tensor([[0, 1, 2]]))
    worth = 5 * batch.after.z.sum(-1)
    expected = batch.reward + torch.stack((torch.zeros(()), GAMMA * worth[1], GAMMA * worth[2]))
    torch.testing.assert_close(dqn.targets(batch), expected)
    assert batch.reward.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.1, 0.55), (0.2, 0.1), (0.5, 0.1), (1.0, 0.1)])
def test_the_share_of_random_actions_falls_in_a_straight_line(progress: float, share: float) -> None:
    assert epsilon(progress, 0.2, 1.0, 0.1) == pytest.approx(share)


def test_no_fraction_is_no_random_start() -> None:
    assert epsilon(0.0, 0.0, 1.0, 0.1) == 0.1


@given(st.integers(0, 1000))
def test_without_random_actions_the_best_is_taken(seed: int) -> None:
    q = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed))
    assert epsilon_greedy(q, 0.0).tolist() == q.argmax(-1).tolist()


def test_random_actions_are_uniform() -> None:
    """Half of 30000 rows: the best of three choices in 1/2 + 1/6 of them, each other one in 1/6."""
    torch.manual_seed(1)
    q = torch.tensor([0.0, 2.0, 1.0]).expand(30_000, 3)
    shares = epsilon_greedy(q, 0.5).bincount(minlength=3) / 30_000
    torch.testing.assert_close(shares, torch.tensor([1 / 6, 2 / 3, 1 / 6]), rtol=0, atol=0.01)


def test_a_continuous_action_is_refused() -> None:
    with pytest.raises(GanglionError, match=r"dqn learns discrete actions, the action of the task 'cartpole' is cont"):
        preset("cartpole", "dqn")
