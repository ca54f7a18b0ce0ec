"""Every rule that makes a graph lean, on a small graph: the same values, and the nodes gone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.lean import Arrays, lean

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
ROW, MATRIX = (1, 4), (3, 4)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph_of(nodes: list[NodeProto], inputs: Arrays, weights: Arrays, outputs: list[str]) -> onnx.GraphProto:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in inputs.items()]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    return helper.make_graph(nodes, "g", infos, [helper.make_empty_tensor_value_info(n) for n in outputs], tensors)


def run(graph: onnx.GraphProto, inputs: Arrays) -> Arrays:
    """Outputs of the graph as it is, without what onnxruntime would fuse itself."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=9).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    needed = {i.name: inputs[i.name].reshape(i.shape) for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, needed)))


def leaned(
    nodes: list[NodeProto],
    inputs: Arrays,
    weights: Arrays | None = None,
    outputs: tuple[str, ...] = ("y",),
    fixed: tuple[str, ...] = ("y",),
) -> onnx.GraphProto:
    """The lean graph, after a look whether it gives what the graph gave, on other inputs than it was traced with."""
    graph = graph_of(nodes, inputs, weights or {}, list(outputs))
    lean_graph, known = lean(graph, inputs, {}, [*fixed, *inputs], OPSETS)
    others = {name: numbers(*value.shape, seed=1 + i) for i, (name, value) in enumerate(inputs.items())}
    expected, found = run(graph, others), run(lean_graph, others) | known
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.shape == found[name].shape or name not in fixed
        np.testing.assert_allclose(found[name].reshape(value.shape), value, rtol=2e-5, atol=2e-5)
    return lean_graph


def kinds(graph: onnx.GraphProto) -> dict[str, int]:
    return dict(Counter(n.op_type for n in graph.node))


def attributes(graph: onnx.GraphProto) -> dict[str, Any]:
    """Of the only node, without what it has by default."""
    (only,) = graph.node
    found = {a.name: helper.get_attribute_value(a) for a in only.attribute}
    default = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    return {name: value for name, value in found.items() if value != default.get(name)}


def weights_of(graph: onnx.GraphProto) -> Arrays:
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer}


def test_what_depends_on_weights_alone_becomes_a_weight() -> None:
    nodes = [node("Exp", "w", "e"), node("Mul", "e e", "ee"), node("Add", "x ee", "y")]
    graph = leaned(nodes, {"x": numbers(*ROW)}, {"w": np.ones(4, np.float32)})
    assert kinds(graph) == {"Add": 1}
    assert [v.ravel() for v in weights_of(graph).values()] == [pytest.approx(np.full(4, np.e**2), rel=1e-6)]


def test_outputs_that_no_input_reaches_are_given_beside_the_graph() -> None:
    nodes = [node("Neg", "x", "y"), node("Neg", "w", "constant")]
    graph = graph_of(nodes, {"x": numbers(*ROW)}, {"w": np.ones((1, 2), np.float32)}, ["y", "constant"])
    lean_graph, known = lean(graph, {"x": numbers(*ROW)}, {}, ["x", "y"], OPSETS)
    assert [o.name for o in lean_graph.output] == ["y"]
    assert {name: value.tolist() for name, value in known.items()} == {"constant": [[-1.0, -1.0]]}


def test_an_input_that_is_always_the_same_is_folded() -> None:
    x, c = numbers(*ROW), numbers(*ROW, seed=3)
    nodes = [node("Exp", "c", "e"), node("Mul", "x e", "y")]
    graph, _ = lean(graph_of(nodes, {"x": x, "c": c}, {}, ["y"]), {"x": x, "c": c}, {"c": c}, ["x", "y"], OPSETS)
    assert kinds(graph) == {"Mul": 1}
    assert [i.name for i in graph.input] == ["x"]
    np.testing.assert_allclose(run(graph, {"x": x})["y"], x * np.exp(c), rtol=1e-6)


def test_what_no_output_needs_goes() -> None:
    nodes = [node("Exp", "x", "unused"), node("Add", "unused w", "neither"), node("Neg", "x", "y")]
    graph = leaned(nodes, {"x": numbers(*ROW), "idle": numbers(*ROW)}, {"w": numbers(*ROW)})
    assert (kinds(graph), [i.name for i in graph.input], graph.initializer) == ({"Neg": 1}, ["x"], [])


