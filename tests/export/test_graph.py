"""The exported graph computes what torch computes, for any latent graph and any number of steps."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from export.graph import IR_VERSION, OPSET, build_model
from tests.training.test_model import GRAPHS
from training.agent.agent import Agent
from training.agent.config import AgentConfig

D, A = 6, 2


@functools.cache
def make(graph: str) -> tuple[Agent, onnx.ModelProto]:
    torch.manual_seed(0)
    nodes = GRAPHS[graph]
    agent = Agent(AgentConfig(nodes=nodes, acting_node=nodes[0].name, hidden=8), D, A)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return agent, build_model(agent)


@pytest.mark.parametrize("graph", GRAPHS)
def test_graph_equals_torch_on_many_inputs(graph: str) -> None:
    agent, model = make(graph)
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR_VERSION)
    assert {node.domain for node in model.graph.node} == {""}, "operators of stock onnxruntime only"
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    refined = []
    for steps in (0, 1, 3, 16):
        for _ in range(20):
            mask = (rng.random((1, D)) > 0.3).astype(np.float32)
            x = rng.standard_normal((1, D)).astype(np.float32) * mask
            action = rng.standard_normal((1, A)).astype(np.float32)
            z = rng.standard_normal((1, agent.model.size)).astype(np.float32)
            got = session.run(
                ["action", "free_energy", "innovation", "next.z"],
                {
                    "observation": x, "mask": mask, "previous_action": action, "refine": np.array([steps]),
                    "state.z": z,
                },
            )  # fmt: skip
            with torch.no_grad():
                inputs = torch.from_numpy(x), torch.from_numpy(mask), torch.from_numpy(z), torch.from_numpy(action)
                belief, start = agent.infer(*inputs, torch.tensor([steps]))
                expected = (agent.act(belief.z), belief.free_energy, belief.innovation, belief.z)
            for ours, theirs in zip(got, expected, strict=True):
                np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
            refined.append((steps, float(np.abs(got[3] - start.z.numpy()).max())))
    assert all(moved < 1e-5 for steps, moved in refined if steps == 0)
    assert np.mean([moved > 1e-3 for steps, moved in refined if steps > 0]) > 0.9, "the loop really refines"


def test_weights_are_stored_once() -> None:
    agent, model = make("single")
    stored = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    parameters = sum(p.numel() for n, p in agent.named_parameters() if not n.startswith("critic"))
    assert stored < 1.5 * parameters
