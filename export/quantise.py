"""Graphs whose large layers compute in fewer bits; what enters and leaves them stays float32.

A layer is a product with a constant matrix in the outer graph. The refinement's Loop, the covariance and all that the
sensor checks compare are small and need their digits: they are left alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from export.gate import Arrays

_LEAST = 256  # weights of a layer that is worth it
_LARGEST = 63  # of an integer of 7 bits
_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")  # onnxruntime's mark; it logs a warning without
_OPTIONS = {"DefaultTensorType": TensorProto.FLOAT}  # what it cannot infer behind an operator that it does not know


def split_layers(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The same model with every layer as a MatMul of its own, the bias added after it; and the names of those."""
    split = onnx.ModelProto()
    split.CopyFrom(model)
    graph = split.graph
    constants = {t.name: t for t in graph.initializer}
    nodes, names = [], []
    for node in model.graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        weight = constants.get(node.input[1]) if node.op_type in ("Gemm", "MatMul") else None
        fits = given.get("transA", 0) == 0 and (given.get("beta", 1.0) == 1.0 or len(node.input) < 3)
        if weight is None or not fits or not _large(weight):
            nodes.append(node)
            continue
        matrix = numpy_helper.to_array(weight)
        matrix = np.float32(given.get("alpha", 1.0)) * (matrix.T if given.get("transB", 0) else matrix)
        name = f"layer.{node.output[0]}"
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix), f"{name}.weight"))
        bias = list(node.input[2:])
        product = f"{name}.product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], f"{name}.weight"], [product], name))
        nodes += [helper.make_node("Add", [product, b], [node.output[0]]) for b in bias]
        names.append(name)
    del graph.node[:]
    graph.node.extend(nodes)
    return _tidy(split), names


def convert(
    model: onnx.ModelProto, precision: str, layers: Sequence[str], calibration: Iterable[Arrays]
) -> onnx.ModelProto:
    """A model of `split_layers` whose `layers` compute in `precision`, one of fp16, int8-dynamic and int8.

    Of int8 the ranges of what enters the layers come from `calibration`, inputs of the graph by name; int8-dynamic
    takes them anew in every tick. Weights have 7 bits, one scale a column, so that no processor's sums overflow.
    """
    if precision == "int8":
        return _tidy(_calibrated(model, layers, calibration))
    inside = _half if precision == "fp16" else _dynamic
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    weights = {t.name: t for t in changed.graph.initializer}
    for node in model.graph.node:
        if node.name in layers:
            nodes, constants = inside(node, numpy_helper.to_array(weights[node.input[1]]))
            changed.graph.node.extend(nodes)
            changed.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
        else:
            changed.graph.node.append(node)
    return _tidy(changed)


def _half(layer: onnx.NodeProto, weight: np.ndarray) -> tuple[list[onnx.NodeProto], Arrays]:
    """The nodes in place of a layer, and their constants."""
    name = layer.name
    with np.errstate(over="ignore"):  # what is too large shows in the gate
        constants = {f"{name}.half": weight.astype(np.float16)}
    return [
        helper.make_node("Cast", [layer.input[0]], [f"{name}.given"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", [f"{name}.given", f"{name}.half"], [f"{name}.result"]),
        helper.make_node("Cast", [f"{name}.result"], list(layer.output), to=TensorProto.FLOAT),
    ], constants


def _dynamic(layer: onnx.NodeProto, weight: np.ndarray) -> tuple[list[onnx.NodeProto], Arrays]:
    """The same. Our own, because onnxruntime's names the transposed matrices of two products alike."""
    name = layer.name
    scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny) / np.float32(_LARGEST)
    constants = {f"{name}.int8": np.rint(weight / scale).astype(np.int8), f"{name}.scale": scale}
    given = [f"{name}.given", f"{name}.given_scale", f"{name}.given_zero"]
    return [
        helper.make_node("DynamicQuantizeLinear", [layer.input[0]], given),
        helper.make_node("MatMulInteger", [given[0], f"{name}.int8", given[2]], [f"{name}.sums"]),
        helper.make_node("Cast", [f"{name}.sums"], [f"{name}.result"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [given[1], f"{name}.scale"], [f"{name}.scales"]),
        helper.make_node("Mul", [f"{name}.result", f"{name}.scales"], list(layer.output)),
    ], constants


def _calibrated(model: onnx.ModelProto, layers: Sequence[str], calibration: Iterable[Arrays]) -> onnx.ModelProto:
    """By onnxruntime's own tools, which also run the graph on the calibration's inputs."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    helper.set_model_props(prepared, dict([_PREPARED]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        quantize_static(
            prepared, path, _Reader(calibration), quant_format=QuantFormat.QDQ, nodes_to_quantize=list(layers),
            op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
            extra_options=_OPTIONS,
        )  # fmt: skip
        return onnx.load_model(path)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # of a package without types
    def __init__(self, inputs: Iterable[Arrays]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> Arrays | None:
        """What onnxruntime asks for until it gets None."""
        return next(self._inputs, None)


def _large(weight: TensorProto) -> bool:
    return weight.data_type == TensorProto.FLOAT and len(weight.dims) == 2 and np.prod(weight.dims) >= _LEAST


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without metadata and unused constants, the others as raw data, checked."""
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "ganglion", ""
    graph = model.graph
    used = {*_read(graph)}
    constants = [numpy_helper.from_array(numpy_helper.to_array(t), t.name) for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    onnx.checker.check_model(model)
    return model


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that the nodes of the graph, and of the graphs inside it, read."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _read(attribute.g)
