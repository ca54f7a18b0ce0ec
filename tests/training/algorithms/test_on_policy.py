"""What the on-policy algorithms share, on the agents of the cart-pole tasks in float64."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from runtime.errors import GanglionError
from tests.training.algorithms.rollouts import TASKS, learner, of_worker, plain, random_rollout
from training.algorithms.on_policy import (
    AdvantageOptions,
    Critic,
    estimated_advantage,
    explained_variance,
    make_batch,
    normalised,
    policy_parameters,
    pseudo_loss,
    value_loss,
)
from training.returns import gae, td_error, truncated_gae

ON_POLICY = ("reinforce", "vpg", "a2c", "npg", "trpo", "ppo")
GAMMA = 0.9


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("task", TASKS)
def test_advantages_by_name(task: str) -> None:
    """n_step with one step is TD(0), which is gae with lambda = 0; truncated is its namesake."""
    agent = learner(plain(task, "a2c")).agent
    rollout = random_rollout(agent)
    with torch.no_grad():
        value, following = agent.value(*rollout.now), agent.value(*rollout.after)
    known = (rollout.reward, value, following, rollout.terminated)

    def found(**options: Any) -> Tensor:
        return estimated_advantage(rollout, value, following, AdvantageOptions(**options), GAMMA)

    delta = td_error(*known, GAMMA)
    torch.testing.assert_close(found(advantage="n_step", n_steps=1), delta)
    torch.testing.assert_close(found(gae_lambda=0.0), delta)
    torch.testing.assert_close(found(gae_lambda=0.8), gae(*known, rollout.done, GAMMA, 0.8))
    expected = truncated_gae(*known, rollout.done, GAMMA, 0.8, 3)
    torch.testing.assert_close(found(advantage="truncated", gae_lambda=0.8, n_steps=3), expected)


def test_an_unknown_advantage_is_refused() -> None:
    with pytest.raises(GanglionError, match=r"no advantage 'td'; expected one of gae, truncated, n_step"):
        AdvantageOptions(advantage="td")
    with pytest.raises(GanglionError, match=r"gae_lambda is 1\.5"):
        AdvantageOptions(gae_lambda=1.5)


@pytest.mark.parametrize("task", TASKS)
def test_the_critic_regresses_to_a_plus_v_old_and_not_to_v_old(task: str) -> None:
    """The gradient of E[(V - (A + V_old))^2] is -2 E[A grad V]; for the target V_old alone it would be zero."""
    algorithm = learner(plain(task, "a2c"))
    agent, parameters = algorithm.agent, list(algorithm.agent.critic.parameters())
    rollout, options = random_rollout(agent), AdvantageOptions()
    batch = make_batch(agent, rollout, options, GAMMA)
    with torch.no_grad():
        value, following = agent.value(*rollout.now), agent.value(*rollout.after)
    advantage = estimated_advantage(rollout, value, following, options, GAMMA).flatten()
    torch.testing.assert_close(batch.target, advantage + value.flatten())
    found = flat(torch.autograd.grad(value_loss(agent, batch), parameters))
    pulled = (advantage * agent.value(*batch.now)).mean()
    torch.testing.assert_close(found, -2 * flat(torch.autograd.grad(pulled, parameters)))
    assert found.norm() > 0.01
    stale = value_loss(agent, batch._replace(target=batch.value))
    assert flat(torch.autograd.grad(stale, parameters)).abs().max().item() == 0.0


def test_the_critic_fits_its_targets() -> None:
    algorithm = learner(plain("cartpole", "vpg"))
    batch = make_batch(algorithm.agent, random_rollout(algorithm.agent), AdvantageOptions(), GAMMA)
    critic = Critic(algorithm.agent, 1e-2)
    first = critic.fit(batch, 1, 1)
    assert critic.fit(batch, 100, 2) < first
    assert critic.fit(batch, 1, 1) < 0.3 * first


@pytest.mark.parametrize("task", TASKS)
def test_n_workers_are_a_batch_of_n(task: str) -> None:
    """A2C: the gradient of the batch is the mean of the gradients that the workers find alone."""
    algorithm = learner(plain(task, "a2c"))
    agent, rollout, options = algorithm.agent, random_rollout(algorithm.agent), AdvantageOptions(gae_lambda=0.7)
    parameters = [*policy_parameters(agent), *agent.critic.parameters()]

    def gradient(part: Any) -> Tensor:
        batch = make_batch(agent, part, options, GAMMA)
        advantage = batch.target - batch.value  # before it is normalised, which is over the batch
        log_prob = agent.distribution(batch.now.z).log_prob(batch.action)
        loss = pseudo_loss(log_prob, advantage) + value_loss(agent, batch)
        return flat(torch.autograd.grad(loss, parameters))

    workers = torch.stack([gradient(of_worker(rollout, i)) for i in range(4)])
    torch.testing.assert_close(gradient(rollout), workers.mean(0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_a2c_with_lambda_0_is_the_actor_critic_of_td_0(task: str) -> None:
    """Tick by tick: delta_t grad log pi(a_t|s_t) for the actor, delta_t grad V(s_t) for the critic, summed by hand."""
    agent = learner(plain(task, "a2c")).agent
    rollout = random_rollout(agent, 3, 2)
    batch = make_batch(agent, rollout, AdvantageOptions(gae_lambda=0.0), GAMMA)
    delta = batch.target - batch.value
    actor, critic = policy_parameters(agent), list(agent.critic.parameters())
    log_prob = agent.distribution(batch.now.z).log_prob(batch.action)
    value = agent.value(*batch.now)
    by_hand = [
        torch.stack([flat(torch.autograd.grad(y, p, retain_graph=True)) * d for y, d in zip(out, delta)]).mean(0)
        for out, p in ((log_prob, actor), (value, critic))
    ]
    torch.testing.assert_close(-flat(torch.autograd.grad(pseudo_loss(log_prob, delta), actor)), by_hand[0])
    squares = value_loss(agent, batch)
    torch.testing.assert_close(-0.5 * flat(torch.autograd.grad(squares, critic)), by_hand[1])


def test_normalised_and_explained_variance() -> None:
    scaled = normalised(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    assert scaled.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert scaled.std().item() == pytest.approx(1.0, abs=1e-6)
    agent = learner(plain("cartpole", "a2c")).agent
    batch = make_batch(agent, random_rollout(agent), AdvantageOptions(), GAMMA)
    mean = batch.target.mean().expand(len(batch.target))
    assert explained_variance(batch._replace(value=batch.target)) == pytest.approx(1.0)
    assert explained_variance(batch._replace(value=mean)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("algo", ON_POLICY)
def test_an_update_is_finite_reports_and_continues_from_its_state(algo: str, task: str) -> None:
    """Two updates in a row are one, and another of a new instance with the agent's weights and the saved state."""
    config = plain(task, algo)
    one, two = learner(config), learner(config)
    rollout = random_rollout(one.agent)
    logs = one.update(rollout)
    assert all(torch.isfinite(torch.tensor(v)) for v in logs.values())
    assert {"train/policy_loss", "train/entropy"} <= set(logs)
    if algo != "reinforce":
        assert {"train/value_loss", "train/explained_variance", "train/approx_kl"} <= set(logs)
        assert ("train/std" in logs) == (task == "cartpole")
    two.agent.load_state_dict(one.agent.state_dict())
    two.restore(deepcopy(one.state()))
    for each in (one, two):
        torch.manual_seed(3)
        each.update(rollout)
    assert all(torch.equal(a, b) for a, b in zip(one.agent.parameters(), two.agent.parameters()))
    fresh = learner(config).agent
    assert any(not torch.equal(a, b) for a, b in zip(one.agent.policy.parameters(), fresh.policy.parameters()))
