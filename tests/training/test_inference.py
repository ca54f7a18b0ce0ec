"""Step sizes, contraction and iterated linearisation, in float64 (math: section 1, refinement)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.polynomial.chebyshev import chebval
from torch import Tensor

from runtime.errors import GanglionError
from tests.training.models import HOLD, METHODS, draw, make_agent, numbers, tied_agent
from training.agent.agent import Agent, Start
from training.agent.config import AgentConfig, InferenceConfig
from training.agent.inference import StepSizes, chebyshev_steps, constant_step

B = 4


def chebyshev(degree: int, x: np.ndarray | float) -> np.ndarray:
    values: np.ndarray = chebval(np.asarray(x, dtype=np.float64), [0.0] * degree + [1.0])
    return values


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_chebyshev_steps_give_the_chebyshev_polynomial(count: int) -> None:
    """prod (1 - eta_k h) = T_K((L + mu - 2 h) / (L - mu)) / T_K((L + mu) / (L - mu)); one step is the constant one."""
    largest, smallest = torch.tensor(7.0).double(), torch.tensor(0.5).double()
    steps = numbers(chebyshev_steps(largest, smallest, count))
    h = np.linspace(0.5, 7.0, 201)
    error = np.prod(1 - steps[:, None] * h, axis=0)
    bound = 1 / chebyshev(count, 7.5 / 6.5)
    np.testing.assert_allclose(error, chebyshev(count, (7.5 - 2 * h) / 6.5) * bound, atol=1e-12)
    assert np.abs(error).max() == pytest.approx(bound, rel=1e-9)
    constant = np.abs(1 - numbers(constant_step(largest, smallest)) * h).max() ** count
    assert bound == pytest.approx(constant) if count == 1 else bound < constant


def test_one_and_two_steps_by_hand() -> None:
    """L = 3, mu = 1: eta = 1/2; for K = 2 the cosines are +-sqrt(1/2): 2 / (4 +- sqrt 2)."""
    largest, smallest = torch.tensor(3.0).double(), torch.tensor(1.0).double()
    assert constant_step(largest, smallest).item() == 0.5
    assert chebyshev_steps(largest, smallest, 1).item() == pytest.approx(0.5)
    two = chebyshev_steps(largest, smallest, 2).tolist()
    assert two == pytest.approx([2 / (4 + math.sqrt(2)), 2 / (4 - math.sqrt(2))])


@pytest.mark.parametrize("schedule", ["constant", "chebyshev", "learned"])
def test_every_row_gets_the_step_of_its_own_count(schedule: str) -> None:
    sizes = StepSizes(schedule, 4, 3.0, 1.0)
    with torch.no_grad():
        sizes.raw.add_(0.1 * torch.arange(len(sizes.raw)))
    table, steps = sizes.table(), torch.tensor([4, 2, 1, 3])
    assert table.shape == (5, 4)
    for k in range(4):
        assert torch.equal(sizes(torch.tensor(k), steps), table[steps, k].unsqueeze(-1))
    used = torch.ones(5, 4).tril(-1).bool()
    assert (table[used] > 0).all()
    if schedule == "chebyshev":
        largest, smallest = sizes.raw.exp().sum(), sizes.raw[0].exp()
        torch.testing.assert_close(table[3, :3], chebyshev_steps(largest, smallest, 3))


@pytest.mark.parametrize("method", ["gradient", "diagonal"])
@pytest.mark.parametrize("graph", ["single", "chain"])
def test_contraction_is_exact(graph: str, method: str) -> None:
    """z_K - z* = (I - eta D H)^K (z_0 - z*), with D = 1 or the inverse diagonal of H = d2F/dz2."""
    agent = make_agent(graph, InferenceConfig(method, "constant"), (3, 0), linear=True)
    model = agent.model
    x, mask, action, last = draw(B, model.size)
    start, _ = agent.start(x, mask, action, agent.initial(B) | {"z": last})
    eta = agent.method.steps
    assert eta is not None
    for b in range(B):

        def energy(z: Tensor, i: int = b) -> Tensor:
            return model.free_energy(z[None], x[i : i + 1], mask[i : i + 1], start_row(start, i).prior)[0]

        hessian = torch.autograd.functional.hessian(energy, last[b])
        slope = torch.autograd.functional.jacobian(energy, last[b])
        optimum = last[b] - torch.linalg.solve(hessian, slope)
        scale = 1 / hessian.diagonal() if method == "diagonal" else torch.ones(model.size).double()
        once = torch.eye(model.size).double() - eta.table()[5, 0] * scale.unsqueeze(-1) * hessian
        z = start.z
        with torch.no_grad():
            for k in range(5):
                z, _ = agent.refine(z, x, start, torch.tensor(k), torch.full((B,), 5))
        expected = torch.linalg.matrix_power(once, 5) @ (start.z[b] - optimum)
        torch.testing.assert_close(z[b] - optimum, expected, rtol=1e-9, atol=1e-9)


def start_row(start: Start, row: int) -> Start:
    """What one row of the batch starts from; the priors of constant precision are shared."""
    return replace(start, prior=replace(start.prior, drive=start.prior.drive[row : row + 1]))


def test_chebyshev_contracts_a_model_within_its_bound_and_beats_the_constant_step() -> None:
    """In the 2-norm: ||z_K - z*|| <= ||z_0 - z*|| / |T_K((L + mu) / (L - mu))|, over every direction of the error."""
    count = 6
    errors = {}
    for schedule in ("constant", "chebyshev"):
        agent = make_agent("single", InferenceConfig("gradient", schedule), linear=True)
        x, mask, action, last = draw(1, 6, 1.0)
        start, _ = agent.start(x, mask, action, agent.initial() | {"z": last})
        hessian = torch.autograd.functional.hessian(
            lambda z, a=agent, s=start, v=(x, mask): a.model.free_energy(z[None], *v, s.prior)[0], last[0]
        )
        values, vectors = torch.linalg.eigh(hessian)
        gradient = agent.model.free_energy_gradient(last, x, start.precision_x, start.prior)[0]
        optimum = last - torch.linalg.solve(hessian, gradient)
        eta = agent.method.steps
        assert eta is not None
        with torch.no_grad():
            eta.raw.copy_(torch.stack((values[0], values[-1] - values[0])).log())
            z = optimum + vectors.T.flip(0)  # a unit error along every eigenvector, one per row
            rows = replace(start, precision_x=start.precision_x.expand(6, -1))
            for k in range(count):
                z, _ = agent.refine(z, x.expand(6, -1), rows, torch.tensor(k), torch.full((6,), count))
        errors[schedule] = (z - optimum).norm(dim=-1).max().item()
        ratio = ((values[-1] + values[0]) / (values[-1] - values[0])).item()
    assert errors["chebyshev"] <= 1 / float(chebyshev(count, ratio)) * (1 + 1e-9)
    assert errors["constant"] == pytest.approx(ratio**-count, rel=1e-6)
    assert errors["chebyshev"] < errors["constant"]


def extended_kalman(agent: Agent, start: Start, mean: np.ndarray, x: np.ndarray, row: int) -> np.ndarray:
    """m + G (x - h(m)), G = C J' (J C J' + R)^-1 with C = Pi^-1 and J = W + W2 diag(1 - tanh^2) W1 at m."""
    free = agent.model.observation.free
    assert free is not None
    skip, inner, outer = numbers(free.skip_weight), numbers(free.inner_weight), numbers(free.outer_weight)
    covariance = np.linalg.inv(numbers(start.prior.precision[row, 0]))
    seen = numbers(start.mask[row]) > 0
    noise = np.diag(np.exp(-numbers(start.prior.log_precision_x)))[np.ix_(seen, seen)]
    hidden = np.tanh(inner @ mean + numbers(free.inner_bias))
    jacobian = (skip + outer @ np.diag(1 - hidden**2) @ inner)[seen]
    predicted = (skip @ mean + outer @ hidden + numbers(free.outer_bias))[seen]
    gain = covariance @ jacobian.T @ np.linalg.inv(jacobian @ covariance @ jacobian.T + noise)
    corrected: np.ndarray = mean + gain @ (x[seen] - predicted)
    return corrected


def test_on_curved_sensors_the_first_step_is_the_extended_kalman_filters_and_more_end_where_f_is_least() -> None:
    agent = make_agent("single", scale=0.5)
    x, mask, action, last = draw(B, agent.model.size)
    state = agent.initial(B) | {"z": 0.5 * last, "P": agent.initial(B)["P"] * 0.1}
    start, prediction = agent.start(x, mask, action, state)
    count = 60
    z, energies = prediction.mean, [agent.model.free_energy(prediction.mean, x, mask, start.prior)]
    with torch.no_grad():
        for k in range(count):
            z, _ = agent.refine(z, x, start, torch.tensor(k), torch.full((B,), count))
            energies.append(agent.model.free_energy(z, x, mask, start.prior))
            if k == 0:
                for b in range(B):
                    expected = extended_kalman(agent, start, numbers(prediction.mean[b]), numbers(x[b]), b)
                    np.testing.assert_allclose(numbers(z[b]), expected, rtol=1e-10, atol=1e-10)
        gradient = agent.model.free_energy_gradient(z, x, start.precision_x, start.prior)
    np.testing.assert_allclose(numbers(gradient), 0.0, atol=1e-8)
    assert (energies[1] < energies[0] - 0.1).all()
    assert (energies[-1] <= energies[1] + 1e-12).all()
    assert (energies[-1] < energies[1] - 1e-4).any(), "the sensor is curved, so further steps still gain"


def test_the_amortized_method_makes_no_step() -> None:
    agent = make_agent("chain", METHODS["amortized"])
    x, mask, action, last = draw(B, agent.model.size)
    start, _ = agent.start(x, mask, action, agent.initial(B) | {"z": last})
    assert torch.equal(agent.refine(start.z, x, start, torch.tensor(0), torch.ones(B, dtype=torch.int64))[0], start.z)


def test_hold_keeps_the_last_reading_of_every_channel() -> None:
    agent = tied_agent(3, HOLD)
    k, action = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1).double()
    state = {name: value.double() for name, value in agent.initial().items()}
    seen = []
    for x, mask in (((1.0, 2.0, 3.0), (1, 0, 1)), ((4.0, 5.0, 6.0), (0, 1, 0)), ((7.0, 8.0, 9.0), (0, 0, 1))):
        belief = agent.infer(torch.tensor([x]).double(), torch.tensor([mask]).double(), action, state, k)
        state = belief.state
        seen.append(belief.z[0].tolist())
    assert seen == [[1.0, 0.0, 3.0], [1.0, 5.0, 3.0], [1.0, 5.0, 9.0]]
    assert not list(agent.encoder.parameters())
    carried, predicted, _ = agent.method.foresee(agent.model, state, action)
    assert carried["z"][0].tolist() == predicted[0].tolist() == seen[-1]


def test_hold_needs_a_latent_for_every_channel() -> None:
    with pytest.raises(GanglionError, match="'hold' needs one latent for every channel"):
        make_agent("single", HOLD, tied=(0, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "no inference method 'magic'; expected one of hold, amortized"),
        ({"schedule": "sometimes"}, "no schedule 'sometimes'"),
        ({"default_steps": 9}, "default_steps is 9, expected 0 to max_steps = 8"),
    ],
)
def test_settings_that_do_not_exist(settings: dict[str, object], message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        InferenceConfig(**settings)  # type: ignore[arg-type]


def test_policy_and_critic_have_the_units_that_are_named() -> None:
    agent = Agent(AgentConfig(activation="relu"), 4, 1)
    assert [type(layer).__name__ for layer in agent.policy] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert isinstance(agent.critic[1], torch.nn.ReLU)
    with pytest.raises(GanglionError, match="no activation 'step'; expected one of elu, relu, tanh"):
        AgentConfig(activation="step")


def test_blocks_must_divide_the_latents() -> None:
    with pytest.raises(GanglionError, match="covariance_block is 4, expected a divisor of the 6 latents"):
        make_agent("single", InferenceConfig(covariance_block=4))
