"""Soft values, the actor's descent and the temperature of SAC."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.algorithms.replayed import (
    GAMMA,
    action_slope,
    episode_length,
    explicit_policy_gradient,
    level,
    make,
    make_batch,
    short_run,
    weights,
)
from training import compiling
from training.agent.distributions import Gaussian
from training.agent.situation import Situation
from training.algorithms.sac import soft_value, temperature_loss
from training.gradient_step import AdamState
from training.replay_buffer import Batch

C, BETA, BEST = 2.0, 0.5, 0.3
"""q(a) = -c (a - a*)^2 / 2."""


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


def test_the_soft_value_of_a_quadratic_is_0_1129() -> None:
    """v = beta log of the integral of exp(q / beta) = (beta / 2) log(2 pi beta / c)."""
    a = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    q = -C * (a - BEST) ** 2 / 2
    value = BETA * math.log(torch.trapezoid((q / BETA).exp(), a).item())
    assert value == pytest.approx(BETA / 2 * math.log(2 * math.pi * BETA / C), rel=1e-9)
    assert value == pytest.approx(0.1129, abs=5e-5)


def test_annealed_step_sizes_fall_in_a_straight_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's first step is as long as its step size: half-way through the run half as long, at its end nothing."""
    moved = []
    for progress in (0.0, 0.5, 1.0):
        algorithm = make("sac", anneal=True, learning_rate=2e-3)
        monkeypatch.setattr(type(algorithm), "progress", progress)
        before = weights(algorithm.agent.policy)
        algorithm.learn(make_batch(algorithm))
        moved.append((weights(algorithm.agent.policy) - before).abs().max().item())
        assert algorithm.learning_rate == 2e-3 * (1 - progress)
    assert moved == pytest.approx([2e-3, 1e-3, 0.0], rel=1e-3)


def test_under_the_optimal_gaussian_every_action_has_the_soft_value() -> None:
    """pi = N(a*, beta / c): q(a) - beta log pi(a) = v for every a, and any other Gaussian has less on average."""
    value, beta = BETA / 2 * math.log(2 * math.pi * BETA / C), torch.tensor(BETA, dtype=torch.float64)
    torch.manual_seed(0)

    def values(mean: float, std: float, rows: int) -> torch.Tensor:
        policy = Gaussian(*(torch.full((rows, 1), v, dtype=torch.float64) for v in (mean, std)))
        action = policy.sample()
        q = -C * (action.squeeze(-1) - BEST).square() / 2
        return soft_value(torch.stack((q, q + 1)), policy.log_prob(action), beta)

    best = values(BEST, math.sqrt(BETA / C), 1000)
    torch.testing.assert_close(best, torch.full_like(best, value), rtol=1e-12, atol=1e-12)
    for mean, std in ((BEST + 0.2, 0.5), (BEST, 0.3), (BEST, 0.8)):
        # the shortfall is beta times KL(N(mean, std^2) || N(a*, 1/4))
        kl = math.log(0.5 / std) + (std**2 + (mean - BEST) ** 2) / 0.5 - 0.5
        assert values(mean, std, 50_000).mean().item() == pytest.approx(value - BETA * kl, abs=0.015)


def test_descending_the_actor_loss_finds_the_optimal_gaussian() -> None:
    """From N(-1, 1.5^2) to N(a*, beta / c) = N(0.3, 0.5^2)."""
    torch.manual_seed(0)
    mean, log_std = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (-1.0, math.log(1.5)))
    optimizer = torch.optim.Adam([mean, log_std], lr=0.06)
    beta = torch.tensor(BETA, dtype=torch.float64)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.06 * (1 - step / 200)
        policy = Gaussian(mean.expand(256, 1), log_std.exp().expand(256, 1))
        action = policy.sample()
        q = -C * (action.squeeze(-1) - BEST).square() / 2
        optimizer.zero_grad()
        (-soft_value(q.unsqueeze(0), policy.log_prob(action), beta).mean()).backward()
        optimizer.step()
    assert mean.item() == pytest.approx(BEST, abs=0.02)
    assert log_std.exp().item() == pytest.approx(math.sqrt(BETA / C), abs=0.02)


def actor_gradient(algorithm: Any, s: Any, alpha: float) -> torch.Tensor:
    """Of the loss that the actor descends, as `learn` makes it."""
    action, log_prob = algorithm.draw(s)
    loss = -soft_value(algorithm.critics.q(s, action), log_prob, torch.tensor(alpha, dtype=torch.float64)).mean()
    gradient = torch.autograd.grad(loss, list(algorithm.agent.policy.parameters()))
    return torch.cat([g.flatten() for g in gradient])


