"""The exported graph computes what torch computes, for every method, and the gate notices when it does not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from export.exporter import describe, refine_to_compare, write_bundle
from export.gate import ParityError, answers, check_parity
from export.graph import IR_VERSION, OPSET, build_model
from export.record import Recording
from runtime.bundle import Bundle
from runtime.contract import WITHOUT_STEPS, Contract, Node, State
from training.agent.agent import Agent
from training.agent.config import AgentConfig, InferenceConfig
from training.checkpoint import build_agent
from training.config import TrainConfig

CHAIN = (Node("top", 2), Node("middle", 2, ("top",)), Node("bottom", 4, ("middle",)))
DIAMOND = (Node("top", 1), Node("left", 2, ("top",)), Node("right", 1, ("top",)), Node("join", 4, ("left", "right")))
SINGLE = (Node("state", 6),)
ALL_TIED = (Node("state", 4),)
METHODS = {
    "hold": AgentConfig(ALL_TIED, "state", (0, 1, 2, 3), inference=InferenceConfig("hold")),
    "amortized": AgentConfig(SINGLE, "state", (0, 1), inference=InferenceConfig("amortized")),
    "gradient": AgentConfig(CHAIN, "top", inference=InferenceConfig("gradient", "learned", max_steps=5)),
    "diagonal": AgentConfig(DIAMOND, "top", inference=InferenceConfig("diagonal", "chebyshev", max_steps=5)),
    "gauss_newton": AgentConfig(SINGLE, "state", (0, 1, 3), precision_by_state=True),
    "blocks": AgentConfig(CHAIN, "middle", inference=InferenceConfig(schedule="constant", covariance_block=4)),
}
CHOOSING = AgentConfig(ALL_TIED, "state", (0, 1, 2, 3), hidden=8, head="categorical", choices=((-1.0,), (1.0,)))
TICKS, EPISODE = 60, 15


def random_agent(config: TrainConfig) -> Agent:
    """An agent with random weights, whose sensor checks are strict enough to find something."""
    torch.manual_seed(0)
    agent = build_agent(config)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        agent.sensors.spike.fill_(2.0)
        agent.sensors.drift.fill_(3.0)
        agent.sensors.repeats.fill_(2.0)
    return agent.eval()


@torch.no_grad()
def torch_ticks(agent: Agent) -> Recording:
    """Episodes of random walks with missing, late and frozen readings at K = 0 to 4, and the states on the way."""
    rng = np.random.default_rng(0)
    d, a = agent.observation_size, agent.action_size
    rows = []
    x = rng.standard_normal((1, d))
    for tick in range(TICKS):
        x = np.where(rng.random((1, d)) > 0.4, 0.95 * x + 0.2 * rng.standard_normal((1, d)), x)
        mask = (rng.random((1, d)) > 0.2).astype(np.float32)
        row = {
            "observation": np.float32(x) * mask, "mask": mask, "fresh": np.float32(rng.random((1, d)) > 0.1),
            "previous_action": np.float32(rng.uniform(-1, 1, (1, a))), "refine": rng.choice((0, 1, 4), 1),
        }  # fmt: skip
        if tick % EPISODE == 0:
            state = agent.initial()
        inputs = {name: torch.from_numpy(value) for name, value in row.items()}
        seen, mask_now, fresh, action, steps = inputs.values()
        belief = agent.infer(seen, mask_now, action, state, steps, fresh)
        carried = {f"state.{n}": v.numpy() for n, v in state.items()}
        rows.append(row | {"verdict": belief.start.verdict.numpy()} | carried)
        state = belief.state
    return Recording(np.arange(TICKS) % EPISODE, {name: np.concatenate([r[name] for r in rows]) for name in rows[0]})


@functools.cache
def built(task: str, method: str) -> tuple[Agent, onnx.ModelProto, Contract, Recording, tuple[int, ...]]:
    config = TrainConfig(task, agent=replace(METHODS[method], hidden=8))
    agent = random_agent(config)
    contract = describe(agent, config, 0)
    return agent, build_model(agent), contract, torch_ticks(agent), refine_to_compare(config, contract)


@pytest.mark.parametrize("method", METHODS)
def test_graph_equals_torch_in_every_method(method: str, tmp_path: Path) -> None:
    agent, model, contract, ticks, refine = built("cartpole", method)
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR_VERSION)
    bundle = Bundle.load(write_bundle(tmp_path / "b.onnx", model, contract))
    parity = check_parity(agent, bundle, ticks, refine)
    assert parity.refine == ((0,) if method in WITHOUT_STEPS else (0, 1, 4))
    assert (parity.observations, parity.sequence_ticks) == (TICKS, TICKS)
    assert 0.1 < parity.masked_fraction < 0.3
    assert 0 < parity.max_difference < 1e-4
    assert set(ticks["verdict"].flat) == {0, 1, 2}, "the sensor checks are compared at work"


@pytest.mark.parametrize("method", [m for m in METHODS if m not in WITHOUT_STEPS])
def test_refinement_ends_with_the_step_that_lowers_free_energy_no_more(method: str, tmp_path: Path) -> None:
    agent, model, contract, ticks, _ = built("cartpole", method)
    session = Bundle.load(write_bundle(tmp_path / "b.onnx", model, contract)).start().session
    names = [o.name for o in session.get_outputs()]
    given = {n: a for n, a in ticks.arrays.items() if n not in ("refine", "verdict")}
    tensors = {n: torch.from_numpy(a) for n, a in given.items()}
    state = {n.removeprefix("state."): v for n, v in tensors.items() if n.startswith("state.")}
    x, mask, action, fresh = (tensors[n] for n in ("observation", "mask", "previous_action", "fresh"))
    five = torch.full((TICKS,), 5)
    with torch.no_grad():
        start, _ = agent.start(x, mask, action, state, fresh)
        first = agent.refine(start.z, x, start, torch.tensor(0), five)[1].numpy()
    middle = float(np.median(first))
    for nats, made in ((-1.0, [5] * TICKS), (middle, None), (1e30, [1] * TICKS)):
        tolerance = np.array([nats], np.float32)
        with torch.no_grad():
            belief = agent.infer(x, mask, action, state, five, fresh, torch.from_numpy(tolerance))
        assert made is None or belief.steps.tolist() == made
        assert made or (belief.steps == 1).tolist() == (first <= middle).tolist()
        for i in range(TICKS):
            inputs = {n: a[i : i + 1] for n, a in given.items()} | {"refine": np.array([5]), "tolerance": tolerance}
            ours = dict(zip(names, session.run(names, inputs)))
            assert ours["steps"].tolist() == [belief.steps[i]]
            np.testing.assert_allclose(ours["next.z"][0], belief.z[i], rtol=1e-4, atol=1e-4)


def test_weights_are_stored_once_and_once_for_the_steps() -> None:
    _, model, *_ = built("cartpole", "gauss_newton")
    for graph in (model.graph, body(model)):
        stored = [(tuple(t.dims), t.data_type, numpy_helper.to_array(t).tobytes()) for t in graph.initializer]
        assert len(set(stored)) == len(stored) > 0


def body(model: onnx.ModelProto) -> onnx.GraphProto:
    """The refinement step."""
    graph: onnx.GraphProto = next(n for n in model.graph.node if n.op_type == "Loop").attribute[0].g
    return graph


def other_weight(model: onnx.ModelProto, by: float) -> None:
    tensor = next(t for t in model.graph.initializer if t.name.endswith("free.inner_bias"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(by), tensor.name))


def frozen_gradient(model: onnx.ModelProto) -> None:
    """Every step goes along the gradient at the amortized answer."""
    for node in body(model).node:
        if "loop.next_z" not in node.output:
            node.input[:] = ["start.z" if name == "loop.z" else name for name in node.input]


def turned_state(model: onnx.ModelProto) -> None:
    """The rows of the carried sensor belief in another order."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 0, 2, 3, 4]), "order"))
    for node in model.graph.node:
        node.input[:] = ["turned" if name == "state.sensors" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Gather", ["state.sensors", "order"], ["turned"], axis=1))


def forgotten_state(model: onnx.ModelProto) -> None:
    """The covariance that was read is carried on."""
    for node in model.graph.node:
        node.output[:] = ["unused" if name == "next.P" else name for name in node.output]
    model.graph.node.append(helper.make_node("Identity", ["state.P"], ["next.P"]))


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda model: other_weight(model, 0.1), "K = 0, tick 0"),
        (lambda model: other_weight(model, np.nan), "nan in .* K = 0, tick 0"),
        (frozen_gradient, "K = 4"),
        (turned_state, "(verdict|next.sensors) at K = 0"),
        (forgotten_state, "next.P at K = 0"),
    ],
)
def test_the_gate_catches_a_wrong_graph(spoil: Callable[[onnx.ModelProto], None], where: str, tmp_path: Path) -> None:
    agent, model, contract, ticks, refine = built("cartpole", "gauss_newton")
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    spoil(wrong)
    bundle = Bundle.load(write_bundle(tmp_path / "b.onnx", wrong, contract))
    with pytest.raises(ParityError, match=f"differs from torch by .*{where}"):
        check_parity(agent, bundle, ticks, refine)


