"""SVG(n): its limits, whose noise it replays, what an end hides, and that every way of it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from runtime.errors import GanglionError
from tests.training.algorithms.linear_world import GAMMA, experience, linear_agent, score, settings
from training.algorithms.bpo import BPO, BPOOptions
from training.algorithms.svg import SVG, SVGOptions
from training.replay_buffer import Batch

FAST = SVGOptions(depth=3, learning_rate=3e-3, critic_learning_rate=3e-3, outcome_learning_rate=3e-3)


def _make(head: str, options: SVGOptions) -> tuple[SVG, Batch]:
    agent = linear_agent(head)
    algorithm = SVG(settings(options), agent)
    algorithm.buffer.add(experience(agent))
    return algorithm, algorithm.buffer.sample(256)


def _gradient(algorithm: SVG | BPO, batch: Batch) -> list[Tensor]:
    torch.manual_seed(3)
    parameters = list(algorithm.agent.policy.parameters())
    return list(torch.autograd.grad(algorithm.objective(batch).mean(), parameters))


def _visible_policy(algorithm: SVG | BPO) -> None:
    """As if learned a little: at the start its answer hardly depends on the state."""
    torch.manual_seed(4)
    for parameter in algorithm.agent.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def test_with_n_0_it_is_SVG_0_dQ_da_times_da_dw_at_sampled_actions() -> None:
    algorithm, batch = _make("squashed", replace(FAST, depth=0))
    _visible_policy(algorithm)
    gradient = _gradient(algorithm, batch)
    torch.manual_seed(3)
    action = algorithm.agent.distribution(batch.now.z).sample()
    fixed = action.detach().requires_grad_()
    (by_action,) = torch.autograd.grad(algorithm.critic.q(batch.now, fixed).mean(), fixed)
    explicit = torch.autograd.grad((by_action * action).sum(), list(algorithm.agent.policy.parameters()))
    for ours, right in zip(gradient, explicit):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-7)
    assert max(g.abs().max().item() for g in gradient) > 1e-4


def test_with_n_0_and_sigma_0_it_is_the_deterministic_policy_gradient() -> None:
    algorithm, batch = _make("deterministic", replace(FAST, depth=0))
    _visible_policy(algorithm)
    with torch.no_grad():
        algorithm.agent.log_std.fill_(-torch.inf)
    dpg = algorithm.critic.q(batch.now, algorithm.agent.act(batch.now.z)).mean()
    right = torch.autograd.grad(dpg, list(algorithm.agent.policy.parameters()))
    for ours, expected in zip(_gradient(algorithm, batch), right):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


def test_SVG_infinity_without_noise_is_BPO() -> None:
    algorithm, batch = _make("deterministic", replace(FAST, depth=12, critic=False))
    _visible_policy(algorithm)
    with torch.no_grad():
        algorithm.agent.log_std.fill_(-torch.inf)
        batch.after.z.copy_(algorithm.dynamics.mean(batch.now.z, batch.action))
        batch.terminated.zero_()
    bpo = BPO(settings(BPOOptions(depth=12)), algorithm.agent)
    bpo.dynamics.outcome.load_state_dict(algorithm.dynamics.outcome.state_dict())
    for ours, expected in zip(_gradient(algorithm, batch), _gradient(bpo, batch)):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
        assert expected.abs().max() > 0


def test_the_first_imagined_tick_has_the_noise_of_the_recorded_one() -> None:
    algorithm, batch = _make("squashed", FAST)
    step = algorithm.steps(batch)
    lives = batch.terminated == 0
    assert 0 < lives.sum() < len(batch)
    first = step(batch.now, batch.action, 0)[0].z
    torch.testing.assert_close(first[lives], batch.after.z[lives], rtol=0, atol=1e-5)
    later = step(batch.now, batch.action, 1)[0].z
    assert not torch.allclose(later[lives], batch.after.z[lives], atol=1e-2)


@pytest.mark.parametrize("head", ["squashed", "categorical"])
def test_the_critic_learns_r_plus_gamma_Q_of_the_target_and_r_alone_at_an_end(head: str) -> None:
    algorithm, batch = _make(head, replace(FAST, depth=0))
    torch.manual_seed(5)
    loss = algorithm.learn_policy(batch)["critic_loss"]
    fresh, _ = _make(head, replace(FAST, depth=0))  # the same networks, before they learned
    torch.manual_seed(5)
    with torch.no_grad():
        policy = fresh.agent.distribution(batch.after.z)
        if head == "categorical":
            probability = torch.softmax(fresh.agent.answer(batch.after.z), -1)
            following = (probability * fresh.critic.choices(batch.after)[0]).sum(-1)
            q = fresh.critic.choices(batch.now)[0][torch.arange(len(batch)), batch.action]
        else:
            following = fresh.critic.q(batch.after, policy.sample())[0]
            q = fresh.critic.q(batch.now, batch.action)[0]
        target = torch.where(batch.terminated > 0, batch.reward, batch.reward + GAMMA * following)
    assert loss.item() == pytest.approx((q - target).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("head", ["squashed", "categorical"])
def test_what_follows_an_end_changes_nothing(head: str) -> None:
    learned = []
    for nonsense in (1e3, -5.0):
        algorithm, batch = _make(head, FAST)
        ended = batch.terminated > 0
        assert ended.any()
        for part in (batch.after.z, batch.after.x):
            part[ended] = nonsense
        torch.manual_seed(6)
        algorithm.learn(batch)
        learned.append([*algorithm.agent.policy.parameters(), *algorithm.critic.parameters()])
    for one, other in zip(*learned):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("head", "options", "steps"),
    [
        ("squashed", FAST, 120),
        ("squashed", replace(FAST, depth=0), 250),
        ("squashed", replace(FAST, depth=12, critic=False), 150),
        ("squashed", replace(FAST, depth=1, estimator="score"), 200),
        ("categorical", FAST, 200),
        ("categorical", replace(FAST, estimator="score"), 200),
    ],
    ids=["SVG(3)", "SVG(0)", "SVG(infinity)", "DPMB-SF", "Gumbel-softmax", "score function of choices"],
)
def test_it_learns_to_hold_a_cart(head: str, options: SVGOptions, steps: int) -> None:
    """Without control it scores about 0, the best linear control .96."""
    algorithm, _ = _make(head, options)
    assert score(algorithm.agent) < 0.1
    for _ in range(steps):
        algorithm.learn(algorithm.buffer.sample(128))
    assert score(algorithm.agent) > 0.75


def test_the_checkpoint_continues_critics_and_what_imagination_learned() -> None:
    algorithm, batch = _make("squashed", FAST)
    algorithm.learn(batch)
    other = SVG(settings(FAST), algorithm.agent)
    other.restore(algorithm.state())
    for part in ("critic", "critic_target", "outcome"):
        for name, value in algorithm.parts[part].state_dict().items():
            assert torch.equal(other.parts[part].state_dict()[name], value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"estimator": "exact"}, "expected one of reparameterised, score"),
        ({"depth": -1}, "depth is -1, expected a whole number of at least 0"),
        ({"depth": 0, "critic": False}, "expected at least 1 imagined tick"),
        ({"estimator": "score", "critic": False}, "needs the critic"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a number above 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
    ],
)
def test_wrong_settings_are_told(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        replace(SVGOptions(), **wrong)  # type: ignore[arg-type]
