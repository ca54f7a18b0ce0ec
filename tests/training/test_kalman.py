"""Linear-Gaussian models: the agent against the textbook Kalman filter in numpy, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.models import GRAPHS, KALMAN, A, D, dense, draw, linear_system, make_agent, numbers, tied_agent
from training.agent.agent import Agent, State
from training.agent.config import InferenceConfig

B = 4
TIED = {"single": (3, 0, 4), "chain": (), "diamond": (1, 2), "fork": (0, 1, 2, 3)}


def carried(agent: Agent, z: Tensor) -> State:
    """A random belief before the tick."""
    root = 0.3 * torch.randn(len(z), 1, agent.model.size, agent.model.size).double()
    covariance = root @ root.mT + 0.05 * torch.eye(agent.model.size).double()
    return agent.initial(len(z)) | {"z": z, "P": covariance}


def close(actual: Tensor | np.ndarray, expected: np.ndarray | float, tolerance: float = 1e-10) -> None:
    values = numbers(actual) if isinstance(actual, Tensor) else actual
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("graph", GRAPHS)
def test_one_step_from_anywhere_is_the_kalman_update(graph: str) -> None:
    agent = make_agent(graph, KALMAN, TIED[graph], linear=True)
    system = linear_system(agent.model)
    x, mask, action, z = draw(B, agent.model.size)
    state = carried(agent, z)
    start, prediction = agent.start(x, mask, action, state)
    anywhere = [agent.refine(v, x, start, torch.tensor(0), torch.ones(B, dtype=torch.int64))[0]
                for v in (start.z, 5 * torch.randn_like(z), torch.zeros_like(z))]  # fmt: skip
    covariance = agent.method.carry(3 * z, start.gain)["P"]
    for b in range(B):
        prior = system.predict(numbers(z[b]), numbers(state["P"][b, 0]), numbers(action[b]))
        close(prediction.mean[b], prior[0])
        expected, variance = system.expect(*prior)
        close(prediction.x[b], expected)
        close(prediction.variance[b], np.diag(variance))
        innovation = numbers(mask[b]) * (numbers(x[b]) - expected) / np.sqrt(np.diag(variance))
        close(start.innovation[b], innovation)
        posterior = system.seeing(numbers(mask[b])).update(*prior, numbers(x[b])[numbers(mask[b]) > 0])
        for refined in anywhere:
            close(refined[b], posterior[0])
        close(covariance[b, 0], posterior[1])


@pytest.mark.parametrize("graph", ["chain", "diamond"])
def test_refinement_on_a_graph_is_conditioning_of_the_joint_gaussian(graph: str) -> None:
    """Ancestral sampling written out: cov(z) = T N T', T = (I - M)^-1, and z given x by the Schur complement."""
    agent = make_agent(graph, KALMAN, linear=True)
    model = agent.model
    x, mask, action, z = draw(B, model.size, 1.0)
    start, _ = agent.start(x, mask, action, carried(agent, z))
    refined, _ = agent.refine(start.z, x, start, torch.tensor(0), torch.ones(B, dtype=torch.int64))
    edges = model.latent_error_jacobian(z)
    assert edges is not None
    tree, sensor = np.linalg.inv(numbers(edges)), numbers(model.predict_with_jacobian(z)[1])
    noise_x = np.diag(1 / numbers(start.precision_x[0]))
    for b in range(B):
        covariance = tree[b] @ np.linalg.inv(numbers(start.prior.precision[b, 0])) @ tree[b].T
        joint = np.block([
            [covariance, covariance @ sensor[b].T],
            [sensor[b] @ covariance, sensor[b] @ covariance @ sensor[b].T + noise_x],
        ])  # fmt: skip
        mean, n = numbers(model.prior_mean(start.prior.drive)[b]), model.size
        expected = mean + joint[:n, n:] @ np.linalg.solve(joint[n:, n:], numbers(x[b] - model.predict(z * 0 + 0)[b])
                                                          - sensor[b] @ mean)  # fmt: skip
        close(refined[b], expected)


