"""Terms (a), (b) and (e) of the free energy, in float64, and learning the model by them in both ways."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from runtime.errors import GanglionError
from tests.training.models import METHODS, D, draw, linear_system, make_agent, numbers, tied_agent
from tests.training.test_learning import simulated
from training.agent.agent import Agent
from training.agent.config import InferenceConfig
from training.config import TrainConfig
from training.free_energy import FreeEnergyModel, LocalModel, WorldWeights, world_terms
from training.local_learning import local_gradients
from training.world_model import Sequences, unroll

torch.set_num_threads(1)

ONE = torch.ones(4, dtype=torch.int64)
POINT_MASS = ("amortized", "gradient", "diagonal")


@pytest.mark.parametrize("method", POINT_MASS)
@pytest.mark.parametrize("graph", ["single", "diamond"])
def test_of_a_point_mass_perception_and_prediction_are_f(graph: str, method: str) -> None:
    agent = make_agent(graph, METHODS[method])
    x, mask, action, z = draw(4, agent.model.size)
    belief = agent.infer(x, mask, action, agent.initial(4) | {"z": z}, ONE)
    perception, prediction, entropy = world_terms(agent, belief, x)
    torch.testing.assert_close(perception + prediction, belief.free_energy, rtol=1e-12, atol=1e-12)
    assert entropy is None, "(e) of a point mass is infinite, so it is left out"


@pytest.mark.parametrize("graph", ["single", "chain", "diamond"])
def test_perception_prediction_and_state_entropy_are_the_surprise_of_the_kalman_filter(graph: str) -> None:
    """(a) + (b) + (e) = -log p(x_t | past) of the seen channels, tick after tick, of a linear-Gaussian model."""
    agent = make_agent(graph, linear=True)
    system, state = linear_system(agent.model), agent.initial(1)
    kalman = (np.zeros(agent.model.size), np.eye(agent.model.size))
    for _ in range(5):
        x, mask, action, _ = draw(1, agent.model.size)
        belief = agent.infer(x, mask, action, state, ONE[:1])
        kalman = system.predict(*kalman, numbers(action[0]))
        seen = system.seeing(numbers(mask[0]))
        reading = numbers(x[0])[numbers(mask[0]) > 0]
        mean, covariance = seen.expect(*kalman)
        surprise = 0.5 * (
            (reading - mean) @ np.linalg.solve(covariance, reading - mean)
            + np.linalg.slogdet(covariance)[1]
            + len(reading) * math.log(2 * math.pi)
        )
        perception, prediction, state_entropy = world_terms(agent, belief, x)
        assert state_entropy is not None
        assert (perception + prediction + state_entropy).item() == pytest.approx(surprise, rel=1e-10)
        kalman = seen.update(*kalman, reading)
        state = belief.state


@pytest.mark.parametrize("graph", ["single", "chain"])
def test_each_term_is_the_expectation_under_the_gaussian_q(graph: str) -> None:
    """(a) E_q[-log p(z | past)] = KL(q||p) + H[q], (b) channel by channel, (e) -H[q], also away from the posterior's
    mean."""
    agent = make_agent(graph, linear=True)
    x, mask, action, _ = draw(4, agent.model.size)
    belief = agent.infer(x, mask, action, agent.initial(4), torch.zeros_like(ONE))
    system, covariance = linear_system(agent.model), belief.state["P"].squeeze(1)
    q = MultivariateNormal(belief.z, covariance)
    priors = [system.predict(np.zeros(agent.model.size), np.eye(agent.model.size), numbers(a)) for a in action]
    means, covariances = (torch.tensor(np.stack(part)) for part in zip(*priors))
    p = MultivariateNormal(means, covariances)
    sensor, noise = torch.tensor(system.sensor), torch.tensor(np.diag(system.noise_x))
    spread = (sensor @ covariance @ sensor.mT).diagonal(dim1=-2, dim2=-1)
    errors = x - belief.z @ sensor.mT - torch.tensor(system.bias)
    by_channel = 0.5 * ((errors.square() + spread) / noise + (2 * math.pi * noise).log())
    terms = world_terms(agent, belief, x)
    torch.testing.assert_close(terms.perception, kl_divergence(q, p) + q.entropy())
    torch.testing.assert_close(terms.prediction, (mask * by_channel).sum(-1))
    torch.testing.assert_close(terms.state_entropy, -q.entropy())


def config(**settings: object) -> TrainConfig:
    usual = TrainConfig(task="cartpole", horizon=60, sequence=6, overshoot=0, model_learning_rate=0.03, model_batch=1)
    return replace(usual, **settings)  # type: ignore[arg-type]


def surprise(agent: Agent, data: Sequences) -> float:
    """Mean -log p(x_t | past) per tick after the first, by a filter that makes one step."""
    state, total = data.start, []
    with torch.no_grad():
        for t in range(len(data.x)):
            belief = agent.infer(data.x[t], data.mask[t], data.previous_action[t], state, data.steps)
            total.append(sum(v.mean() for v in world_terms(agent, belief, data.x[t]) if v is not None))
            state = belief.state
    return float(torch.stack([torch.as_tensor(t) for t in total[1:]]).mean())


def deviations(agent: Agent, truth: dict[str, np.ndarray]) -> np.ndarray:
    """Learned standard deviations of Q and R over the true ones."""
    with torch.no_grad():
        found = np.concatenate(
            (numbers(agent.model.latent_log_precision()), numbers(agent.model.observation_log_precision()))
        )
    ratio: np.ndarray = np.exp(-0.5 * found) / np.sqrt(np.concatenate((truth["Q"], truth["R"])))
    return ratio


def learned(way: str, weights: WorldWeights, passes: int) -> tuple[Agent, Sequences, dict[str, np.ndarray], float]:
    """An agent that learned a linear system with sensors of unequal noise; the surprise that it began with."""
    data, truth = simulated(250, 6)
    agent = tied_agent(2, noise=0.5, noise_x=0.5)
    data.start = agent.initial(250)
    before = surprise(agent, data)
    settings = config()
    model = (
        FreeEnergyModel(settings, agent, weights)
        if way == "unrolled"
        else LocalModel(settings, agent, weights.state_entropy > 0)
    )
    for step in range(passes):
        model.slow_down(step / passes)
        model.learn(data)
    return agent, data, truth, before


@pytest.mark.parametrize(("way", "passes"), [("unrolled", 40), ("local", 25)])
def test_both_ways_learn_a_linear_system(way: str, passes: int) -> None:
    """Standard deviations of Q and R within 30 %, and the surprise falls by more than a nat a tick."""
    agent, data, truth, before = learned(way, WorldWeights(), passes)
    assert surprise(agent, data) < before - 1.0
    assert np.abs(np.log(deviations(agent, truth))).max() < math.log(1.3)


def test_a_point_mass_takes_its_sensors_for_better_than_they_are() -> None:
    """Without (e) F falls as R shrinks: z comes as near to x as it likes, and no spread of q speaks against it."""
    agent, _, truth, _ = learned("local", WorldWeights(state_entropy=0.0), 25)
    assert (deviations(agent, truth)[2:] < 0.3).all()


def make_sequences(agent: Agent, ticks: int = 5, count: int = 4) -> Sequences:
    torch.manual_seed(2)
    x, mask, action, _ = (v.unflatten(0, (ticks, count)) for v in draw(ticks * count, agent.model.size))
    first = torch.zeros(ticks, count).double()
    first[0], first[-1, 1] = 1.0, 1.0
    return Sequences(x, mask, action, first, agent.initial(count), torch.arange(count) % 2)


def free_energy_model(agent: Agent, weights: WorldWeights) -> FreeEnergyModel:
    return FreeEnergyModel(config(agent=agent.config), agent, weights)


def test_the_loss_is_the_weighted_sum_of_the_terms_per_channel() -> None:
    agent = make_agent("chain")
    data, model = make_sequences(agent), free_energy_model(agent, WorldWeights(2.0, 3.0, 0.5))
    beliefs = unroll(agent, data)
    terms = model.terms(data, beliefs)
    assert set(terms) == {"perception", "prediction", "state_entropy", "unseen", "amortization", "scale"}
    follows = 1 - data.first
    for name, weight in vars(model.weights).items():
        ticks = torch.stack([getattr(world_terms(agent, b, x), name) for b, x in zip(beliefs, data.x)])
        expected = weight * ticks[follows > 0].mean() / D
        torch.testing.assert_close(terms[name], expected, msg=name)
    logs, _ = model.learn(data)
    assert logs["vfe/prediction"] == pytest.approx(D * terms["prediction"].item() / 3.0)
    assert not {"model/perception", "model/prediction", "model/state_entropy"} & set(logs)


@pytest.mark.parametrize("name", ["perception", "prediction", "state_entropy"])
def test_a_weight_of_zero_leaves_a_term_out(name: str) -> None:
    agent = make_agent("single")
    logs, _ = free_energy_model(agent, replace(WorldWeights(), **{name: 0.0})).learn(make_sequences(agent))
    assert {n for n in logs if n.startswith("vfe/")} == {f"vfe/{n}" for n in vars(WorldWeights()) if n != name}


@pytest.mark.parametrize("method", ["gradient", "diagonal", "amortized"])
def test_a_filter_without_covariance_still_learns_how_far_off_its_predictions_are(method: str) -> None:
    """Its fixed point is the mean square error: v = <(x - predicted x)^2>."""
    agent = make_agent("single", METHODS[method], (0, 1, 2, 3, 4))
    data = make_sequences(agent)
    model = free_energy_model(agent, WorldWeights())
    beliefs = unroll(agent, data)
    terms = model.terms(data, beliefs)
    assert "state_entropy" not in terms
    terms["innovation"].backward()
    errors = torch.stack([x - b.prediction.x for x, b in zip(data.x, beliefs)]).square().mean((0, 1))
    variance = agent.method.predictive_log_variance.exp()
    slope = 0.5 * (1 - errors / variance) / D
    torch.testing.assert_close(agent.method.predictive_log_variance.grad, slope)
    assert all(p.grad is None for p in agent.model.parameters())


@pytest.mark.parametrize("method", ["gauss_newton", "blocks", "gradient", "diagonal"])
def test_local_learning_is_one_step_on_each_nodes_own_error(method: str) -> None:
    """The first tick that has a past moves the model by Adam's step on `local_gradients` alone."""
    agent = make_agent("single", METHODS[method], (0, 1, 2, 3, 4))
    if method in ("gradient", "diagonal"):
        agent = tied_agent(D, METHODS[method])
    data = make_sequences(agent, ticks=2)
    data.previous_action = data.previous_action[..., : agent.action_size]
    data.first[1] = 0.0
    twin = make_twin(agent)
    LocalModel(config(agent=agent.config), agent, True).learn(data)
    with torch.no_grad():
        first = twin.infer(data.x[0], data.mask[0], data.previous_action[0], data.start, data.steps.clamp(min=1))
        args = data.x[1], data.mask[1], data.previous_action[1]
        second = twin.infer(*args, first.state, data.steps.clamp(min=1))
        gradients = local_gradients(
            twin.model, second.z, first.z, args[2], args[0], args[1], second.prediction.prior, second.state.get("P")
        )
    moved = {n: p - dict(twin.model.named_parameters())[n] for n, p in agent.model.named_parameters()}
    for name, change in moved.items():
        gradient = gradients[name]
        large = gradient.abs() > 1e-2 * gradient.abs().max()
        assert (change[large].sign() == -gradient[large].sign()).all(), name
        assert change.abs().max() > 0 or gradient.abs().max() == 0, name


