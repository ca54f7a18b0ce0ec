"""Worked examples: agents on a chain and on a diamond of nodes are built, infer, act, and learn in two ways.

The chain is the classic hierarchy: each level predicts the one below, the lowest predicts the sensors. In the diamond
two nodes share a parent and a child. `acting_node` says which node the policy reads.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from runtime.contract import Node
from training.agent.agent import Agent, Belief, State
from training.agent.config import AgentConfig, InferenceConfig
from training.local_learning import local_gradients, set_gradients

torch.set_num_threads(1)

CHANNELS, ACTIONS, TICKS, BATCH = 6, 2, 5, 16
CHAIN = AgentConfig(
    nodes=(Node("goal", 2), Node("posture", 3, ("goal",)), Node("joints", 4, ("posture",))),
    acting_node="posture",
    tied=(0, 1, 2, 3),  # the joints' latents are the first four channels
    hidden=16,
    inference=InferenceConfig(method="diagonal"),
)
DIAMOND = AgentConfig(
    nodes=(Node("body", 2), Node("arm", 3, ("body",)), Node("base", 2, ("body",)), Node("hand", 4, ("arm", "base"))),
    acting_node="hand",
    tied=(0, 1, 2, 3),
    hidden=16,
    inference=InferenceConfig(method="gauss_newton"),
)
EXAMPLES = pytest.mark.parametrize("config", [CHAIN, DIAMOND], ids=["chain", "diamond"])
STEPS = torch.full((BATCH,), 8)


def make(config: AgentConfig) -> tuple[Agent, Tensor, Tensor]:
    """An agent, and observations (T, B, D) of two hidden oscillations with their masks: one reading in five is lost."""
    torch.manual_seed(0)
    agent = Agent(config, CHANNELS, ACTIONS)
    phase = 0.3 * torch.arange(TICKS).reshape(-1, 1, 1) + 6.0 * torch.rand(BATCH, 1)
    hidden = torch.cat((phase.sin(), phase.cos()), -1)
    x = hidden @ torch.randn(2, CHANNELS) + 0.05 * torch.randn(TICKS, BATCH, CHANNELS)
    return agent, x, (torch.rand_like(x) < 0.8).float()


def filtered(agent: Agent, x: Tensor, mask: Tensor, learn: Callable[[Tensor, Belief, State], None]) -> Tensor:
    """Mean F over all ticks; `learn` is called at every tick with its number, the belief and the state before."""
    state, energies = agent.initial(BATCH), []
    for t in range(TICKS):
        belief = agent.infer(x[t], mask[t], torch.zeros(BATCH, ACTIONS), state, STEPS)
        learn(torch.tensor(t), belief, state)
        energies.append(belief.free_energy.mean())
        state = belief.state
    return torch.stack(energies).mean()


def watch(t: Tensor, belief: Belief, before: State) -> None:
    """Learn nothing."""


@EXAMPLES
def test_infer_and_act(config: AgentConfig) -> None:
    agent, x, mask = make(config)
    with torch.no_grad():
        belief = agent.infer(x[0], mask[0], torch.zeros(BATCH, ACTIONS), agent.initial(BATCH), STEPS)
        amortized = agent.model.free_energy(belief.start.z, x[0], mask[0], belief.prediction.prior)
    assert (belief.free_energy <= amortized).all()
    assert (belief.free_energy < amortized).any()
    others = [part for name, part in agent.model.slices.items() if name != config.acting_node]
    changed = belief.z.clone()
    for part in others:
        changed[:, part] += 1.0
    assert torch.equal(agent.act(changed), agent.act(belief.z))  # the policy reads its own node alone
    changed[:, agent.model.slices[config.acting_node]] += 1.0
    assert not torch.equal(agent.act(changed), agent.act(belief.z))


@EXAMPLES
def test_learn_locally(config: AgentConfig) -> None:
    """Online: at every tick each node learns from its own error at the inferred state, then the tick is forgotten.

    The encoder does not learn along, so the rate must be low enough for the refinement to reach what has moved.
    """
    agent, x, mask = make(config)
    optimizer = torch.optim.Adam(agent.model.parameters(), lr=0.003)

    def learn(t: Tensor, belief: Belief, before: State) -> None:
        prior, action = belief.prediction.prior, torch.zeros(BATCH, ACTIONS)
        set_gradients(agent.model, local_gradients(agent.model, belief.z, before["z"], action, x[t], mask[t], prior))
        optimizer.step()

    with torch.no_grad():
        before = filtered(agent, x, mask, watch)
        for _ in range(10):
            filtered(agent, x, mask, learn)
        after = filtered(agent, x, mask, watch)
    assert after < before - 1.0  # nats per tick


@EXAMPLES
def test_learn_by_backpropagation(config: AgentConfig) -> None:
    """The same F, differentiated through the refinement and through time, encoder included."""
    agent, x, mask = make(config)
    optimizer = torch.optim.Adam([*agent.model.parameters(), *agent.encoder.parameters()], lr=0.01)
    energies = []
    for _ in range(8):
        energy = filtered(agent, x, mask, watch)
        optimizer.zero_grad()
        energy.backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
        optimizer.step()
        energies.append(energy.item())
    assert energies[-1] < energies[0] - 1.0