@pytest.mark.parametrize("graph", GRAPHS)
def test_free_energy_is_a_bound_that_the_posterior_meets(graph: str) -> None:
    """E_q F - H[q] >= -log p(x) for a Gaussian q, equal at the posterior; E_q F = F(mean) + 1/2 tr(H S) exactly."""
    agent = make_agent(graph, KALMAN, TIED[graph], linear=True)
    model, size = agent.model, agent.model.size
    system = linear_system(model)
    x, mask, action, z = draw(B, size)
    state = carried(agent, z)
    start, _ = agent.start(x, mask, action, state)
    with torch.no_grad():
        mean, _ = agent.refine(start.z, x, start, torch.tensor(0), torch.ones(B, dtype=torch.int64))
        posterior = start.gain[:, 0]
        hessian = torch.linalg.inv(posterior)

        def bound(q_mean: Tensor, q_covariance: Tensor) -> Tensor:
            expected = model.free_energy(q_mean, x, mask, start.prior)
            expected = expected + 0.5 * (hessian * q_covariance).sum((-1, -2))
            return expected - 0.5 * (torch.logdet(q_covariance) + size * math.log(2 * math.pi * math.e))

        evidence, quadratic = np.zeros(B), np.zeros(B)
        for b in range(B):
            prior = system.predict(numbers(z[b]), numbers(state["P"][b, 0]), numbers(action[b]))
            seen = system.seeing(numbers(mask[b]))
            expected, variance = seen.expect(*prior)
            nu = numbers(x[b])[numbers(mask[b]) > 0] - expected
            quadratic[b] = nu @ np.linalg.solve(variance, nu)
            evidence[b] = 0.5 * (quadratic[b] + np.linalg.slogdet(2 * np.pi * variance)[1])
        close(bound(mean, posterior), evidence)
        for _ in range(20):
            shift, factor = 0.3 * torch.randn_like(mean), 0.5 + torch.rand(B, 1, 1).double()
            assert (numbers(bound(mean + shift, posterior * factor)) > evidence).all()
        error = model.latent_error(mean, start.prior.drive)
        missed = mask * (x - model.predict(mean)).square() * start.prior.log_precision_x.exp()
        close((error * start.prior.weigh(error)).sum(-1) + missed.sum(-1), quadratic)  # 2 F*_quad = nu' S^-1 nu


@pytest.mark.parametrize("graph", GRAPHS)
def test_two_hundred_ticks_equal_the_kalman_filter(graph: str) -> None:
    agent = make_agent(graph, KALMAN, TIED[graph], linear=True)
    system, state = linear_system(agent.model), agent.initial(B)
    filters = [(np.zeros(agent.model.size), np.eye(agent.model.size)) for _ in range(B)]
    with torch.no_grad():
        for _ in range(200):
            x, mask, action, _ = draw(B, agent.model.size)
            belief = agent.infer(x, mask, action, state, torch.tensor([1, 1, 1, 2]))
            state = belief.state
            for b in range(B):
                prior = system.predict(*filters[b], numbers(action[b]))
                filters[b] = system.seeing(numbers(mask[b])).update(*prior, numbers(x[b])[numbers(mask[b]) > 0])
                close(belief.z[b], filters[b][0])
                close(state["P"][b, 0], filters[b][1])
            assert torch.linalg.inv(belief.start.prior.precision).diagonal(dim1=-2, dim2=-1).max() < 10, "saturated"


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_masked_channel_is_a_deleted_one(graph: str) -> None:
    """The same belief as of a filter without the row, whatever the masked value is, to 1e-12."""
    agent = make_agent(graph, KALMAN, TIED[graph], linear=True)
    system = linear_system(agent.model)
    x, _, action, z = draw(B, agent.model.size)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]).double().expand(B, D)
    state, steps = carried(agent, z), torch.ones(B, dtype=torch.int64)
    with torch.no_grad():
        first, second = (agent.infer(torch.where(mask > 0, x, v), mask, action, state, steps) for v in (0.0, 1e3))
    assert torch.equal(first.z, second.z)
    for b in range(B):
        prior = system.predict(numbers(z[b]), numbers(state["P"][b, 0]), numbers(action[b]))
        mean, covariance = system.seeing(numbers(mask[b])).update(*prior, numbers(x[b, ::2]))
        close(first.z[b], mean, 1e-12)
        close(first.state["P"][b, 0], covariance, 1e-12)


@pytest.mark.parametrize(("graph", "block", "ticks"), [("single", 0, 2000), ("single", 2, 1000), ("chain", 0, 500)])
def test_covariance_stays_positive_definite_in_float32_through_long_outages(graph: str, block: int, ticks: int) -> None:
    agent = make_agent(graph, InferenceConfig("gauss_newton", covariance_block=block), TIED[graph]).float()
    model, method, state, largest = agent.model, agent.method, agent.initial(4), 0.0
    with torch.no_grad():
        for tick in range(ticks):
            x, mask, action = torch.randn(4, D), (torch.rand(4, D) > 0.3).float(), torch.randn(4, A)
            mask[:2] *= float(tick % 500 < 200)  # two rows see nothing at all for three seconds at a time
            mask[2, 1:] = 0.0
            prediction = method.predict(model, state, action)
            precision_x = mask * prediction.prior.log_precision_x.exp()
            gain = method.gain(model, prediction, precision_x)
            z, _ = method.step(model, prediction.mean, x, precision_x, prediction.prior, gain, torch.ones(1))
            state = method.carry(z, gain)
            covariance = state["P"]
            assert torch.equal(covariance, covariance.mT)
            if tick % 10 == 0:
                assert torch.linalg.eigvalsh(covariance.double()).min() > 0
                largest = max(largest, covariance.diagonal(dim1=-2, dim2=-1).max().item())
    assert state["z"].isfinite().all()
    assert largest > 0.3, "an outage leaves more than half a standard deviation of doubt"


