"""One tick of the whole agent: the amortized start, the guard, and what is carried."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from runtime.contract import Node
from tests.training.models import GRAPHS, KALMAN, METHODS, A, D, draw, make_agent, tied_agent
from training.agent.agent import Agent, Belief, State
from training.agent.config import AgentConfig, InferenceConfig
from training.agent.distributions import Gaussian
from training.agent.networks import SkipMLP

B = 50
TIED = (3, 0)


def setup(graph: str, method: str, seed: int = 3, scale: float = 1.0, by_state: bool = False) -> tuple[Agent, Tensor,
                                                                                  Tensor, Tensor, State]:  # fmt: skip
    agent = make_agent(graph, METHODS[method], TIED, seed=seed, scale=scale, by_state=by_state)
    if by_state:
        for module in (agent.model.latent_log_precision, agent.model.observation_log_precision):
            torch.nn.init.normal_(module.by_state.weight)  # type: ignore[union-attr]
    x, mask, action, z = draw(B, agent.model.size)
    return agent, x, mask, action, agent.initial(B) | {"z": z}


def full(k: int) -> Tensor:
    return torch.full((B,), k)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_no_refinement_is_the_encoder_bit_for_bit(graph: str, method: str) -> None:
    """z0 = prior mean + encoder(m x, m, prior mean, m (x - predicted x))."""
    agent, x, mask, action, state = setup(graph, method)
    belief = agent.infer(x, mask, action, state, full(0))
    mean, predicted = belief.prediction.mean, belief.prediction.x
    amortized = mean + agent.encoder(torch.cat((mask * x, mask, mean, mask * (x - predicted)), -1))
    assert torch.equal(belief.z, amortized)
    assert torch.equal(belief.z, belief.start.z)
    energy = agent.model.free_energy(amortized, x, mask, belief.start.prior)
    torch.testing.assert_close(belief.free_energy, energy, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_refinement_never_ends_above_where_it_began(method: str) -> None:
    """200 random models, tame and wild, with 50 inputs each, K in {1, 2, 4, 8}: 10,000 inputs for every method."""
    lowered = 0
    with torch.no_grad():
        for seed in range(200):
            graph = list(GRAPHS)[seed % len(GRAPHS)]
            scale = (0.3, 1.0, 3.0)[seed % 3]
            agent, x, mask, action, state = setup(graph, method, seed, scale, by_state=seed % 2 == 1)
            belief = agent.infer(x, mask, action, state, full((1, 2, 4, 8)[seed // 4 % 4]))
            before = agent.model.free_energy(belief.start.z, x, belief.start.mask, belief.start.prior)
            after = agent.model.free_energy(belief.z, x, belief.start.mask, belief.start.prior)
            assert (after <= before + 1e-12 * before.abs()).all()
            torch.testing.assert_close(belief.free_energy, after, rtol=1e-12, atol=1e-12)
            lowered += int((after < before - 1e-6).sum())
    assert lowered == 0 if method == "amortized" else lowered > 5000


@pytest.mark.parametrize("method", ["gradient", "diagonal", "blocks"])
def test_steps_that_diverge_fall_back_to_the_amortized_answer(method: str) -> None:
    """Eight steps a million times too long overflow float32 unless they are held; the guard must still choose."""
    agent, *inputs, state = setup("diamond", method)
    agent.float()
    x, mask, action = (v.float() for v in inputs)
    state = {n: v.float() for n, v in state.items()}
    assert agent.method.steps is not None
    with torch.no_grad():
        if method == "diagonal":
            agent.method.steps.raw.fill_(-14.0)  # bounds of the curvature, of which a step is the inverse
        else:
            agent.method.steps.raw.fill_(14.0)
        belief = agent.infer(x, mask, action, state, full(8))
        before = agent.model.free_energy(belief.start.z, x, mask, belief.start.prior)
    assert belief.free_energy.isfinite().all()
    assert (belief.free_energy <= before + 1e-5 * before.abs()).all()
    assert belief.z.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("graph", ["single", "diamond"])
def test_each_row_takes_its_own_number_of_steps_on_one_set_of_weights(graph: str, method: str) -> None:
    agent, x, mask, action, state = setup(graph, method)
    steps = torch.arange(B) % 9
    mixed = agent.infer(x, mask, action, state, steps)

    def alone(row: slice, k: int) -> Belief:
        part = {n: v[row] for n, v in state.items()}
        return agent.infer(x[row], mask[row], action[row], part, torch.tensor([k]).expand(len(x[row])))

    for i in range(0, B, 5):
        one = alone(slice(i, i + 1), int(steps[i]))
        for name, value in one.state.items():
            torch.testing.assert_close(mixed.state[name][i : i + 1], value, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(mixed.free_energy[i : i + 1], one.free_energy, rtol=1e-11, atol=1e-11)
    for k in range(9):
        together = agent.infer(x, mask, action, state, full(k)).z
        torch.testing.assert_close(mixed.z[steps == k], together[steps == k], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_masked_values_do_not_matter(method: str) -> None:
    agent, x, mask, action, state = setup("diamond", method)
    garbage = torch.where(mask > 0, x, torch.full_like(x, 7.0))
    one, other = (agent.infer(v, mask, action, state, full(4)) for v in (x, garbage))
    assert torch.equal(one.z, other.z)
    assert torch.equal(one.start.innovation, other.start.innovation)
    assert (one.start.innovation[mask == 0] == 0).all()


def test_the_innovation_is_in_predicted_standard_deviations() -> None:
    """P = 1, q = 0.04, r = 0.09: a reading of 2.0 against 0 is 2 / sqrt(1.13) of them, and the gain is 1.04 / 1.13."""
    agent = tied_agent(2)
    x, mask = torch.tensor([[2.0, 2.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    belief = agent.infer(x, mask, torch.zeros(1, 1).double(), agent.initial(), torch.ones(1, dtype=torch.int64))
    assert belief.start.innovation[0].tolist() == pytest.approx([2 / 1.13**0.5, 0.0], rel=1e-6)
    assert belief.z[0].tolist() == pytest.approx([2 * 1.04 / 1.13, 0.0], rel=1e-6)
    assert belief.state["P"][0, 0].diagonal().tolist() == pytest.approx([1.04 * 0.09 / 1.13, 1.04], rel=1e-6)


def test_a_new_encoder_corrects_tied_latents_by_half_of_their_innovation() -> None:
    """The channels 3 and 0 are those of the latents 0 and 1; the curved part of the encoder is put to zero."""
    torch.manual_seed(0)
    agent = Agent(make_agent("single", KALMAN, TIED).config, D, A)
    with torch.no_grad():
        assert isinstance(agent.encoder, SkipMLP)
        for parameter in agent.encoder.curved.parameters():
            parameter.zero_()
        x, mask, action, z = (v.float() for v in draw(B, 6))
        start, prediction = agent.start(x, mask, action, agent.initial(B) | {"z": z})
    change = torch.zeros(B, 6)
    change[:, 0], change[:, 1] = (0.5 * (mask * (x - prediction.x))[:, c] for c in TIED)
    torch.testing.assert_close(start.z - prediction.mean, change, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["diagonal", "gauss_newton"])
def test_restarted_rows_know_nothing_and_the_others_everything(method: str) -> None:
    agent, x, mask, action, state = setup("single", method)
    state = agent.infer(x, mask, action, state, full(2)).state
    first = (torch.arange(B) % 3 == 0).double()
    restarted, fresh = agent.restarted(state, first), agent.initial(B)
    assert set(restarted) == set(state) == {"z", "sensors"} | ({"P"} if method == "gauss_newton" else set())
    for name, value in restarted.items():
        assert torch.equal(value[::3], fresh[name][::3])
        assert torch.equal(value[1::3], state[name][1::3])
        assert torch.equal(value[2::3], state[name][2::3])
        assert value.dtype == torch.float64
    assert (fresh["z"] == 0).all()
    if method == "gauss_newton":
        assert torch.equal(fresh["P"][:, 0], torch.eye(6).double().expand(B, 6, 6))


def test_the_policy_reads_its_node_and_the_channels_that_it_explains() -> None:
    """Bottom predicts the channels; the tied ones among them (3 and 0) are latents of it already."""
    agent, *_ = setup("chain", "gauss_newton")
    z, own = torch.randn(B, agent.model.size).double(), agent.model.slices["bottom"]
    elsewhere = z.clone()
    elsewhere[:, : own.start] += 1.0
    explained = agent.model.predict(z)[:, [1, 2, 4]]
    torch.testing.assert_close(agent.model.explain(z), explained)
    torch.testing.assert_close(agent.act(z), agent.policy(torch.cat((z[:, own], explained), -1)))
    assert torch.equal(agent.act(z), agent.act(elsewhere))
    distribution = agent.distribution(z)
    assert isinstance(distribution, Gaussian)
    assert distribution.mean.shape == (B, A)
    assert torch.equal(distribution.std[0], agent.log_std.exp())
    assert agent.value(z, torch.randn(B, D).double()).shape == (B,)


def test_a_policy_on_a_hidden_node_reads_that_node_alone() -> None:
    torch.manual_seed(0)
    agent = Agent(AgentConfig(GRAPHS["chain"], "middle", TIED, 8), D, A).double()
    z, own = torch.randn(B, agent.model.size).double(), agent.model.slices["middle"]
    assert torch.equal(agent.act(z), agent.policy(z[:, own]))


@pytest.mark.parametrize("method", ["hold", "amortized", "gauss_newton"])
def test_tracking_carries_what_inference_carries_to_the_last_bit(method: str) -> None:
    inference = InferenceConfig(method, max_steps=2)
    torch.manual_seed(0)
    channels = (2, 0, 1)
    agent = Agent(AgentConfig(nodes=(Node("state", 3),), hidden=8, tied=channels, inference=inference), 3, 2)
    x, action = torch.randn(B, 3), torch.randn(B, 2)
    mask = torch.randint(2, (B, 3)).float()
    state = agent.initial(B) | {"z": torch.randn(B, 3)}
    expected, got = agent.infer(x, mask, action, state, full(2)).state, agent.track(x, mask, action, state, full(2))
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert not torch.equal(got["z"], state["z"])