def test_without_temperature_and_noise_it_is_the_deterministic_policy_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """alpha -> 0 on equal twins: what is left of the difference is alpha times a fixed vector."""
    algorithm = make("sac")
    s, agent = make_batch(algorithm).now, algorithm.agent
    with torch.no_grad():
        for both in algorithm.critics.parameters():
            both[1] = both[0]
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    slope = action_slope(algorithm.critics, s, agent.act(s.z).detach())
    ascent = explicit_policy_gradient(agent, s, slope)
    torch.testing.assert_close(-actor_gradient(algorithm, s, 0.0), ascent, rtol=1e-6, atol=1e-9)
    off = [actor_gradient(algorithm, s, alpha) - actor_gradient(algorithm, s, 0.0) for alpha in (1e-2, 1e-5)]
    torch.testing.assert_close(off[1] * 1e3, off[0], rtol=1e-6, atol=1e-10)
    assert off[0].abs().max() > 1e-4


def test_drawn_actions_carry_the_correction_of_the_tanh() -> None:
    """log pi(a) = log N(atanh a) - log(1 - a^2): the density that `draw` reports integrates to one over (-1, 1)."""
    algorithm = make("sac")
    s = make_batch(algorithm, 5).now
    with torch.no_grad():
        action, log_prob = algorithm.draw(s)
        mean, log_std = algorithm.agent.answer(s.z).chunk(2, -1)
        u = torch.atanh(action)
        normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
        torch.testing.assert_close(log_prob, (normal - torch.log1p(-action * action)).sum(-1), rtol=1e-8, atol=1e-8)
        grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64).tanh()[1:-1].expand(5, -1)
        density = algorithm.agent.distribution(s.z[:, None]).log_prob(grid.unsqueeze(-1)).exp()
    inside = grid[0].abs() < 1 - 1e-6
    total = torch.trapezoid(density[:, inside], grid[:, inside])
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-3)


def plain_step(state: AdamState, loss: torch.Tensor) -> None:
    """0.1 times the gradient."""
    gradients = torch.autograd.grad(loss, state.parameters)
    with torch.no_grad():
        for parameter, gradient in zip(state.parameters, gradients, strict=True):
            parameter -= 0.1 * gradient