def test_covariance_saturates_when_nothing_is_seen() -> None:
    """A tied latent that keeps its value gains its noise every tick, 1 + t q, until the bound of 10."""
    agent = tied_agent(2, noise=0.5)
    state, nothing = agent.initial(), torch.zeros(1, 2).double()
    grown = []
    with torch.no_grad():
        for _ in range(30):
            state = agent.infer(nothing, nothing, nothing[:, :1], state, torch.ones(1, dtype=torch.int64)).state
            grown.append(state["P"][0, 0].diagonal().tolist())
    close(np.array(grown), np.minimum(1 + 0.5 * np.arange(1, 31), 10.0)[:, None].repeat(2, 1), 1e-6)


@pytest.mark.parametrize("method", ["gradient", "diagonal"])
def test_a_constant_prior_precision_is_a_constant_gain_filter(method: str) -> None:
    """Pi = Q^-1 run to convergence: z = m + K (x - C m) with K = Q C' (C Q C' + R)^-1, not the Kalman gain."""
    inference = InferenceConfig(method, "constant", max_steps=400)
    agent = make_agent("single", inference, (3, 0), linear=True)
    system, state = linear_system(agent.model), agent.initial(B)
    steps = agent.method.steps
    assert steps is not None
    curvature = np.linalg.inv(system.noise) + system.sensor.T @ np.linalg.inv(system.noise_x) @ system.sensor
    if method == "diagonal":
        curvature = curvature / np.sqrt(np.outer(np.diag(curvature), np.diag(curvature)))
    eigenvalues = np.linalg.eigvalsh(curvature)
    with torch.no_grad():
        steps.raw.copy_(torch.tensor([eigenvalues[0], eigenvalues[-1] - eigenvalues[0]]).log())
        gain = system.noise @ system.sensor.T @ np.linalg.inv(
            system.sensor @ system.noise @ system.sensor.T + system.noise_x
        )  # fmt: skip
        kalman = [(np.zeros(agent.model.size), np.eye(agent.model.size)) for _ in range(B)]
        constant, apart = np.zeros((B, agent.model.size)), 0.0
        for _ in range(15):
            x, mask, action, _ = draw(B, agent.model.size, 1.0)
            belief = agent.infer(x, mask, action, state, torch.full((B,), 400))
            state = belief.state
            for b in range(B):
                forward, _ = system.predict(constant[b], kalman[b][1], numbers(action[b]))
                constant[b] = forward + gain @ (numbers(x[b]) - system.sensor @ forward - system.bias)
                kalman[b] = system.update(*system.predict(*kalman[b], numbers(action[b])), numbers(x[b]))
                apart = max(apart, float(np.abs(numbers(belief.z[b]) - kalman[b][0]).max()))
            close(belief.z, constant)
    assert apart > 0.1


def test_blocks_overlook_each_other_but_converge_to_the_same_mean() -> None:
    """Blocks change the metric of the steps and the covariance that is carried on, not this tick's optimum."""
    x, mask, action, z = draw(B, 6, 1.0)
    agent = make_agent("single", InferenceConfig("gauss_newton", covariance_block=2), linear=True)
    start, _ = agent.start(x, mask, action, agent.initial(B) | {"z": z})
    refined = start.z
    with torch.no_grad():
        for _ in range(300):
            refined, _ = agent.method.step(
                agent.model, refined, x, start.precision_x, start.prior, start.gain, torch.tensor(0.5)
            )
        sensor = agent.model.predict_with_jacobian(z)[1]
        pi = dense(start.prior.precision)
        hessian = pi + sensor.mT @ start.precision_x.diag_embed() @ sensor
        right = (pi @ start.prior.drive.unsqueeze(-1)).squeeze(-1)
        offset = x - agent.model.predict(torch.zeros_like(z))
        right = right + (sensor.mT @ (start.precision_x * offset).unsqueeze(-1)).squeeze(-1)
        close(refined, numbers(torch.linalg.solve(hessian, right)))