def test_axes_of_length_one_come_and_go_without_nodes() -> None:
    nodes = [
        node("Unsqueeze", "x first", "a"),
        node("Tanh", "a", "b"),
        node("Reshape", "b long", "c"),
        node("Mul", "c w", "d"),
        node("Squeeze", "d both", "e"),
        node("Identity", "e", "f"),
        node("Abs", "f", "y"),
    ]
    weights = {"first": np.array([0]), "long": np.array([1, 1, 1, 4]), "both": np.array([0, 1])}
    graph = leaned(nodes, {"x": numbers(*ROW)}, weights | {"w": numbers(1, 1, 1, 4)})
    assert kinds(graph) == {"Tanh": 1, "Mul": 1, "Abs": 1}


def test_a_reshape_of_other_axes_stays() -> None:
    graph = leaned(
        [node("Reshape", "x s", "r"), node("Abs", "r", "y")], {"x": numbers(*MATRIX)}, {"s": np.array([6, 2])}
    )
    assert kinds(graph) == {"Reshape": 1, "Abs": 1}


@pytest.mark.parametrize(
    ("shape", "perm", "gone"),
    [((1, 1, 3, 4), (1, 0, 2, 3), True), ((1, 3, 1, 4), (0, 2, 1, 3), True), ((1, 1, 3, 4), (0, 1, 3, 2), False)],
)
def test_a_transpose_that_moves_only_axes_of_length_one_goes(
    shape: tuple[int, ...], perm: tuple[int, ...], gone: bool
) -> None:
    graph = leaned([node("Exp", "x", "e"), node("Transpose", "e", "t", perm=perm), node("Abs", "t", "y")],
                   {"x": numbers(*shape)}, fixed=())  # fmt: skip
    assert kinds(graph).get("Transpose", 0) == (0 if gone else 1)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Concat", "x w", "c", axis=2), node("Abs", "c", "y")], {"w": numbers(1, 1, 2, 4)}),
        ([node("Concat", "x w", "c", axis=-1), node("Abs", "c", "y")], {"w": numbers(1, 1, 3, 2)}),
        ([node("Gather", "x i", "c", axis=2), node("Abs", "c", "y")], {"i": np.array([2, 0])}),
        ([node("GatherElements", "x i", "c", axis=-2), node("Abs", "c", "y")], {"i": np.array([[[[2, 0, 1, 2]]]])}),
        ([node("Split", "x", "a c", axis=3, num_outputs=2), node("Add", "a c", "y")], {}),
        ([node("ReduceMax", "x i", "c", keepdims=1), node("Abs", "c", "y")], {"i": np.array([3])}),
        ([node("ReduceMin", "x i", "c", keepdims=1), node("Abs", "c", "y")], {"i": np.array([-2])}),
        ([node("ArgMax", "x", "c", axis=2), node("Cast", "c", "y", to=TensorProto.FLOAT)], {}),
    ],
)
def test_what_goes_along_an_axis_does_so_on_the_matrix(nodes: list[NodeProto], weights: Arrays) -> None:
    graph = leaned(nodes, {"x": numbers(3, 4)[None, None]}, weights, fixed=())
    assert [n.op_type for n in graph.node if n.op_type != "Reshape"] == [n.op_type for n in nodes]
    assert kinds(graph).get("Reshape", 0) == 1, "that of the input"


def test_a_sum_over_axes_of_length_one_goes() -> None:
    nodes = [node("Abs", "x", "a"), node("ReduceSum", "a i", "s", keepdims=0), node("Neg", "s", "y")]
    graph = leaned(nodes, {"x": numbers(1, 1, 3, 4)}, {"i": np.array([0, 1])}, fixed=())
    assert kinds(graph) == {"Reshape": 1, "Abs": 1, "Neg": 1}


