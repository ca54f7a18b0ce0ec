"""Imagination: recorded noise gives the recorded trajectory back, and derivatives are those of the densities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from runtime.errors import GanglionError
from tests.training.models import A, draw, make_agent
from training.agent.agent import Agent
from training.agent.situation import Situation
from training.derivatives import from_noise
from training.latent_dynamics import LatentDynamics
from training.replay_buffer import Batch

GAMMA = 0.9


def _setup(by_state: bool = False) -> tuple[Agent, LatentDynamics]:
    agent = make_agent("single", by_state=by_state)
    if by_state:
        torch.nn.init.normal_(agent.model.latent_log_precision.by_state.weight)  # type: ignore[union-attr]
    dynamics = LatentDynamics(agent, GAMMA)
    dynamics.outcome.double()
    return agent, dynamics


def _situation(z: Tensor) -> Situation:
    return Situation(z, torch.zeros(len(z), 5).double())


def _batch(z: Tensor, action: Tensor, after: Tensor, reward: Tensor, terminated: Tensor) -> Batch:
    return Batch(_situation(z), action, reward, _situation(after), terminated)


@pytest.mark.parametrize("by_state", [False, True])
def test_replaying_inferred_noise_reproduces_the_trajectory(by_state: bool) -> None:
    agent, dynamics = _setup(by_state)
    actions = torch.randn(20, 3, A).double()
    recorded = [torch.randn(3, agent.model.size).double()]
    for action in actions:  # of a world that is not the model
        recorded.append(0.7 * recorded[-1] + action.sum(-1, True).tanh() + 0.3 * torch.randn_like(recorded[-1]))
    noise = [dynamics.infer_noise(z, a, after) for z, a, after in zip(recorded, actions, recorded[1:])]
    now = _situation(recorded[0])
    for action, xi, after in zip(actions, noise, recorded[1:]):
        now = dynamics.step(now, action, xi).now
        torch.testing.assert_close(now.z, after, rtol=0, atol=1e-9)
        torch.testing.assert_close(now.x, agent.model.predict(after), rtol=0, atol=1e-8)


def test_noise_enters_by_the_square_root_of_the_covariance() -> None:
    """1 / precision is the variance, so one unit of noise moves a latent by precision^-1/2."""
    agent, dynamics = _setup()
    _, _, action, z = draw(4, agent.model.size)
    variance = (-agent.model.latent_log_precision()).exp()
    one = dynamics.step(_situation(z), action, torch.ones_like(z)).now.z - dynamics.mean(z, action)
    torch.testing.assert_close(one, variance.sqrt().expand_as(z))
    assert not torch.allclose(one, variance.expand_as(z))


def test_without_noise_the_step_is_the_prior_mean() -> None:
    agent, dynamics = _setup()
    _, _, action, z = draw(4, agent.model.size)
    after = dynamics.step(_situation(z), action).now.z
    assert torch.equal(after, agent.model.prior_mean(agent.model.drive(z, action)))


def test_noise_after_an_end_is_drawn_because_what_followed_means_nothing() -> None:
    agent, dynamics = _setup()
    _, _, action, z = draw(2000, agent.model.size)
    after, ended = z.clone(), torch.arange(2000).double() % 2
    reward = torch.zeros(2000).double()
    after[ended > 0] = torch.nan
    noise = dynamics.recorded_noise(_batch(z, action, after, reward, ended), action)
    torch.testing.assert_close(noise[ended == 0], dynamics.infer_noise(z, action, after)[ended == 0])
    drawn = noise[ended > 0]
    assert drawn.std().item() == pytest.approx(1.0, abs=4 * (2 * drawn.numel()) ** -0.5)


def test_score_of_the_next_state_is_f_a_Q_inverse_times_its_error() -> None:
    agent, dynamics = _setup()
    _, _, action, z = draw(4, agent.model.size)
    action.requires_grad_()
    noise = torch.randn_like(z)
    imagined, ratio = dynamics.sampled(_situation(z), action, noise)
    assert not imagined.now.z.requires_grad
    assert torch.equal(ratio, torch.ones(4).double())
    (score,) = torch.autograd.grad(ratio.sum(), action)
    mean = dynamics.mean(z, action)
    error = (noise / dynamics.root(z, action)).detach()  # Q^-1 L xi
    (expected,) = torch.autograd.grad((mean * error).sum(), action)
    torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(imagined.now.z, from_noise(noise, mean, dynamics.root(z, action)))


def test_rewards_are_learned_per_tick_and_ends_where_they_were() -> None:
    agent, dynamics = _setup()
    torch.manual_seed(0)
    _, _, action, z = draw(500, agent.model.size)
    reward, ended = z[:, 0] - action[:, 1], (z[:, 1] > 0.5).double()
    batch = _batch(z, action, torch.full_like(z, torch.nan), (1 - GAMMA) * reward, ended)
    optimizer = torch.optim.Adam(dynamics.outcome.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        sum(dynamics.loss(batch, action)).backward()  # type: ignore[union-attr]
        optimizer.step()
    imagined = dynamics.step(batch.now, action)
    assert (imagined.reward - batch.reward).abs().mean().item() < 0.1 * (1 - GAMMA)
    assert ((imagined.goes_on < 0.5) == (ended > 0)).double().mean().item() > 0.97


def test_losses_by_hand() -> None:
    agent, dynamics = _setup()
    _, _, action, z = draw(3, agent.model.size)
    with torch.no_grad():
        for parameter in dynamics.outcome.parameters():
            parameter.zero_()
        list(dynamics.outcome.parameters())[-1].copy_(torch.tensor([1.0, 0.0]))
    zeros = torch.zeros(3).double()
    losses = dynamics.loss(_batch(z, action, z, zeros + 0.3, zeros), action)
    assert [v.item() for v in losses] == pytest.approx([(1 - 3) ** 2, 0.6931471805599453])  # .3 / (1 - .9); log 2


def test_a_graph_with_edges_is_refused() -> None:
    with pytest.raises(GanglionError, match=r"without edges, this one has top -> middle, middle -> bottom"):
        LatentDynamics(make_agent("chain"), GAMMA)
