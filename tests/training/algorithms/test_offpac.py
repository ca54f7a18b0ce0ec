"""Actions resampled at replayed states: closed forms of the linear case in float64, and what must not matter."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.algorithms.tabular import (
    CHOICES,
    EXACT_STEP,
    GAMMA,
    STATES,
    Table,
    ends,
    make,
    one_hot,
    random_process,
)
from training.agent.distributions import Categorical, Gaussian
from training.agent.situation import Situation
from training.algorithms.offpac import OffPAC, score_loss
from training.replay_buffer import Batch

SIZE, ROWS = 3, 40
STD = 0.1


class Linear(nn.Module):
    """Critic q(s, a) = w^T (z, a)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(SIZE + 1, dtype=torch.float64))

    def q(self, s: Situation, action: Tensor) -> Tensor:
        return (torch.cat((s.z, action), -1) @ self.weight).unsqueeze(0)


def linear_case(**options: Any) -> OffPAC:
    """A linear critic and a policy N(theta^T s, 0.1^2), both by plain gradient descent."""
    offpac: OffPAC = make("offpac", "gaussian", SIZE, **{"tau": 1.0, "entropy": 0.0} | options)
    policy = nn.Linear(SIZE, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        policy.weight.copy_(torch.tensor([[0.3, -0.2, 0.1]]))
        offpac.agent.log_std.fill_(float(np.log(STD)))
    offpac.agent.policy = nn.Sequential(policy)
    critic, target = Linear(), Linear().requires_grad_(False)
    parts: dict[str, Any] = {
        "critics": critic,
        "target_critics": target,
        "critic_optimizer": torch.optim.SGD(critic.parameters(), lr=0.5),
        "optimizer": torch.optim.SGD([policy.weight, offpac.agent.log_std], lr=0.5),
    }
    vars(offpac).update(parts)
    return offpac


def theta(offpac: OffPAC) -> Tensor:
    layer = offpac.agent.policy[0]
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().clone()


def transitions(seed: int = 0) -> Batch:
    """Every one twice, for the two samples of its actions; what the behaviour did has nothing to do with the policy."""
    generator = torch.Generator().manual_seed(seed)
    s, after = 0.5 * torch.randn(2, ROWS, SIZE, generator=generator, dtype=torch.float64)
    action = 2 * torch.rand(ROWS, 1, generator=generator, dtype=torch.float64) - 1
    reward = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    ended = (torch.rand(ROWS, generator=generator) < 0.2).double()
    s, after, action = (v.repeat(2, 1) for v in (s, after, action))
    return Batch(Situation(s, s), action, reward.repeat(2), Situation(after, after), ended.repeat(2))


@pytest.fixture
def two_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples at mean - std and mean + std, half of the rows each: exact for what is cubic in the action."""

    def sample(distribution: Gaussian) -> Tensor:
        half = len(distribution.mean) // 2
        sign = torch.cat((torch.ones(half), -torch.ones(half))).double().unsqueeze(-1)
        return distribution.mean + distribution.std * sign

    monkeypatch.setattr(Gaussian, "sample", sample)


@pytest.mark.usefixtures("two_points")
def test_the_gradient_of_a_linear_q_is_w_s() -> None:
    """q = v^T s + w a and a ~ N(theta^T s, sigma^2): J = E[v^T s + w theta^T s].

    So grad_theta J = w E[s] and grad_sigma J = 0.
    """
    offpac, batch = linear_case(action_samples=1), transitions()
    weight = torch.tensor([2.0, -1.0, 0.5, 0.7], dtype=torch.float64)
    with torch.no_grad():
        offpac.critics.weight.copy_(weight)  # type: ignore[operator]
    before = theta(offpac)
    offpac.improve_policy(batch.now)
    step = 0.5 * weight[-1] * batch.now.z.mean(0, keepdim=True)
    torch.testing.assert_close(theta(offpac), before + step, rtol=0, atol=1e-12)
    torch.testing.assert_close(offpac.agent.log_std.exp().item(), STD, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("two_points")
def test_a_linear_critic_solves_the_projected_bellman_equation() -> None:
    """sum phi (phi - gamma (1 - d) phi')^T w = sum phi r, with the policy's action in phi' = (s', theta^T s')."""
    offpac, batch = linear_case(), transitions()
    for _ in range(1500):
        offpac.fit_critic(batch)
    phi = torch.cat((batch.now.z, batch.action), -1).numpy()
    mean = batch.after.z @ theta(offpac).mT
    following = torch.cat((batch.after.z, mean), -1).numpy() * (1 - batch.terminated.numpy())[:, None]
    expected = np.linalg.solve(phi.T @ (phi - GAMMA * following), phi.T @ batch.reward.numpy())
    found = offpac.critics.weight.detach().numpy()  # type: ignore[operator]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("two_points")
def test_one_step_of_a_linear_critic_by_hand() -> None:
    """w = 0 and so y = r: w <- 2 eta (1/N) sum phi r."""
    offpac, batch = linear_case(), transitions()
    offpac.fit_critic(batch)
    phi = torch.cat((batch.now.z, batch.action), -1)
    expected = 2 * 0.5 * phi.mT @ batch.reward / len(batch)
    torch.testing.assert_close(offpac.critics.weight.detach(), expected)  # type: ignore[operator]


def test_the_target_acts_anew_at_s_prime_and_the_update_at_s() -> None:
    """Of a policy without noise: y = r + gamma (1 - d) q(s', pi(s')), and no action of the buffer is in either."""
    offpac, batch = linear_case(), transitions()
    weight = torch.tensor([2.0, -1.0, 0.5, 0.7], dtype=torch.float64)
    with torch.no_grad():
        offpac.agent.log_std.fill_(-20.0)
        for critic in (offpac.critics, offpac.target_critics):
            critic.weight.copy_(weight)  # type: ignore[operator]
    acted = batch.after.z @ theta(offpac).mT
    value = torch.cat((batch.after.z, acted), -1) @ weight
    expected = batch.reward + GAMMA * (1 - batch.terminated) * value
    for given in (batch, replace(batch, action=-batch.action)):
        torch.testing.assert_close(offpac.targets(given), expected, rtol=0, atol=1e-7)


def test_the_update_evaluates_the_actions_that_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic is asked at (s_i, a_i) with a_i of pi(. | s_i), K times for every state."""
    offpac, batch = linear_case(action_samples=3), transitions()
    with torch.no_grad():
        offpac.agent.log_std.fill_(-20.0)
    asked: list[tuple[Situation, Tensor]] = []
    plain = Linear.q

    def q(self: Linear, s: Situation, action: Tensor) -> Tensor:
        asked.append((s, action))
        return plain(self, s, action)

    monkeypatch.setattr(Linear, "q", q)
    policy = theta(offpac)
    offpac.improve_policy(batch.now)
    ((s, action),) = asked
    torch.testing.assert_close(s.z, batch.now.z.repeat(3, 1))
    torch.testing.assert_close(action, s.z @ policy.mT, rtol=0, atol=1e-7)


def test_an_unbounded_action_counts_as_the_environment_takes_it() -> None:
    offpac, batch = linear_case(), transitions()
    with torch.no_grad():
        offpac.critics.weight[-1] = 1.0  # type: ignore[operator]
    far, bound = 5 * torch.ones_like(batch.action), torch.ones_like(batch.action)
    torch.testing.assert_close(offpac.q(offpac.critics, batch.now, far), offpac.q(offpac.critics, batch.now, bound))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_baseline_leaves_the_gradient_s_mean_as_it_is(count: int) -> None:
    """Over all K draws of three choices, each as likely as it is, it is grad sum_a pi(a) q(a)."""
    logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)
    policy = Categorical(logits)
    total = torch.zeros((), dtype=torch.float64)
    for drawn in itertools.product(range(3), repeat=count):
        actions = torch.tensor(drawn).unsqueeze(-1)
        log_prob = Categorical(logits.expand(count, 1, 3)).log_prob(actions)
        total = total + policy.log_probs.detach()[list(drawn)].sum().exp() * score_loss(log_prob, q[actions])
    (found,) = torch.autograd.grad(-total, logits)
    (expected,) = torch.autograd.grad((policy.log_probs.exp() * q).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_baseline_by_hand() -> None:
    """Values 1, 2 and 6: the others' means are 4, 3.5 and 1.5, the advantages -3, -1.5 and 4.5."""
    log_prob = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64, requires_grad=True)
    score_loss(log_prob, q).backward()
    assert log_prob.grad is not None
    torch.testing.assert_close(-3 * log_prob.grad.flatten(), torch.tensor([-3.0, -1.5, 4.5]).double())
    assert q.grad is None


def tabular(logits: Tensor) -> OffPAC:
    """A table of values, exact after one step on all transitions, of a policy that is a table of logits."""
    offpac: OffPAC = make("offpac", "categorical", tau=1.0, entropy=0.0)
    layer = nn.Linear(STATES, CHOICES, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(logits.mT)
    offpac.agent.policy = nn.Sequential(layer)
    critic, target = Table(), Table().requires_grad_(False)
    parts: dict[str, Any] = {
        "critics": critic,
        "target_critics": target,
        "critic_optimizer": torch.optim.SGD(critic.parameters(), lr=EXACT_STEP),
    }
    vars(offpac).update(parts)
    return offpac


def test_policy_iteration_on_a_table_ends_at_the_optimal_q() -> None:
    """The critic of a sure policy solves q = r + gamma P_pi q; its best choices make the next policy."""
    process = random_process(5)
    every = one_hot(torch.arange(STATES))
    policy = torch.zeros(STATES, dtype=torch.int64)
    for _ in range(CHOICES**STATES):
        offpac = tabular(1e3 * torch.nn.functional.one_hot(policy, CHOICES).double())
        for _ in range(120):
            offpac.fit_critic(process.batch())
        q = offpac.critics.choices(every)[0].detach()
        following = torch.cat((q[torch.arange(STATES), policy], torch.zeros(1).double()))
        torch.testing.assert_close(
            q, process.reward + GAMMA * following[process.successor].mean(-1), rtol=0, atol=1e-10
        )
        if torch.equal(q.argmax(-1), policy):
            break
        policy = q.argmax(-1)
    torch.testing.assert_close(q, process.optimal().q, rtol=0, atol=1e-10)


def test_an_end_is_worth_its_reward_and_a_time_limit_is_no_end() -> None:
    """Every state that follows is worth 5 times the sum of its numbers."""
    offpac = tabular(torch.zeros(STATES, CHOICES))
    offpac.agent.float()
    with torch.no_grad():
        table = offpac.target_critics.float().table
        assert isinstance(table, Tensor)
        table.fill_(5.0)
    batch = ends(offpac, torch.tensor([[0, 1, 2]]))
    worth = 5 * batch.after.z.sum(-1)
    expected = batch.reward + torch.stack((torch.zeros(()), GAMMA * worth[1], GAMMA * worth[2]))
    torch.testing.assert_close(offpac.targets(batch), expected)
    assert batch.reward.tolist() == [1.0, 2.0, 3.0]
