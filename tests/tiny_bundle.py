"""A bundle small enough to check by hand, made without torch.

action = tanh(gain * mean(believed normalised observation) + state) for every joint
free_energy = refine + 1,  steps = refine,  innovation = observation,  verdict = what the test asks for where believed
next.z = z + 0.1,  next.arrivals = arrivals + number of fresh channels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.bundle import METADATA_KEY, graph_digest
from runtime.contract import Contract, Health, Node, Provenance, Refinement, State
from sim.tasks import task_class


def tiny_contract(task: str) -> Contract:
    """Contract of `task` with a one-dimensional latent node."""
    t = task_class(task)
    return Contract(
        robot=t.robot.name,
        rate_hz=t.rate_hz,
        observations=t.observations,
        action=t.action,
        nodes=(Node("state", 1),),
        acting_node="state",
        states=(State("z", (1, 1), (0.0,)), State("arrivals", (1, 1), (0.0,))),
        refinement=Refinement("gradient", default_steps=2, max_steps=8, step_sizes=(), covariance_block=0),
        health=Health(),
        provenance=Provenance(task, "none", 0, 0, "tests/tiny_bundle.py", "none", "2026-01-01T00:00:00Z", {}),
    )


def write_tiny_bundle(
    path: Path,
    task: str,
    gain: float = 0.0,
    contract: Contract | None = None,
    verdicts: Mapping[str, float] | None = None,
) -> Path:
    """Write the bundle to `path`; `gain` may be NaN to make the agent's output non-finite.

    `verdicts` are those on `observation.channel` whenever it is believed, zero for the others.
    """
    contract = contract or tiny_contract(task)
    size, joints = contract.layout.size, contract.layout.joints
    findings = np.array([[(verdicts or {}).get(c, 0.0) for c in contract.layout.channels]], np.float32)

    def value(name: str, kind: int, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(array, name)

    f32 = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["observation"], ["average"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["average", "gain"], ["scaled"]),
            helper.make_node("Add", ["scaled", "state.z"], ["drive"]),
            helper.make_node("Tanh", ["drive"], ["bounded"]),
            helper.make_node("Expand", ["bounded", "action_shape"], ["spread"]),
            helper.make_node("Mul", ["previous_action", "zero"], ["nothing"]),
            helper.make_node("Add", ["spread", "nothing"], ["action"]),
            helper.make_node("Cast", ["refine"], ["refine_float"], to=f32),
            helper.make_node("Add", ["refine_float", "one"], ["free_energy"]),
            helper.make_node("Identity", ["refine"], ["steps"]),
            helper.make_node("Mul", ["observation", "mask"], ["innovation"]),
            helper.make_node("Mul", ["mask", "findings"], ["verdict"]),
            helper.make_node("Add", ["state.z", "tenth"], ["next.z"]),
            helper.make_node("ReduceSum", ["fresh", "channel_axis"], ["arrived"], keepdims=1),
            helper.make_node("Add", ["state.arrivals", "arrived"], ["next.arrivals"]),
        ],
        "tiny",
        [
            value("observation", f32, [1, size]),
            value("mask", f32, [1, size]),
            value("fresh", f32, [1, size]),
            value("previous_action", f32, [1, joints]),
            value("refine", TensorProto.INT64, [1]),
            value("tolerance", f32, [1]),
            value("state.z", f32, [1, 1]),
            value("state.arrivals", f32, [1, 1]),
        ],
        [
            value("action", f32, [1, joints]),
            value("free_energy", f32, [1]),
            value("innovation", f32, [1, size]),
            value("verdict", f32, [1, size]),
            value("steps", TensorProto.INT64, [1]),
            value("next.z", f32, [1, 1]),
            value("next.arrivals", f32, [1, 1]),
        ],
        [
            constant("gain", np.array([gain], np.float32)),
            constant("zero", np.array([0.0], np.float32)),
            constant("one", np.array([1.0], np.float32)),
            constant("tenth", np.array([0.1], np.float32)),
            constant("findings", findings),
            constant("channel_axis", np.array([1], np.int64)),
            constant("action_shape", np.array([1, joints], np.int64)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    contract = replace(contract, digest=graph_digest(model.SerializeToString()))
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    path.write_bytes(model.SerializeToString())
    return path
