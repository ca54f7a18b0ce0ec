"""Learning the model through the unrolled filter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.models import (
    METHODS,
    D,
    conditionals,
    draw,
    linear_system,
    make_agent,
    numbers,
    tied_agent,
)
from training.agent.agent import Agent, Belief
from training.agent.config import InferenceConfig
from training.agent.networks import SkipMLP
from training.agent.situation import Situation
from training.config import TrainConfig
from training.rollout import Rollout
from training.world_model import (
    Sequences,
    WorldModel,
    filter_loss,
    joined,
    learning_groups,
    scale_penalty,
    sequences,
    unroll,
)


def make_data(agent: Agent, ticks: int, count: int, seen: float = 0.7) -> Sequences:
    torch.manual_seed(5)
    x, mask, action, _ = (v.unflatten(0, (ticks, count)) for v in draw(ticks * count, agent.model.size, seen))
    first = torch.zeros(ticks, count).double()
    return Sequences(x, mask, action, first, agent.initial(count), torch.ones(count, dtype=torch.int64))


def loss(agent: Agent, data: Sequences, overshoot: int = 0) -> dict[str, float]:
    with torch.no_grad():
        return {n: v.item() for n, v in filter_loss(agent, data, unroll(agent, data), overshoot).items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("graph", ["single", "diamond"])
def test_every_term_is_finite_and_every_parameter_learns(graph: str, method: str) -> None:
    inference = replace(METHODS[method], max_steps=4)
    agent = make_agent(graph, inference, (3, 0), by_state=True)
    data = make_data(agent, 8, 5)
    data.steps = torch.tensor([0, 1, 2, 3, 4])
    data.first[3, 2] = 1.0
    terms = filter_loss(agent, data, unroll(agent, data), 3)
    carries = agent.initial().keys() & {"P"}
    expected = {"prediction", "unseen", "overshooting", "scale", "amortization" if carries else "latent"}
    assert set(terms) == expected
    assert all(torch.isfinite(v) for v in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    named = [*agent.model.named_parameters(), *agent.method.named_parameters(), *agent.encoder.named_parameters()]
    assert [n for n, p in named if p.grad is None or not p.grad.isfinite().all()] == []
    learned = [p for group in learning_groups(agent) for p in group["params"]]
    assert {id(p) for p in learned} == {id(p) for _, p in named}
    assert len(learned) == len(named)


@pytest.mark.parametrize("graph", ["single", "chain"])
def test_prediction_and_overshooting_are_the_likelihoods_of_the_kalman_filter(graph: str) -> None:
    """-log N of every channel at its predicted mean and variance, up to 1/2 log 2 pi: one tick on for the prediction,
    2 to 4 ticks on without looking for the overshooting, which starts at every fourth tick."""
    agent, ticks, count, depth = make_agent(graph, linear=True), 10, 3, 4
    data, system = make_data(agent, ticks, count), linear_system(agent.model)
    data.first[6, 1] = 1.0
    terms = loss(agent, data, depth)

    def energy(x: Tensor, mean: np.ndarray, covariance: np.ndarray) -> float:
        expected, variance = system.expect(mean, covariance)
        spread = np.diag(variance)
        return float(np.mean(0.5 * ((numbers(x) - expected) ** 2 / spread + np.log(spread))))

    prediction, ahead = [], []
    for i in range(count):
        belief = (np.zeros(agent.model.size), np.eye(agent.model.size))
        for t in range(ticks):
            begins = bool(data.first[t, i])
            if begins:
                belief = (np.zeros(agent.model.size), np.eye(agent.model.size))
            belief = system.predict(*belief, numbers(data.previous_action[t, i]))
            if not begins:
                prediction.append(energy(data.x[t, i], *belief))
            mask = numbers(data.mask[t, i])
            belief = system.seeing(mask).update(*belief, numbers(data.x[t, i])[mask > 0])
            if t % 4 == 0 and t < ticks - depth:
                blind = belief
                for d in range(1, depth + 1):
                    if data.first[t + d, i]:
                        break
                    blind = system.predict(*blind, numbers(data.previous_action[t + d, i]))
                    if d > 1:
                        ahead.append(energy(data.x[t + d, i], *blind))
    assert len(prediction) == ticks * count - 1
    assert terms["prediction"] == pytest.approx(np.mean(prediction), rel=1e-9)
    assert terms["overshooting"] == pytest.approx(np.mean(ahead), rel=1e-9)


def test_overshooting_does_not_look_across_the_start_of_an_episode() -> None:
    agent = make_agent("single")
    data = make_data(agent, 9, 2)
    data.first[5] = 1.0
    data.x.requires_grad_(True)
    term = filter_loss(agent, data, unroll(agent, data), 8)["overshooting"]
    gradient = torch.autograd.grad(term, data.x)[0].abs().sum((1, 2))
    assert (gradient[[0, 2, 3, 4]] > 0).all(), "tick 0 is where it starts, 2 to 4 are predicted"
    assert (gradient[[1, 5, 6, 7, 8]] == 0).all(), "tick 1 is the prediction term's; 5 begins another episode"


def test_the_filter_forgets_at_the_start_of_an_episode() -> None:
    agent = make_agent("chain")
    data = make_data(agent, 1, 3)
    data.first[0] = 1.0
    stale = replace(data, start={n: v + torch.rand_like(v) for n, v in data.start.items()})
    fresh, forgotten = unroll(agent, data)[0], unroll(agent, stale)[0]
    assert all(torch.equal(fresh.state[n], forgotten.state[n]) for n in fresh.state)
    data.first[0] = stale.first[0] = 0.0
    assert not torch.equal(unroll(agent, data)[0].z, unroll(agent, stale)[0].z)


def test_sequences_are_the_rollout_cut_in_pieces() -> None:
    """Beliefs of the pieces, begun from the stored states, equal those of the long run bit for bit."""
    agent, ticks, count, length = make_agent("single"), 12, 3, 4
    data = make_data(agent, ticks, count)
    data.steps = torch.tensor([0, 1, 2])
    data.first[0] = 1.0
    data.first[6, 1] = data.first[8, 2] = 1.0
    starts, state = [], data.start
    with torch.no_grad():
        for t in range(ticks):
            if t % length == 0:
                starts.append(state)
            state = agent.restarted(state, data.first[t])
            state = agent.infer(data.x[t], data.mask[t], data.previous_action[t], state, data.steps).state
        nothing = torch.zeros(ticks, count)
        seen = Situation(nothing, data.x)
        rollout = Rollout(data.mask, data.previous_action, data.first, starts, data.steps, seen, seen, nothing,
                          nothing, nothing, nothing)  # fmt: skip
        pieces = sequences(rollout, length)
        direct = torch.stack([b.z for b in unroll(agent, data)])
        cut = torch.stack([b.z for b in unroll(agent, pieces)])
    assert pieces.x.shape == (length, 9, D)
    for piece in range(3):
        for i in range(count):
            torch.testing.assert_close(
                cut[:, piece * count + i], direct[piece * length : (piece + 1) * length, i], rtol=1e-12, atol=1e-12
            )
    one = pieces.take(torch.tensor([4]))
    assert torch.equal(one.x[:, 0], data.x[4:8, 1])
    assert one.steps.tolist() == [1]


def shrunk(agent: Agent, c: float) -> Agent:
    """The same agent with its free latents in units 1 / c: every function of them is put right."""
    size, shift = agent.model.size, 2 * D
    with torch.no_grad():
        for part in conditionals(agent.model.dynamics):
            part.skip_weight[:, size:].mul_(c)
            part.inner_weight[:, :size].div_(c)
            part.outer_weight.mul_(c)
            part.outer_bias.mul_(c)
        for part in conditionals(agent.model.observation):
            part.skip_weight.div_(c)
            part.inner_weight.div_(c)
        assert isinstance(agent.encoder, SkipMLP)
        first, last = agent.encoder.curved[0], agent.encoder.curved[-1]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        for weight in (first.weight, agent.encoder.linear.weight):
            weight[:, shift : shift + size].div_(c)
        for value in (last.weight, last.bias, agent.encoder.linear.weight):
            value.mul_(c)
        log_precision = agent.model.latent_log_precision()
    agent.model.latent_log_precision.set(log_precision - 2 * math.log(c))
    return agent


@pytest.mark.parametrize("c", [1.0, math.exp(-1), math.exp(-2)])
def test_free_latents_that_shrink_lower_the_latent_term_without_bound(c: float) -> None:
    """-log p(c z) = -log p(z) + log c per latent while nothing else changes; only the scale penalty stops it."""
    data = make_data(make_agent("single", METHODS["diagonal"]), 8, 6)
    data.steps[:] = 0
    before = loss(make_agent("single", METHODS["diagonal"]), data, 3)
    after = loss(shrunk(make_agent("single", METHODS["diagonal"]), c), data, 3)
    for name in ("prediction", "unseen", "overshooting"):
        assert after[name] == pytest.approx(before[name], rel=1e-9)
    assert after["latent"] == pytest.approx(before["latent"] + math.log(c), rel=1e-6)


def test_the_scale_penalty_is_least_at_unit_variance() -> None:
    """(log variance)^2 + mean^2: zero at (0, 1), (2 log c)^2 for a factor c. With the latent term, log c + 4 log^2 c
    has its least value -1/16 at log c = -1/8: bounded, at a variance of e^(-1/4) = 0.78."""
    torch.manual_seed(0)
    latents = torch.randn(1000, 3).double()
    latents = (latents - latents.mean(0)) / latents.std(0)
    assert scale_penalty(latents).item() == pytest.approx(0.0, abs=1e-12)
    assert scale_penalty(math.e * latents).item() == pytest.approx(4.0)
    assert scale_penalty(latents + 0.5).item() == pytest.approx(0.25)
    grid = np.linspace(-3, 1, 801)
    total = [g + scale_penalty(math.exp(g) * latents).item() for g in grid]
    assert grid[int(np.argmin(total))] == pytest.approx(-0.125, abs=0.005)
    assert min(total) == pytest.approx(-1 / 16, abs=1e-4)


def test_tied_latents_do_not_shrink_because_prediction_fixes_them() -> None:
    """x a random walk of unit variance and steps of variance q, an encoder that copies x, drive and prediction c x:
    the latent falls by log c, the prediction (at its best variance) rises by 1/2 log(((1 - c)^2 + q) / q)."""
    torch.manual_seed(0)
    q, ticks, count = 0.002, 2, 20_000
    previous = torch.randn(count, D).double()
    x = torch.stack((previous, previous + math.sqrt(q) * torch.randn(count, D).double()))

    def total(c: float) -> float:
        agent = tied_agent(D, InferenceConfig("diagonal"), noise=c * c * q)
        still = torch.zeros(ticks, count, 1).double()
        data = Sequences(x, torch.ones_like(x), still, torch.zeros(ticks, count).double(), agent.initial(count),
                         torch.zeros(count, dtype=torch.int64))  # fmt: skip
        data.first[0] = 1.0
        with torch.no_grad():
            for parameter in agent.encoder.parameters():
                parameter.zero_()
            prior, surprise = 2 * D, 2 * D + D
            assert isinstance(agent.encoder, SkipMLP)
            agent.encoder.linear.weight[:, surprise:] = c * torch.eye(D)  # z = c x, whatever the prior mean is
            agent.encoder.linear.weight[:, prior:surprise] = (c - 1) * torch.eye(D)
            agent.method.get_parameter("predictive_log_variance").fill_(math.log((1 - c) ** 2 + q))
        terms = loss(agent, data)
        assert "scale" not in terms
        assert terms["prediction"] == pytest.approx(0.5 * (1 + math.log((1 - c) ** 2 + q)), abs=0.03)
        assert terms["latent"] == pytest.approx(0.5 * (1 + math.log(2 * math.pi * c * c * q)), abs=0.03)
        return terms["prediction"] + terms["latent"]

    at_scale = total(1.0)
    for c in (0.9, 0.5, 0.2, 0.1):
        rise = math.log(c) + 0.5 * math.log(((1 - c) ** 2 + q) / q)
        assert rise > 0
        assert total(c) - at_scale == pytest.approx(rise, abs=0.05)


def simulated(count: int, ticks: int) -> tuple[Sequences, dict[str, np.ndarray]]:
    """A damped rotation pushed by an action, two noisy channels of which 20 % are missing."""
    rng = np.random.default_rng(0)
    truth = {
        "A": np.array([[0.95, 0.15], [-0.15, 0.9]]),
        "B": np.array([[0.0], [0.3]]),
        "Q": np.array([0.15, 0.25]) ** 2,
        "R": np.array([0.1, 0.3]) ** 2,
    }
    z, rows = rng.standard_normal((count, 2)), []
    action = rng.standard_normal((ticks, count, 1))
    for t in range(ticks):
        z = z @ truth["A"].T + action[t] @ truth["B"].T + np.sqrt(truth["Q"]) * rng.standard_normal((count, 2))
        rows.append(z + np.sqrt(truth["R"]) * rng.standard_normal((count, 2)))
    x, mask = torch.tensor(np.stack(rows)), torch.tensor((rng.random((ticks, count, 2)) > 0.2).astype(np.float64))
    first = torch.zeros(ticks, count).double()
    first[0] = 1.0
    steps = torch.ones(count, dtype=torch.int64)
    return Sequences(x, mask, torch.tensor(action), first, {}, steps), truth


def test_learning_recovers_a_linear_system() -> None:
    """A and B within 0.04, standard deviations of Q and R within 15 %, after 60 steps on 600 sequences of 6 ticks."""
    data, truth = simulated(600, 6)
    agent = tied_agent(2, noise=0.5, noise_x=0.5)
    data.start = agent.initial(600)
    learned = [agent.model._dynamics("state").skip_weight, *agent.model.latent_log_precision.parameters(),
               *agent.model.observation_log_precision.parameters()]  # fmt: skip
    optimizer = torch.optim.Adam([{"params": learned[:1], "lr": 0.03}, {"params": learned[1:], "lr": 0.3}])

    def errors() -> tuple[float, float]:
        with torch.no_grad():
            zero = torch.zeros(1, 2).double()
            a = agent.model.transition_jacobian(agent.model.transition(zero, zero[:, :1])[1])[0]
            b = agent.model.drive(zero, torch.ones(1, 1).double()).T
            found = np.concatenate((numbers(agent.model.latent_log_precision()),
                                    numbers(agent.model.observation_log_precision())))  # fmt: skip
        wrong = max(np.abs(numbers(a) - truth["A"]).max(), np.abs(numbers(b) - truth["B"]).max())
        ratio = np.exp(-0.5 * found) / np.sqrt(np.concatenate((truth["Q"], truth["R"])))
        return float(wrong), float(np.abs(np.log(ratio)).max())

    start, before = errors(), loss(agent, data)["prediction"]
    for step in range(60):
        if step == 40:
            for group in optimizer.param_groups:
                group["lr"] *= 0.2
        optimizer.zero_grad()
        filter_loss(agent, data, unroll(agent, data), 0)["prediction"].backward()
        optimizer.step()
    matrices, deviations = errors()
    assert matrices < 0.04 < start[0]
    assert deviations < 0.15 < start[1]
    assert loss(agent, data)["prediction"] < before - 0.3


def test_an_update_learns_from_a_rollout() -> None:
    """A few passes lower the loss of the data they have seen; the terms reported are finite."""
    torch.manual_seed(0)
    data, _ = simulated(16, 8)
    agent = tied_agent(2, noise=0.5, noise_x=0.5)
    state = agent.initial(16)
    empty = torch.zeros(8, 16)
    data.steps = torch.tensor([0, 2] * 8)
    seen = Situation(empty, data.x)
    rollout = Rollout(data.mask, data.previous_action, data.first, [state], data.steps, seen, seen, empty,
                      empty, empty, empty)  # fmt: skip
    config = TrainConfig(task="cartpole", sequence=8, overshoot=3, model_learning_rate=3e-3, model_batch=16)
    world_model = WorldModel(config, agent)
    data.start = state
    before = sum(loss(agent, data, 3).values())
    logs = [world_model.update(rollout, 0.0) for _ in range(3)][-1]
    assert sum(loss(agent, data, 3).values()) < before
    assert set(logs) == {f"model/{n}" for n in ("prediction", "unseen", "overshooting", "amortization")}
    assert all(math.isfinite(v) for v in logs.values())
    frozen = [p.detach().clone() for p in world_model.parameters]
    speeds = {g["speed"]: g["lr"] for g in world_model.optimizer.param_groups}
    assert speeds == pytest.approx({1.0: 3e-3, 10.0: 3e-2})
    world_model.update(rollout, 1.0)
    assert {g["speed"]: g["lr"] for g in world_model.optimizer.param_groups} == pytest.approx({1.0: 6e-5, 10.0: 6e-4})
    assert any(not torch.equal(a, b) for a, b in zip(frozen, world_model.parameters))


def test_short_rollouts_are_learned_from_together() -> None:
    """With 16 sequences each and a batch of 40, the third one is the first to teach, and all three do."""
    torch.manual_seed(0)
    data, _ = simulated(16, 8)
    agent = tied_agent(2, noise=0.5, noise_x=0.5)
    data.steps = torch.tensor([0, 2] * 8)
    empty, seen = torch.zeros(8, 16), Situation(torch.zeros(8, 16), data.x)
    rollout = Rollout(data.mask, data.previous_action, data.first, [agent.initial(16)], data.steps, seen, seen, empty,
                      empty, empty, empty)  # fmt: skip
    learned: list[int] = []

    class Watched(WorldModel):
        def learn(self, data: Sequences) -> tuple[dict[str, float], list[Belief]]:
            learned.append(len(data.steps))
            return super().learn(data)

    world_model = Watched(TrainConfig(task="cartpole", sequence=8, overshoot=3, model_batch=40), agent)
    assert world_model.update(rollout, 0.0) == world_model.update(rollout, 0.0) == {}
    assert set(world_model.update(rollout, 0.0)) == {
        f"model/{n}" for n in ("prediction", "unseen", "overshooting", "amortization")
    }
    assert learned == [24, 24] * 2
    joint = joined([data, data])
    assert torch.equal(joint.x, torch.cat((data.x, data.x), 1))
    assert joint.steps.tolist() == [0, 2] * 16