def make_twin(agent: Agent) -> Agent:
    twin = Agent(agent.config, agent.observation_size, agent.action_size).double()
    twin.load_state_dict(agent.state_dict())
    return twin


def test_the_encoder_learns_the_refined_belief() -> None:
    """Its answer comes nearer to the posterior of the exact filter; nothing but the encoder has to move for that."""
    data, _ = simulated(100, 6)
    agent = tied_agent(2, noise=0.5, noise_x=0.5)
    data.start = agent.initial(100)
    model = LocalModel(config(), agent, True)
    for parameter in agent.model.parameters():
        parameter.requires_grad_(False)
    model.optimizer = torch.optim.Adam(agent.encoder.parameters(), lr=0.01)

    def distance() -> float:
        state, total = data.start, 0.0
        with torch.no_grad():
            for t in range(6):
                belief = agent.infer(data.x[t], data.mask[t], data.previous_action[t], state, data.steps)
                total += float((belief.start.z - belief.z).square().mean())
                state = belief.state
        return total

    before = distance()
    for _ in range(20):
        model.learn(data)
    assert distance() < 0.3 * before


@pytest.mark.parametrize(
    ("inference", "tied", "state_entropy", "message"),
    [
        ("amortized", tuple(range(D)), True, "'amortized' does not make; choose one of gradient"),
        ("gauss_newton", (), False, "latents that no channel is tied to needs the spread of q"),
        ("diagonal", (0,), True, "latents that no channel is tied to needs the spread of q"),
    ],
)  # fmt: skip
def test_what_local_learning_cannot_learn(
    inference: str, tied: tuple[int, ...], state_entropy: bool, message: str
) -> None:
    agent = make_agent("single", InferenceConfig(inference), tied)
    with pytest.raises(GanglionError, match=message):
        LocalModel(config(agent=agent.config), agent, state_entropy)