def test_an_output_has_the_shape_that_the_outside_expects() -> None:
    graph = leaned([node("Unsqueeze", "x i", "y")], {"x": numbers(*MATRIX)}, {"i": np.array([0])})
    assert kinds(graph) == {"Reshape": 1}
    inner = [node("Abs", "x", "a"), node("Unsqueeze", "a i", "b"), node("Exp", "b", "y")]
    assert kinds(leaned(inner, {"x": numbers(*MATRIX)}, {"i": np.array([0])}, fixed=())) == {"Abs": 1, "Exp": 1}


def test_transpositions_go_into_products() -> None:
    nodes = [
        node("Exp", "x", "e"),
        node("Transpose", "e", "a", perm=(1, 0)),
        node("Transpose", "b", "c", perm=(1, 0)),
        node("MatMul", "a c", "y"),
    ]
    graph = leaned(nodes, {"x": numbers(3, 4), "b": numbers(2, 3)})
    assert kinds(graph) == {"Exp": 1, "Gemm": 1}
    flags = {a.name: a.i for a in graph.node[1].attribute if a.name.startswith("trans")}
    assert flags == {"transA": 1, "transB": 1}


@pytest.mark.parametrize(
    ("kind", "inputs", "alpha", "beta"),
    [("Add", "p c", 1, 1), ("Add", "c p", 1, 1), ("Sub", "p c", 1, -1), ("Sub", "c p", -1, 1)],
)
@pytest.mark.parametrize("shape", [(3, 2), (1, 2), (2,)])
def test_a_sum_goes_into_the_product(kind: str, inputs: str, alpha: float, beta: float, shape: tuple[int, ...]) -> None:
    nodes = [node("MatMul", "a b", "p"), node(kind, inputs, "y")]
    graph = leaned(nodes, {"a": numbers(3, 4), "b": numbers(4, 2)}, {"c": numbers(*shape)})
    assert kinds(graph) == {"Gemm": 1}
    expected = {"alpha": alpha, "beta": beta}
    assert attributes(graph) == {n: v for n, v in expected.items() if v != 1}


def test_a_product_that_is_needed_twice_stays() -> None:
    nodes = [node("MatMul", "a b", "p"), node("Add", "p c", "y"), node("Exp", "p", "other")]
    graph = leaned(nodes, {"a": numbers(3, 4), "b": numbers(4, 2)}, {"c": numbers(3, 2)}, outputs=("y", "other"))
    assert kinds(graph) == {"Gemm": 1, "Add": 1, "Exp": 1}


def test_a_difference_from_a_chain_of_products_stays_products() -> None:
    """x - (a b + (c d + e)) = (x - e) - c d - a b."""
    nodes = [
        node("Gemm", "c d e", "inner"),
        node("Gemm", "a b inner", "outer"),
        node("Sub", "x outer", "y"),
    ]
    inputs = {"a": numbers(3, 4), "b": numbers(4, 2), "c": numbers(3, 5), "d": numbers(5, 2), "x": numbers(3, 2)}
    graph = leaned(nodes, inputs, {"e": numbers(3, 2)})
    assert kinds(graph) == {"Sub": 1, "Gemm": 2}


@pytest.mark.parametrize("scale", [node("Mul", "p s", "y"), node("Mul", "s p", "y"), node("Neg", "p", "y")])
def test_a_factor_goes_into_the_product(scale: NodeProto) -> None:
    graph = leaned([node("Gemm", "a b c", "p", alpha=3.0), scale], {"a": numbers(3, 4), "b": numbers(4, 2)},
                   {"c": numbers(3, 2), "s": np.array(0.5, np.float32)})  # fmt: skip
    factor = -1.0 if scale.op_type == "Neg" else 0.5
    assert attributes(graph) == {"alpha": 3 * factor, "beta": factor}


def test_a_column_times_a_row_is_a_product() -> None:
    nodes = [node("Transpose", "x", "t", perm=(1, 0)), node("Mul", "t x", "y")]
    graph = leaned(nodes, {"x": numbers(*ROW)})
    assert kinds(graph) == {"Gemm": 1}


