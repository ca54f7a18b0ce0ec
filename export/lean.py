"""Makes a traced graph of fixed shapes lean; the time of a tick in onnxruntime is mostly the number of its nodes.

What depends on weights alone becomes a weight. The trace carries matrices as (1, n, b, b) and rows as (1, 1, N); many
of its nodes only add and remove such axes of length one. Every operator computes the same on arrays whose leading axes
of length one are left out, so those axes go, and their nodes with them. Products take their transpositions and sums in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, NodeProto, ValueInfoProto, helper, numpy_helper

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]

_VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Expand"}
_ON_LAST_AXES = {
    "Abs", "Add", "And", "Cast", "Clip", "Div", "Elu", "Equal", "Exp", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Sigmoid", "Sign", "Softplus",
    "Sqrt", "Sub", "Tanh", "Where", "MatMul", "Inverse", "Det",
}  # fmt: skip
_ALONG_AN_AXIS = {"Concat", "Gather", "GatherElements", "Split", "ArgMax", "ArgMin"}
_REDUCTIONS = {"ReduceSum", "ReduceMin", "ReduceMax"}


def lean(
    graph: GraphProto, inputs: Arrays, constants: Arrays, fixed: Collection[str], opsets: list[onnx.OperatorSetIdProto]
) -> tuple[GraphProto, Arrays]:
    """`graph` made lean, and those of its outputs that depend on no input; these it no longer has.

    `inputs` are examples of all inputs; those in `constants` are always the same. Inputs and outputs keep their shape
    if they are named in `fixed`; else they are matrices where they had leading axes of length one.
    """
    values = _run(graph, inputs | constants, opsets)
    known = _known(graph, values, constants)
    outputs = [o for o in graph.output if o.name not in known]
    flat = _Flat(graph, values, known, fixed, outputs)
    fused = _Fused(flat.nodes, flat.shape_of, flat.weights, {o.name for o in outputs})
    return _pruned(fused.nodes, flat.weights, graph.input, outputs), {
        o.name: known[o.name] for o in graph.output if o.name in known
    }


def _run(graph: GraphProto, inputs: Arrays, opsets: list[onnx.OperatorSetIdProto]) -> Arrays:
    """Every value of the graph."""
    names = [name for node in graph.node for name in node.output if name]
    probe = GraphProto()
    probe.CopyFrom(graph)
    del probe.output[:], probe.value_info[:]
    probe.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    model = helper.make_model(probe, opset_imports=opsets, ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    found = session.run(names, {n: a for n, a in inputs.items() if n in wanted})
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return inputs | weights | dict(zip(names, found))


def _known(graph: GraphProto, values: Arrays, constants: Iterable[str]) -> Arrays:
    """The values that no input reaches."""
    known = {*constants, *(t.name for t in graph.initializer)}
    for node in graph.node:
        if all(n in known or not n for n in node.input):
            known |= set(node.output)
    return {n: values[n] for n in known if n}


class _Flat:
    """A graph without what is known, whose arrays have no leading axes of length one beyond a matrix."""

    def __init__(
        self, graph: GraphProto, values: Arrays, known: Arrays, fixed: Collection[str], outputs: list[ValueInfoProto]
    ) -> None:
        self.traced = {name: value.shape for name, value in values.items()}
        self.known, self.fixed = known, fixed
        self.nodes: list[NodeProto] = []
        self.weights: Arrays = {}
        self.shape_of: dict[str, Shape] = {}
        self.held_by: dict[str, str] = {}  # of each name in the trace, the array of the same elements in the same order
        for value in graph.input:
            if value.name not in known:
                self._hold(value.name, value.name, self._outer(value.name))
                if len(self.traced[value.name]) > 2:
                    self.held_by[value.name] = self._shaped(value.name, _matrix(self.traced[value.name]))
        for node in graph.node:
            if node.output[0] not in known:
                self._rewrite(node)
        for value in outputs:
            self._deliver(value.name)

    def _rewrite(self, node: NodeProto) -> None:
        kind, shape = node.op_type, self.traced[node.input[0]]
        if kind in _VIEWS and np.prod(shape) == np.prod(self.traced[node.output[0]]):
            self._view(node)
        elif kind == "Transpose":
            self._transpose(node, [a for a in _attributes(node)["perm"] if shape[a] != 1])
        elif kind in _REDUCTIONS:
            self._reduce(node, [int(a) % len(shape) for a in self.known[node.input[1]].ravel()])
        elif kind in _ALONG_AN_AXIS:
            self._along(node, _attributes(node).get("axis", 0) % len(shape))
        elif kind in _ON_LAST_AXES:
            inputs = [self._broadcast(n) for n in node.input]
            self._add(node, inputs, 0)
            self.shape_of[node.output[0]] = _result(kind, [self.shape_of[n] for n in inputs if n])
        else:
            self._add(node, [self._shaped(n, self.traced[n]) if n else "" for n in node.input], 0)

    def _transpose(self, node: NodeProto, order: list[int]) -> None:
        """`order` is that of the axes longer than one."""
        if order == sorted(order):
            self._view(node)
        else:
            shape = self.traced[node.input[0]]
            source = self._shaped(node.input[0], tuple(shape[a] for a in sorted(order)))
            self._add(node, [source], 0, perm=[sorted(order).index(a) for a in order])
            self.shape_of[node.output[0]] = tuple(shape[a] for a in order)

    def _reduce(self, node: NodeProto, axes: list[int]) -> None:
        if all(self.traced[node.input[0]][a] == 1 for a in axes):
            self._view(node)
        else:
            source, drop = self._stripped(node.input[0], min(axes))
            down = node.op_type == "ReduceSum" and len(self.shape_of[source]) == 2 and axes == [drop]
            self._add(node, [source, self._constant(np.array([a - drop for a in axes]))], drop,
                      **{"keepdims": 1} if down else {})  # fmt: skip
            if down:  # to a row, as a product gives it
                self.shape_of[node.output[0]] = (1, self.shape_of[source][1])

    def _along(self, node: NodeProto, axis: int) -> None:
        count = len(node.input) if node.op_type in ("Concat", "GatherElements") else 1
        drop = min(self._stripped(n, axis)[1] for n in node.input[:count])
        inputs = [self._shaped(n, self.traced[n][drop:]) for n in node.input[:count]]
        inputs += [self._broadcast(n) for n in node.input[count:]]
        self._add(node, inputs, drop, axis=axis - drop)

    def _view(self, node: NodeProto) -> None:
        self._broadcast(node.input[0])
        self.held_by[node.output[0]] = self.held_by[node.input[0]]

    def _deliver(self, name: str) -> None:
        """An output of the graph under its own name."""
        source, shape = self.held_by[name], self._outer(name)
        if source == name and self.shape_of[name] == shape:
            return
        inner = f"{name}:inner"
        for node in self.nodes:  # where an array of another shape has the name
            node.input[:] = [inner if n == name else n for n in node.input]
            node.output[:] = [inner if n == name else n for n in node.output]
        self.shape_of |= {inner: self.shape_of.get(name, ()), name: shape}
        self.held_by = {n: inner if held == name else held for n, held in self.held_by.items()}
        size = self._constant(np.array(shape, np.int64))
        self.nodes.append(helper.make_node("Reshape", [self.held_by[name], size], [name]))

    def _outer(self, name: str) -> Shape:
        """Shape that the outside sees."""
        shape = self.traced[name]
        return shape if name in self.fixed else _matrix((1, *shape) if len(shape) == 1 else shape)

    def _add(self, node: NodeProto, inputs: list[str], drop: int, **attributes: Any) -> None:
        """`node` on other inputs; its outputs lose their first `drop` axes."""
        attributes = _attributes(node) | attributes
        self.nodes.append(helper.make_node(node.op_type, inputs, list(node.output), domain=node.domain, **attributes))
        for name in node.output:
            self._hold(name, name, self.traced[name][drop:])

    def _hold(self, name: str, holder: str, shape: Shape) -> None:
        self.held_by[name], self.shape_of[holder] = holder, shape

    def _source(self, name: str) -> tuple[str, Shape]:
        if name not in self.held_by:
            value = self.known[name].reshape(_matrix(self.traced[name]))
            self._hold(name, self._constant(value, name), value.shape)
        return self.held_by[name], self.shape_of[self.held_by[name]]

    def _broadcast(self, name: str) -> str:
        """The array `name`, but for leading axes of length one."""
        if not name:
            return name
        source, shape = self._source(name)
        wanted = self.traced[name]
        return source if _bare(shape) == _bare(wanted) else self._shaped(name, _matrix(wanted))

    def _stripped(self, name: str, most: int) -> tuple[str, int]:
        """The array `name` without its first axes of length one, at most `most` of them, and how many they are."""
        shape = self.traced[name]
        drop = min(len(shape) - len(self._source(name)[1]), most)
        if drop < 0 or any(length != 1 for length in shape[:drop]):
            drop = 0
        return self._shaped(name, shape[drop:]), drop

    def _shaped(self, name: str, shape: Shape) -> str:
        source, actual = self._source(name)
        if actual == shape:
            return source
        reshaped = f"{source}:{'x'.join(map(str, shape))}"
        if source in self.weights:
            return self._constant(self.weights[source].reshape(shape), reshaped)
        if reshaped not in self.shape_of:
            self.shape_of[reshaped] = shape
            size = self._constant(np.array(shape, np.int64))
            self.nodes.append(helper.make_node("Reshape", [source, size], [reshaped]))
        return reshaped

    def _constant(self, value: np.ndarray, name: str = "") -> str:
        name = name or f"constant_{len(self.weights)}"
        self.weights[name], self.shape_of[name] = value, value.shape
        return name


class _Fused:
    """Products with the transpositions before them, and the sums and factors after them, as one Gemm.

    A column times a row and the sum along an axis of a matrix are such products, too.
    """

    def __init__(self, nodes: list[NodeProto], shape_of: dict[str, Shape], weights: Arrays, outputs: set[str]) -> None:
        self.shape_of, self.weights = shape_of, weights
        self.uses = Counter(n for node in nodes for n in node.input) + Counter(outputs)
        self.made: dict[str, NodeProto] = {}
        rules = {
            "Gemm": self._product, "MatMul": self._product, "Mul": self._scaled, "Neg": self._scaled,
            "ReduceSum": self._summed, "Add": self._added, "Sub": self._added, "Transpose": self._transposed,
        }  # fmt: skip
        for node in nodes:
            new = rules[node.op_type](node) if node.op_type in rules else None
            self.made |= dict.fromkeys(node.output, new or node)
        self.nodes = list({id(n): n for n in self.made.values()}.values())

    def _product(self, node: NodeProto) -> NodeProto | None:
        matrices = all(len(self.shape_of[n]) == 2 for n in node.input[:2])
        return self._gemm(node, list(node.input), **_attributes(node)) if matrices else None

    def _scaled(self, node: NodeProto) -> NodeProto | None:
        shapes = [self.shape_of[n] for n in node.input]
        if len(shapes) == 2 and _column_and_row(*shapes):
            return self._gemm(node, list(node.input))
        for name, factor in zip(node.input, node.input[::-1]):
            gemm, value = self._last_use(name, "Gemm"), self.weights.get(factor)
            scale = -1.0 if node.op_type == "Neg" else value.item() if value is not None and value.size == 1 else None
            if gemm is not None and scale is not None:
                old = _attributes(gemm)
                return self._gemm(node, list(gemm.input), **old | {n: scale * old[n] for n in ("alpha", "beta")})
        return None

    def _transposed(self, node: NodeProto) -> NodeProto | None:
        """(A B + c)' = B' A' + c'."""
        gemm = self._last_use(node.input[0], "Gemm")
        if gemm is None or (len(gemm.input) > 2 and gemm.input[2] not in self.weights):
            return None
        old = _attributes(gemm)
        turned = {"transA": 1 - old.get("transB", 0), "transB": 1 - old.get("transA", 0)}
        inputs = [gemm.input[1], gemm.input[0], *(self._turned(n) for n in gemm.input[2:])]
        return self._gemm(node, inputs, **old | turned)

    def _turned(self, name: str) -> str:
        turned = f"{name}:turned"
        self.weights[turned] = np.atleast_2d(self.weights[name]).T
        self.shape_of[turned] = self.weights[turned].shape
        return turned

    def _summed(self, node: NodeProto) -> NodeProto | None:
        shape, axes = self.shape_of[node.input[0]], self.weights[node.input[1]].tolist()
        if len(shape) != 2 or len(axes) != 1 or not _attributes(node).get("keepdims", 1):
            return None
        if axes == [0]:
            return self._gemm(node, [self._ones(shape[0]), node.input[0]])
        inner = self._last_use(node.input[0], "Mul")
        for matrix, row in (inner.input, inner.input[::-1]) if inner is not None else ():
            is_row = self.shape_of[row][:-1] == (1,) or (len(self.shape_of[row]) == 1 and row in self.weights)
            if is_row and self.shape_of[matrix] == shape:
                return self._gemm(node, [matrix, self._row(row)], transB=1)
        return self._gemm(node, [node.input[0], self._ones(shape[1])], transB=1)

    def _added(self, node: NodeProto) -> NodeProto | None:
        """The second summand first: what is taken away from something is often known before."""
        sign = -1.0 if node.op_type == "Sub" else 1.0
        for name, other, signs in zip(node.input[::-1], node.input, ((sign, 1.0), (1.0, sign))):
            gemm = self._last_use(name, "Gemm")
            fits = self.shape_of[name] == self.shape_of[node.output[0]] and len(self.shape_of[other]) <= 2
            if gemm is None or not fits:
                continue
            attributes = _attributes(gemm)
            attributes["alpha"] *= signs[0]
            if len(gemm.input) == 2:
                return self._gemm(node, [*gemm.input, other], **attributes | {"beta": signs[1]})
            if signs[1] == 1.0 and attributes["beta"] == 1.0:  # x - (c + A B) = (x - c) - A B
                rest = f"{node.output[0]}:rest"
                self.shape_of[rest] = np.broadcast_shapes(*(self.shape_of[n] for n in (other, gemm.input[2])))
                before = helper.make_node(node.op_type, [other, gemm.input[2]], [rest])
                fused = self._added(before)
                if fused or node.op_type == "Sub":
                    self.uses[rest] = 1
                    self.made[rest] = fused or before
                    return self._gemm(node, [*gemm.input[:2], rest], **attributes)
        return self._weighted(node) if node.op_type == "Add" else None

    def _weighted(self, node: NodeProto) -> NodeProto | None:
        """Of rows: a x + b y = a (1 x) + b y, with a matrix 1 of one element."""
        shape = self.shape_of[node.output[0]]
        terms = [t for t in map(self._factored, node.input) if t is not None and self.shape_of[t[1]] == shape]
        if len(terms) < 2 or shape[:-1] != (1,):
            return None
        (a, x), (b, y) = terms
        return self._gemm(node, [self._ones(1), x, y], alpha=a, beta=b)

    def _factored(self, name: str) -> tuple[float, str] | None:
        """A number and an array whose product `name` is."""
        mul = self._last_use(name, "Mul")
        for array, factor in zip(mul.input, mul.input[::-1]) if mul is not None else ():
            if factor in self.weights and self.weights[factor].size == 1:
                return self.weights[factor].item(), array
        return None

    def _last_use(self, name: str, kind: str) -> NodeProto | None:
        """What makes `name`, if it is of that kind and nothing else needs it."""
        node = self.made.get(name)
        return node if node is not None and node.op_type == kind and self.uses[name] == 1 else None

    def _gemm(self, node: NodeProto, inputs: list[str], **attributes: Any) -> NodeProto:
        for i, flag in enumerate(("transA", "transB")):
            before = self.made.get(inputs[i])
            if before is not None and self._transposes(before):
                inputs[i] = before.input[0]
                attributes[flag] = 1 - attributes.get(flag, 0)
        return helper.make_node("Gemm", inputs, list(node.output), **{"alpha": 1.0, "beta": 1.0} | attributes)

    def _transposes(self, node: NodeProto) -> bool:
        shape, result = self.shape_of[node.input[0]] if node.input else (), self.shape_of[node.output[0]]
        swapped = len(shape) == 2 and result == shape[::-1]
        return swapped and (node.op_type == "Transpose" or (node.op_type == "Reshape" and 1 in shape))

    def _ones(self, count: int) -> str:
        name = f"ones_{count}"
        self.weights[name] = np.ones((1, count), np.float32)
        self.shape_of[name] = (1, count)
        return name

    def _row(self, name: str) -> str:
        if len(self.shape_of[name]) == 2:
            return name
        row = f"{name}:row"
        self.weights[row] = self.weights[name].reshape(1, -1)
        self.shape_of[row] = (1, *self.shape_of[name])
        return row


def _column_and_row(a: Shape, b: Shape) -> bool:
    """Whether a times b is an outer product."""
    return len(a) == len(b) == 2 and a[1] == 1 and b[0] == 1 and a[0] > 1 and b[1] > 1


def _pruned(
    nodes: list[NodeProto], weights: Arrays, inputs: Iterable[ValueInfoProto], outputs: list[ValueInfoProto]
) -> GraphProto:
    """A graph of the nodes, weights and inputs that its outputs need."""
    used, kept = {o.name for o in outputs}, []
    for node in reversed(nodes):
        if used & set(node.output):
            kept.append(node)
            used |= set(node.input)
    tensors = [numpy_helper.from_array(np.array(v, order="C"), n) for n, v in weights.items() if n in used]
    return helper.make_graph(kept[::-1], "part", [i for i in inputs if i.name in used], outputs, tensors)


def _matrix(shape: Shape) -> Shape:
    """`shape` without leading ones, but not below a matrix."""
    return shape[_leading_ones(shape, len(shape) - 2) :]


def _bare(shape: Shape) -> Shape:
    return shape[_leading_ones(shape, len(shape)) :]


def _leading_ones(shape: Shape, most: int) -> int:
    count = 0
    while count < most and shape[count] == 1:
        count += 1
    return count


def _result(kind: str, shapes: list[Shape]) -> Shape:
    if kind == "MatMul":
        (*outer, rows, _), (*others, _, columns) = shapes
        return (*np.broadcast_shapes(tuple(outer), tuple(others)), rows, columns)
    return shapes[0][:-2] if kind == "Det" else np.broadcast_shapes(*shapes)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