def test_the_gate_catches_a_wrong_beginning(tmp_path: Path) -> None:
    """Which no single tick can show."""
    agent, model, contract, ticks, refine = built("cartpole", "gauss_newton")
    states = tuple(
        State(s.name, s.shape, tuple(2 * v for v in s.initial)) if s.name == "P" else s for s in contract.states
    )
    bundle = Bundle.load(write_bundle(tmp_path / "b.onnx", model, replace(contract, states=states)))
    with pytest.raises(ParityError, match="at tick 0 of a sequence"):
        check_parity(agent, bundle, ticks, refine)


def test_the_contract_describes_every_method() -> None:
    found = {}
    for method, agent_config in METHODS.items():
        config = TrainConfig("cartpole", agent=replace(agent_config, hidden=8))
        agent = random_agent(config)
        found[method] = describe(agent, config, 0)
        if method == "gradient":
            assert agent.method.steps is not None
            learned = tuple(agent.method.steps.raw.exp().tolist())
    refinements = {name: contract.refinement for name, contract in found.items()}
    assert {n: (r.method, r.default_steps, r.max_steps, r.covariance_block) for n, r in refinements.items()} == {
        "hold": ("hold", 0, 0, 0),
        "amortized": ("amortized", 0, 0, 0),
        "gradient": ("gradient", 1, 5, 0),
        "diagonal": ("diagonal", 1, 5, 0),
        "gauss_newton": ("gauss_newton", 1, 8, 6),
        "blocks": ("gauss_newton", 1, 8, 4),
    }
    assert {n: r.step_sizes for n, r in refinements.items() if r.step_sizes} == {"gradient": pytest.approx(learned)}
    states = {name: {s.name: s.shape for s in contract.states} for name, contract in found.items()}
    assert states["gradient"] == {"z": (1, 8), "sensors": (1, 5, 4)}
    assert states["gauss_newton"] == {"z": (1, 6), "P": (1, 1, 6, 6), "sensors": (1, 5, 4)}
    assert states["blocks"] == {"z": (1, 8), "P": (1, 2, 4, 4), "sensors": (1, 5, 4)}
    initial = {s.name: s.initial for s in found["blocks"].states}
    assert initial["z"] == (0.0,) * 8
    assert initial["P"] == tuple(np.tile(np.eye(4), (2, 1, 1)).flatten())
    assert initial["sensors"] == (1e6,) * 4 + (0.0,) * 16