@pytest.mark.parametrize(("axis", "keepdims"), [(0, 0), (0, 1), (1, 1)])
def test_a_sum_along_an_axis_is_a_product_with_ones(axis: int, keepdims: int) -> None:
    nodes = [node("Exp", "x", "e"), node("ReduceSum", "e i", "s", keepdims=keepdims), node("Add", "s c", "y")]
    graph = leaned(nodes, {"x": numbers(*MATRIX)}, {"i": np.array([axis]), "c": numbers(1)}, fixed=())
    assert kinds(graph) == {"Exp": 1, "Gemm": 1}
    assert any((w == 1).all() for w in weights_of(graph).values())


def test_a_weighted_sum_of_a_matrix_is_one_product() -> None:
    nodes = [node("Exp", "x", "e"), node("Mul", "e w", "p"), node("ReduceSum", "p i", "y", keepdims=1)]
    graph = leaned(nodes, {"x": numbers(*MATRIX)}, {"w": numbers(*ROW), "i": np.array([1])})
    assert kinds(graph) == {"Exp": 1, "Gemm": 1}


@pytest.mark.parametrize("bias", [(2,), (1, 2), (3, 2), (3, 1)])
def test_a_product_that_is_transposed_is_taken_the_other_way_around(bias: tuple[int, ...]) -> None:
    nodes = [node("Gemm", "w x c", "p", transB=1, alpha=2.0), node("Transpose", "p", "t", perm=(1, 0)),
             node("Concat", "t v", "y", axis=0)]  # fmt: skip
    graph = leaned(nodes, {"x": numbers(2, 4)}, {"w": numbers(3, 4), "c": numbers(*bias), "v": numbers(1, 3)})
    assert kinds(graph) == {"Gemm": 1, "Concat": 1}


def test_a_weighted_sum_of_two_rows_is_a_product() -> None:
    nodes = [node("Mul", "a s", "sa"), node("Mul", "r b", "rb"), node("Add", "sa rb", "y")]
    inputs, weights = (
        {"a": numbers(*ROW), "b": numbers(*ROW)},
        {"s": np.full((), 0.98, np.float32), "r": np.full(1, 0.02, np.float32)},
    )
    assert kinds(leaned(nodes, inputs, weights)) == {"Gemm": 1}
    matrices = {"a": numbers(*MATRIX), "b": numbers(*MATRIX)}
    assert kinds(leaned(nodes, matrices, weights)) == {"Mul": 2, "Add": 1}
    assert kinds(leaned(nodes, {"a": numbers(1, 1), "b": numbers(*ROW)}, weights)) == {"Mul": 2, "Add": 1}


STEPS = {"scaled": ("Mul", ()), "shifted": ("Add", (1, 4)), "from": ("Sub", (4,)), "times": ("MatMul", (4, 4)),
         "column": ("Mul", (3, 1))}  # fmt: skip


@given(st.lists(st.sampled_from([*STEPS, "Neg", "Tanh", "turn", "axis", "again"]), max_size=8), st.booleans())
def test_any_chain_gives_the_same_values(steps: list[str], swapped: bool) -> None:
    """Of `x` (3, 4): sums and products with weights on either side, transposed and with more axes in between."""
    nodes: list[NodeProto] = []
    weights, now = {"axis": np.array([0])}, "x"
    for i, step in enumerate(steps):
        after = f"v{i}"
        if step == "turn":
            nodes += [node("Transpose", now, f"{after}t", perm=(1, 0)), node("Neg", f"{after}t", f"{after}n"),
                      node("Transpose", f"{after}n", after, perm=(1, 0))]  # fmt: skip
        elif step == "axis":
            nodes += [node("Unsqueeze", f"{now} axis", f"{after}u"), node("Abs", f"{after}u", f"{after}a"),
                      node("Squeeze", f"{after}a axis", after)]  # fmt: skip
        elif step == "again":
            nodes.append(node("Add", f"{now} x", after))
        elif step in STEPS:
            kind, shape = STEPS[step]
            weights[f"w{i}"] = np.asarray(numbers(*shape, seed=i) / 2, np.float32)
            nodes.append(node(kind, f"w{i} {now}" if swapped and kind != "MatMul" else f"{now} w{i}", after))
        else:
            nodes.append(node(step, now, after))
        now = after
    nodes.append(node("Transpose", now, "y", perm=(1, 0)))
    leaned(nodes, {"x": numbers(*MATRIX)}, weights)
