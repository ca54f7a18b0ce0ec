"""The agent as one ONNX graph whose number of refinement steps is an input.

The three parts of a tick (start, one refinement step, finish) are traced from the very torch code that trained, and
joined here: the step becomes the body of an ONNX Loop. So every inference method that torch can trace exports as it is.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import onnx
import onnx.numpy_helper
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from training.agent.agent import Agent, Start

OPSET = 18
IR_VERSION = 9  # with opset 18, what onnxruntime 1.16 reads


class _Start(nn.Module):
    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, x: Tensor, mask: Tensor, action: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        start = self.agent.start(x, mask, z, action)
        return start.z, start.drive, start.prediction, start.precision_x, start.gain


class _Step(nn.Module):
    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, z: Tensor, x: Tensor, precision_x: Tensor, drive: Tensor, gain: Tensor) -> Tensor:
        return self.agent.refine(z, x, precision_x, drive, gain)


class _Finish(nn.Module):
    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(
        self, z0: Tensor, drive: Tensor, prediction: Tensor, precision_x: Tensor, gain: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, x, mask = inputs
        belief = self.agent.finish(Start(z0, drive, prediction, precision_x, gain), z, x, mask)
        return self.agent.act(belief.z), belief.free_energy, belief.innovation, belief.z


def _trace(module: nn.Module, inputs: dict[str, int], outputs: list[str], prefix: str) -> onnx.GraphProto:
    """Graph of `module` with inputs (1, size) and the given output names; all other names begin with `prefix`."""
    example = tuple(torch.zeros(1, size) for size in inputs.values())
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module, example, dynamo=True, input_names=list(inputs), output_names=outputs, opset_version=OPSET,
            verbose=False,
        )  # fmt: skip
    assert program is not None
    model = onnxscript.optimizer.optimize(program.model_proto)
    keep = {*inputs, *outputs}
    names = {name: name if name in keep else prefix + name for name in _value_names(model.graph)}
    return _renamed(model.graph, names)


def _value_names(graph: onnx.GraphProto) -> set[str]:
    found = {i.name for i in graph.initializer} | {i.name for i in graph.input}
    for node in graph.node:
        found |= set(node.output)
    return found - {""}


def _renamed(graph: onnx.GraphProto, names: dict[str, str]) -> onnx.GraphProto:
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
        node.name = ""
    return graph


def _share_initializers(graph: onnx.GraphProto) -> None:
    """Keep one copy of every weight that several parts of the tick use."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        name = first.setdefault((tensor.data_type, array.shape, array.tobytes()), tensor.name)
        names[tensor.name] = name
        if name == tensor.name:
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    loop = next(node for node in graph.node if node.op_type == "Loop")
    for node in (*graph.node, *loop.attribute[0].g.node):
        node.input[:] = [names.get(n, n) for n in node.input]


def build_model(agent: Agent) -> onnx.ModelProto:
    """One tick of the agent as an ONNX model without metadata.

    Inputs: observation (1, D), mask (1, D), previous_action (1, A), refine (1,) int64, state.z (1, Z).
    Outputs: action (1, A), free_energy (1,), innovation (1, D), next.z (1, Z).
    """
    d, a, z = agent.observation_size, agent.action_size, agent.model.size
    agent = agent.eval().cpu().float()
    begun = {"start.z": z, "start.drive": z, "start.prediction": d, "start.precision_x": d, "start.gain": z}
    start = _trace(
        _Start(agent),
        {"observation": d, "mask": d, "previous_action": a, "state.z": z},
        list(begun),
        "start/",
    )
    step = _trace(
        _Step(agent),
        {"loop.z": z, "observation": d, "start.precision_x": d, "start.drive": z, "start.gain": z},
        ["loop.next_z"],
        "step/",
    )
    finish = _trace(
        _Finish(agent),
        begun | {"refined.z": z, "observation": d, "mask": d},
        ["action", "free_energy", "innovation", "next.z"],
        "finish/",
    )
    body = helper.make_graph(
        [*step.node, helper.make_node("Identity", ["loop.go_on"], ["loop.still_go_on"])],
        "refinement_step",
        [
            helper.make_tensor_value_info("loop.k", TensorProto.INT64, []),
            helper.make_tensor_value_info("loop.go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("loop.z", TensorProto.FLOAT, [1, z]),
        ],
        [
            helper.make_tensor_value_info("loop.still_go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("loop.next_z", TensorProto.FLOAT, [1, z]),
        ],
    )
    loop = helper.make_node("Loop", ["refine", "", "start.z"], ["refined.z"], body=body)

    def value(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])

    graph = helper.make_graph(
        [*start.node, loop, *finish.node],
        "ganglion_tick",
        [
            value("observation", d),
            value("mask", d),
            value("previous_action", a),
            helper.make_tensor_value_info("refine", TensorProto.INT64, [1]),
            value("state.z", z),
        ],
        [
            value("action", a),
            helper.make_tensor_value_info("free_energy", TensorProto.FLOAT, [1]),
            value("innovation", d),
            value("next.z", z),
        ],
        [*start.initializer, *step.initializer, *finish.initializer],
    )
    _share_initializers(graph)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ganglion"
    )
    onnx.checker.check_model(model, full_check=True)
    return model
