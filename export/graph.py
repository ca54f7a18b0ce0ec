"""The agent as one ONNX graph whose number of refinement steps is an input.

The three parts of a tick (start, one refinement step, finish) are traced from the very torch code that trained, and
joined here: the step becomes the body of an ONNX Loop. So every inference method that torch can trace exports as it is.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxscript
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from export.lean import Arrays, lean
from runtime.contract import WITHOUT_STEPS
from training.agent.agent import Agent, Start
from training.agent.model import Prior

OPSET = 18
_MICROSOFT = "com.microsoft"
_PRIOR = "prior_"  # begins the names of the prior's tensors
_OPSETS = [helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT, 1)]
IR_VERSION = 9  # with opset 18, what onnxruntime 1.16 reads


class _Start(nn.Module):
    def __init__(self, agent: Agent, states: list[str]) -> None:
        super().__init__()
        self.agent, self.states = agent, states

    def forward(self, x: Tensor, mask: Tensor, fresh: Tensor, action: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        start, _ = self.agent.start(x, mask, action, dict(zip(self.states, state)), fresh)
        return tuple(_flat(start).values())


class _Step(nn.Module):
    def __init__(self, agent: Agent, names: list[str]) -> None:
        super().__init__()
        self.agent, self.names = agent, names

    def forward(
        self, z: Tensor, x: Tensor, k: Tensor, steps: Tensor, tolerance: Tensor, *start: Tensor
    ) -> tuple[Tensor, Tensor]:
        stepped, fall = self.agent.refine(z, x, _start(self.names, start), k, steps)
        return stepped, (fall > tolerance).squeeze()


class _Finish(nn.Module):
    def __init__(self, agent: Agent, names: list[str], states: list[str]) -> None:
        super().__init__()
        self.agent, self.names, self.states = agent, names, states

    def forward(self, z: Tensor, x: Tensor, *start: Tensor) -> tuple[Tensor, ...]:
        carried, free_energy = self.agent.finish(_start(self.names, start), z, x)
        action = self.agent.act(carried["z"], carried.get("gait"))
        return action, free_energy, *(carried[name] for name in self.states)


def _flat(start: Start) -> dict[str, Tensor]:
    """The tensors of `start` by name, those of its prior included."""
    plain = {f.name: getattr(start, f.name) for f in fields(Start) if f.name != "prior"}
    tensors = plain | {f"{_PRIOR}{f.name}": getattr(start.prior, f.name) for f in fields(Prior)}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _start(names: list[str], tensors: tuple[Tensor, ...]) -> Start:
    """The inverse of `_flat`."""
    given = dict(zip(names, tensors, strict=True))
    prior = {name.removeprefix(_PRIOR): given.pop(name) for name in names if name.startswith(_PRIOR)}
    return Start(prior=Prior(**prior), **given)


def _inverse(matrix: Any) -> Any:
    """The kernel of onnxruntime; the ONNX standard has none."""
    parameter = onnx.defs.OpSchema.FormalParameter
    schema = onnx.defs.OpSchema(
        "Inverse", _MICROSOFT, 1, inputs=[parameter("X", "T")], outputs=[parameter("Y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
    )  # fmt: skip
    return onnxscript.values.Op(onnxscript.values.Opset(_MICROSOFT, 1), "Inverse", schema)(matrix)


def _trace(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], prefix: str, constants: Arrays, fixed: list[str]
) -> tuple[onnx.GraphProto, Arrays]:
    """Lean graph of `module` with the given example inputs and output names; all other names begin with `prefix`.

    Also gives the outputs that depend on none of the inputs besides `constants`.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in ("torch.onnx", "onnx_ir"):
            logging.getLogger(name).setLevel(logging.ERROR)
        program = torch.onnx.export(
            module, tuple(v.clone() for v in inputs.values()), input_names=list(inputs), output_names=outputs,
            dynamo=True, opset_version=OPSET, verbose=False,
            custom_translation_table={torch.ops.ganglion.inverse.default: _inverse},
        )  # fmt: skip
    assert program is not None
    model = onnxscript.optimizer.optimize(program.model_proto)
    examples = {name: value.detach().numpy() for name, value in inputs.items()}
    graph, known = lean(model.graph, examples, constants, fixed, _OPSETS)
    keep = {*inputs, *outputs} - {*constants}
    names = {name: name if name in keep else prefix + name for name in _value_names(graph)}
    return _renamed(graph, names), known