def test_an_update_is_that_of_the_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    """y = r + gamma (1 - terminated) (min q'(s', a') - alpha log pi(a' | s')), alpha = (1 - gamma) ent_coef; the actor
    descends E[alpha log pi - min q] with the critics after their step."""
    algorithm = make("sac", ent_coef=0.4, tau=0.005)
    batch = make_batch(algorithm, 30)
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, 0.5))
    alpha = (1 - GAMMA) * 0.4
    with torch.no_grad():
        action, log_prob = algorithm.draw(batch.after)
        level(algorithm.target_critics, batch.after, action)
        level(algorithm.critics, batch.now, batch.action)
        q1, q2 = algorithm.target_critics.q(batch.after, action)
        assert 0 < (q1 < q2).sum() < 30
        following = torch.where(q1 < q2, q1, q2) - alpha * log_prob
        target = torch.where(batch.terminated > 0, batch.reward, batch.reward + GAMMA * following)
        errors = algorithm.critics.q(batch.now, batch.action) - target
        critic_loss = errors[0].square().mean() + errors[1].square().mean()
    policy = algorithm.agent.policy
    first, adam = next(policy.parameters()), AdamState.descend
    monkeypatch.setattr(
        AdamState, "descend", lambda s, loss: (plain_step if s.parameters[0] is first else adam)(s, loss)
    )
    start, before, log_ent_coef = weights(policy), weights(algorithm.target_critics), algorithm.log_ent_coef.item()
    losses = algorithm.learn(batch)
    moved = weights(policy) - start
    torch.testing.assert_close(losses["critic_loss"], critic_loss, rtol=1e-12, atol=0)
    assert losses["ent_coef"].item() == pytest.approx(0.4)
    torch.nn.utils.vector_to_parameters(start, policy.parameters())
    action, log_prob = algorithm.draw(batch.now)
    q1, q2 = algorithm.critics.q(batch.now, action)
    assert 0 < (q1 < q2).sum() < 30
    expected = (alpha * log_prob - torch.where(q1 < q2, q1, q2)).mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(expected, list(policy.parameters()))])
    torch.testing.assert_close(losses["actor_loss"], expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(moved, -0.1 * gradient, rtol=1e-9, atol=1e-12)
    followed = 0.995 * before + 0.005 * weights(algorithm.critics)
    torch.testing.assert_close(weights(algorithm.target_critics), followed, rtol=1e-12, atol=1e-15)
    too_random = -log_prob.mean().item() > algorithm.target_entropy
    assert (algorithm.log_ent_coef.item() < log_ent_coef) == too_random


@pytest.mark.parametrize(("entropy", "rises"), [(-3.0, True), (1.0, False)])
def test_the_temperature_rises_while_the_policy_is_too_certain(entropy: float, rises: bool) -> None:
    """The derivative of the loss in log alpha is -E[log pi + H] = entropy - H, here H = -1."""
    log_alpha = torch.zeros((), dtype=torch.float64, requires_grad=True)
    log_prob = torch.full((4,), -entropy, dtype=torch.float64)
    temperature_loss(log_alpha, log_prob, -1.0).backward()
    assert log_alpha.grad is not None
    assert log_alpha.grad.item() == pytest.approx(entropy + 1.0)
    assert (log_alpha.grad.item() < 0) == rises


def test_a_temperature_that_is_not_learned_stays() -> None:
    algorithm = make("sac", ent_coef=0.3, ent_coef_learning_rate=0.0)
    algorithm.learn(make_batch(algorithm))
    assert algorithm.log_ent_coef.item() == math.log(0.3)


def test_the_target_entropy_is_minus_the_number_of_actions_unless_told() -> None:
    assert make("sac").target_entropy == -1.0
    assert make("sac", target_entropy=-0.5).target_entropy == -0.5


def test_the_temperature_is_kept_in_the_checkpoint() -> None:
    algorithm, other = make("sac", ent_coef=0.7), make("sac")
    other.restore(algorithm.state())
    assert other.log_ent_coef.item() == math.log(0.7)
    assert other.ent_coef_optimizer.param_groups[0]["params"][0] is other.log_ent_coef


def test_sac_learns_to_balance(tmp_path: Path) -> None:
    before, after = episode_length(short_run("sac"), tmp_path)
    assert before < 60
    assert after > 2 * before


def in_float32(batch: Batch) -> Batch:
    now, after = (Situation(s.z.float(), s.x.float()) for s in (batch.now, batch.after))
    return Batch(now, batch.action.float(), batch.reward.float(), after, batch.terminated.float())


def make_in_float32(**options: Any) -> Any:
    algorithm = make("sac", **options)
    for part in ("agent", "critics", "target_critics"):
        getattr(algorithm, part).float()
    algorithm.log_ent_coef.data = algorithm.log_ent_coef.data.float()
    return algorithm


def test_a_compiled_step_teaches_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiler's front end alone: what it traces, not the C++ that it writes, which takes half a minute.

    In float32, as runs are: torch 2.13 traces the gradient of a float64 scalar, here the temperature, as zero.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, 0.5))
    plain, traced = make_in_float32(), make_in_float32(compile=True)
    assert traced._step != traced._eager_step
    before = plain.log_ent_coef.item()
    for algorithm in (plain, traced):
        for seed in range(2):
            algorithm.learn(in_float32(make_batch(algorithm, 30, seed)))
    for part in ("critics", "target_critics", "agent"):
        mine, theirs = weights(getattr(plain, part)), weights(getattr(traced, part))
        torch.testing.assert_close(theirs, mine, rtol=0, atol=2e-5)  # of steps of 1e-3
    assert plain.log_ent_coef.item() != before
    torch.testing.assert_close(traced.log_ent_coef, plain.log_ent_coef)


def test_products_in_bfloat16_are_close_and_leave_the_weights_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its products have 8 binary digits: the losses agree within a few of 256 parts, and are not the same."""
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, 0.5))
    monkeypatch.setattr(compiling, "PROCESSOR_HAS_BF16", True)
    exact, coarse = (make_in_float32(bf16=bf16) for bf16 in (False, True))
    one, other = (a.learn(in_float32(make_batch(a, 200))) for a in (exact, coarse))
    for name in ("critic_loss", "actor_loss"):
        assert other[name].dtype == torch.float32
        assert one[name].item() != other[name].item()
        torch.testing.assert_close(other[name], one[name], rtol=0.03, atol=0.003)
    assert {p.dtype for p in coarse.critics.parameters()} == {torch.float32}


def test_a_processor_without_bfloat16_multiplies_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, 0.5))
    monkeypatch.setattr(compiling, "PROCESSOR_HAS_BF16", False)
    plain, asked = (make_in_float32(bf16=bf16) for bf16 in (False, True))
    one, other = (a.learn(in_float32(make_batch(a, 200))) for a in (plain, asked))
    assert one == other