def drafted(agent: Agent, folder: Path) -> Bundle:
    contract = describe(agent, TrainConfig("cartpole_push", agent=CHOOSING), 0)
    return Bundle.load(write_bundle(folder / "choosing.onnx", build_model(agent), contract))


def test_the_graph_of_a_choosing_agent_commands_the_best_choice(tmp_path: Path) -> None:
    agent = random_agent(TrainConfig("cartpole_push", agent=CHOOSING))
    with torch.no_grad():
        agent.policy[-1].weight.normal_()  # type: ignore[operator]
    ticks, bundle = torch_ticks(agent), drafted(agent, tmp_path)
    assert check_parity(agent, bundle, ticks, (0, 1)).max_difference <= 1e-4
    session = bundle.start().session
    commanded = {float(answer["action"].item()) for answer in answers(session, ticks, 1)}
    assert commanded == {-1.0, 1.0}


@pytest.mark.parametrize(("lead", "refused"), [(5e-5, False), (1e-2, True)])
def test_either_of_two_choices_that_are_as_good_is_right(lead: float, refused: bool, tmp_path: Path) -> None:
    """The graph takes the first of two equal ones; torch gives the second one a lead."""
    agent = random_agent(TrainConfig("cartpole_push", agent=CHOOSING))
    last = agent.policy[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    bundle = drafted(agent, tmp_path)
    with torch.no_grad():
        last.bias[1] = lead
    if refused:
        with pytest.raises(ParityError, match="differs from torch by 2 in action"):
            check_parity(agent, bundle, torch_ticks(agent), (0,))
    else:
        check_parity(agent, bundle, torch_ticks(agent), (0,))