def _split(nodes: Iterable[onnx.NodeProto], reached: set[str]) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes that depend on one of the values `reached`, and the others."""
    varying, invariant = [], []
    for node in nodes:
        if reached & set(node.input):
            reached = reached | set(node.output)
            varying.append(node)
        else:
            invariant.append(node)
    return varying, invariant


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
    """Keep one copy of every weight that several parts of the tick use, and one for the steps.

    The step has its own, since onnxruntime would hand those of the outer graph to every single step.
    """
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {}
    kept = {}
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        name = first.setdefault((tensor.data_type, array.shape, array.tobytes()), tensor.name)
        names[tensor.name] = name
        if name == tensor.name:
            kept[name] = tensor
    del graph.initializer[:]
    graph.initializer.extend(kept.values())
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
    for body in (attribute.g for node in graph.node if node.op_type == "Loop" for attribute in node.attribute):
        for node in body.node:
            node.input[:] = [f"loop.{names[n]}" if n in names else n for n in node.input]
        for name in dict.fromkeys(n for node in body.node for n in node.input):
            if name.removeprefix("loop.") in kept:
                own = body.initializer.add()
                own.CopyFrom(kept[name.removeprefix("loop.")])
                own.name = name


def _unrefined() -> list[onnx.NodeProto]:
    """The nodes that stand in for `_refinement` where the method makes no steps."""
    return [helper.make_node("Identity", ["start.z"], ["refined.z"]), _constant("steps", 0)]


def _refinement(step: onnx.GraphProto, z: Tensor) -> list[onnx.NodeProto]:
    """The nodes that make refined.z, shaped as `z`, of start.z by the Loop of a traced `step`, and count its steps."""
    varying, invariant = _split(step.node, {"loop.z", "loop.k"})
    scalar = helper.make_tensor_value_info
    count = [_constant("loop.one", 1), helper.make_node("Add", ["loop.k", "loop.one"], ["loop.next_steps"])]
    body = helper.make_graph(
        [*varying, *count],
        "refinement_step",
        [
            scalar("loop.k", TensorProto.INT64, []),
            scalar("loop.went_on", TensorProto.BOOL, []),
            _value("loop.z", z),
            scalar("loop.steps", TensorProto.INT64, [1]),
        ],
        [
            scalar("loop.go_on", TensorProto.BOOL, []),
            _value("loop.next_z", z),
            scalar("loop.next_steps", TensorProto.INT64, [1]),
        ],
    )
    return [
        *invariant,
        _constant("start.steps", 0),
        helper.make_node("Loop", ["refine", "", "start.z", "start.steps"], ["refined.z", "steps"], body=body),
    ]


def _constant(name: str, value: int) -> onnx.NodeProto:
    array = onnx.numpy_helper.from_array(np.array([value], np.int64))
    return helper.make_node("Constant", [], [name], value=array)


def _value(name: str, example: Tensor) -> onnx.ValueInfoProto:
    kind = TensorProto.INT64 if example.dtype == torch.int64 else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, list(example.shape))


def build_model(agent: Agent) -> onnx.ModelProto:
    """One tick of the agent as an ONNX model without metadata.

    Inputs: observation (1, D), mask (1, D), fresh (1, D), previous_action (1, A), refine (1,) int64, tolerance (1,),
    and state.NAME for everything that the agent carries. Outputs: action (1, A), free_energy (1,), innovation (1, D),
    verdict (1, D), steps (1,) int64, and next.NAME.
    """
    agent = agent.eval().cpu().float()
    carried = agent.initial()
    states = list(carried)
    d, a = agent.observation_size, agent.action_size
    inputs = {
        "observation": torch.zeros(1, d), "mask": torch.ones(1, d), "fresh": torch.ones(1, d),
        "previous_action": torch.zeros(1, a),
    } | {f"state.{name}": value for name, value in carried.items()}  # fmt: skip
    with torch.no_grad():
        began, _ = agent.start(
            inputs["observation"], inputs["mask"], inputs["previous_action"], carried, inputs["fresh"]
        )
    named = {"innovation": "innovation", "verdict": "verdict"}
    flat = _flat(began)
    begun = {named.get(name, f"start.{name}"): value for name, value in flat.items()}
    refine, tolerance = {"refine": torch.ones(1, dtype=torch.int64)}, {"tolerance": torch.zeros(1)}
    fixed = [*inputs, *refine, *tolerance, "loop.k", "loop.go_on", "free_energy", *(f"next.{name}" for name in states)]
    start, constants = _trace(_Start(agent, states), inputs, list(begun), "start/", {}, fixed)
    looked = {"observation": inputs["observation"]}
    counter = {"loop.k": torch.tensor(0)} | refine | tolerance
    step, _ = _trace(
        _Step(agent, list(flat)),
        {"loop.z": begun["start.z"]} | looked | counter | begun,
        ["loop.next_z", "loop.go_on"],
        "step/",
        constants,
        fixed,
    )
    outputs = ["action", "free_energy", *(f"next.{name}" for name in states)]
    finish, _ = _trace(
        _Finish(agent, list(flat), states),
        {"refined.z": begun["start.z"]} | looked | begun,
        outputs,
        "finish/",
        constants,
        fixed,
    )
    results = {"action": inputs["previous_action"], "free_energy": torch.zeros(1)}
    results |= {"innovation": inputs["mask"], "verdict": inputs["mask"], "steps": refine["refine"]}
    results |= {f"next.{name}": value for name, value in carried.items()}
    without_steps = agent.config.inference.method in WITHOUT_STEPS
    refined = _unrefined() if without_steps else _refinement(step, carried["z"])
    graph = helper.make_graph(
        [*start.node, *refined, *finish.node],
        "ganglion_tick",
        [_value(name, value) for name, value in (inputs | refine | tolerance).items()],
        [_value(name, value) for name, value in results.items()],
        [*start.initializer, *step.initializer, *finish.initializer],
    )
    _share_initializers(graph)
    model = helper.make_model(graph, opset_imports=_OPSETS, ir_version=IR_VERSION, producer_name="ganglion")
    onnx.checker.check_model(model, full_check=True)
    return model
