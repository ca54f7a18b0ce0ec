"""Inference: the amortized start, the refinement and its guard."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.training.test_model import GRAPHS
from training.agent.agent import Agent
from training.agent.config import AgentConfig

D, A, B = 5, 2, 200


def make(graph: str, spread: float = 1.0) -> tuple[Agent, tuple[Tensor, Tensor, Tensor, Tensor]]:
    torch.manual_seed(3)
    nodes = GRAPHS[graph]
    agent = Agent(AgentConfig(nodes=nodes, acting_node=nodes[-1].name, hidden=8), D, A).double()
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.3 * spread * torch.randn_like(parameter))
    x, mask = torch.randn(B, D).double(), (torch.rand(B, D) > 0.3).double()
    return agent, (x * mask, mask, torch.randn(B, agent.model.size).double(), torch.randn(B, A).double())


@pytest.mark.parametrize("graph", GRAPHS)
def test_no_refinement_is_the_encoder_bit_for_bit(graph: str) -> None:
    agent, inputs = make(graph)
    start = agent.start(*inputs)
    belief, _ = agent.infer(*inputs, torch.zeros(B, dtype=torch.int64))
    assert torch.equal(belief.z, start.z)
    assert torch.equal(belief.free_energy, agent.model.free_energy(start.z, inputs[0], inputs[1], start.drive))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_refinement_never_ends_above_where_it_began(graph: str, spread: float) -> None:
    agent, inputs = make(graph, spread)
    before = agent.infer(*inputs, torch.zeros(B, dtype=torch.int64))[0].free_energy
    for k in (1, 2, 8, 16):
        after = agent.infer(*inputs, torch.full((B,), k))[0].free_energy
        assert (after <= before + 1e-9 * before.abs()).all()


def test_refinement_usually_lowers_the_free_energy() -> None:
    agent, inputs = make("single", 0.3)
    before, after = (agent.infer(*inputs, torch.full((B,), k))[0].free_energy for k in (0, 8))
    assert (after < before - 1e-3).double().mean() > 0.9


def test_each_row_takes_its_own_number_of_steps() -> None:
    agent, inputs = make("chain")
    steps = torch.arange(B) % 5
    mixed = agent.infer(*inputs, steps)[0].z
    for k in range(5):
        alone = agent.infer(*inputs, torch.full((B,), k))[0].z
        torch.testing.assert_close(mixed[steps == k], alone[steps == k], rtol=1e-12, atol=1e-12)


def test_masked_values_do_not_matter() -> None:
    agent, (x, mask, z, action) = make("diamond")
    steps = torch.full((B,), 4)
    garbage = torch.where(mask > 0, x, torch.full_like(x, 7.0))
    a, b = (agent.infer(values, mask, z, action, steps)[0] for values in (x, garbage))
    torch.testing.assert_close(a.z, b.z, rtol=1e-12, atol=1e-12)
    assert (a.innovation[mask == 0] == 0).all()


def test_many_steps_converge_to_the_posterior_of_a_linear_model() -> None:
    """z* = (Pi + C' Lambda C)^-1 (Pi mu + C' Lambda m x) when the model is linear."""
    agent, (x, mask, z, action) = make("single", 0.0)
    model = agent.model
    with torch.no_grad():
        model.observation.outer_weight.zero_()
        model.observation.outer_bias.zero_()
        agent.log_step_size.fill_(0.0)
        start = agent.start(x, mask, z, action)
        refined = start.z
        for _ in range(50):
            refined = agent.refine(refined, x, start.precision_x, start.drive, start.gain)
        prior, seen = model.latent_log_precision().exp(), mask * model.observation_log_precision().exp()
        c = model.observation.skip_weight.T
        hessian = torch.diag(prior) + torch.einsum("zd,bd,yd->bzy", c, seen, c)
        right = prior * start.drive + (seen * x) @ c.T
        posterior = torch.linalg.solve(hessian, right)
    torch.testing.assert_close(refined, posterior, rtol=1e-10, atol=1e-10)
