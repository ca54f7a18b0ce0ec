"""Bundles of fewer bits: the arithmetic of a layer by hand, and the gates on a bundle that ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import export.precision
from export.gate import ParityError, answers, largest_difference
from export.precision import ControlError, check_control, convert_bundle, export_as
from export.quantise import convert, split_layers
from export.record import record_faulty
from runtime.bundle import Bundle
from runtime.errors import GanglionError
from runtime.files import shipped_bundle

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((16, 20)).astype(np.float32)  # of a Gemm with transB: 16 outputs of 20 inputs
BIAS = RNG.standard_normal(16).astype(np.float32)
GIVEN = RNG.uniform(-2, 3, (1, 20)).astype(np.float32)


@pytest.fixture(autouse=True)
def fewer_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.precision, "_PARITY_TICKS", 200)
    monkeypatch.setattr(export.precision, "_CALIBRATION_TICKS", 100)


@pytest.fixture(scope="module")
def source() -> Bundle:
    return Bundle.load(shipped_bundle("cartpole"))


def layer() -> onnx.ModelProto:
    """y = 2 x W' + b, as one Gemm."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=2.0, transB=1)],
        "layer",
        [value("x", TensorProto.FLOAT, [1, 20])],
        [value("y", TensorProto.FLOAT, [1, 16])],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, given: np.ndarray = GIVEN) -> np.ndarray:
    answer: np.ndarray = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": given})[0]
    return answer


def converted(precision: str) -> np.ndarray:
    split, names = split_layers(layer())
    assert names == ["layer.y"]
    return run(convert(split, precision, names, [{"x": x} for x in (GIVEN, np.full((1, 20), 4, np.float32))]))


def test_a_layer_of_fp32_stays_what_it_is() -> None:
    expected = 2 * GIVEN @ WEIGHT.T + BIAS
    np.testing.assert_allclose(run(layer()), expected, rtol=1e-5)
    np.testing.assert_allclose(run(split_layers(layer())[0]), expected, rtol=1e-5)


def test_fp16_rounds_weights_inputs_and_sums_to_half_precision() -> None:
    halves = GIVEN.astype(np.float16).astype(np.float64), (2 * WEIGHT).astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(converted("fp16"), halves[0] @ halves[1].T + BIAS, rtol=2e-3, atol=2e-3)
    assert not np.array_equal(converted("fp16"), run(layer()))


def test_int8_dynamic_rounds_weights_to_7_bits_a_column_and_inputs_to_8() -> None:
    low, high = min(GIVEN.min(), 0), max(GIVEN.max(), 0)
    step = (high - low) / 255
    zero = np.rint(-low / step)
    inputs = np.clip(np.rint(GIVEN / step) + zero, 0, 255) - zero
    scale = np.abs(2 * WEIGHT).max(axis=1) / 63
    integers = np.rint(2 * WEIGHT / scale[:, None])
    assert np.abs(integers).max() == 63
    np.testing.assert_allclose(
        converted("int8-dynamic"), inputs @ integers.T * step * scale + BIAS, rtol=1e-4, atol=1e-4
    )


def test_int8_takes_the_range_of_inputs_from_the_calibration() -> None:
    """Half a step of each of 20 inputs and weights is the most that a sum can lose."""
    low, high = min(GIVEN.min(), 0), 4.0
    step, scale = (high - low) / 255, np.abs(2 * WEIGHT).max(axis=1) / 63
    bound = 0.5 * step * np.abs(2 * WEIGHT).sum(axis=1) + 0.5 * scale * (np.abs(GIVEN).sum() + 10 * step)
    error = np.abs(converted("int8") - (2 * GIVEN @ WEIGHT.T + BIAS))[0]
    assert (error < 1.01 * bound).all()
    assert error.max() > 1e-3
    split, names = split_layers(layer())
    clipped = convert(split, "int8", names, [{"x": 0.1 * GIVEN}])
    assert np.abs(run(clipped) - run(layer())).max() > 1, "what the calibration did not show is cut off"


def test_splitting_changes_no_answer_and_leaves_the_loop_alone(source: Bundle) -> None:
    model = onnx.load_model_from_string(source.model)
    split, names = split_layers(model)
    assert len(names) == 3
    bodies = [[a.g for n in m.graph.node if n.op_type == "Loop" for a in n.attribute] for m in (model, split)]
    assert bodies[0] == bodies[1]
    ticks = record_faulty(source, "cartpole", 0, (0, 1), 50)
    sessions = [replace(source, model=m.SerializeToString()).start().session for m in (model, split)]
    for ours, theirs in zip(*(answers(s, ticks, 1) for s in sessions)):
        assert max(largest_difference(ours[n], theirs[n]) for n in theirs) < 1e-5


@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic"])
def test_a_bundle_of_another_precision(precision: str, source: Bundle, tmp_path: Path) -> None:
    stages: list[str] = []
    report = convert_bundle(source, tmp_path / "b.onnx", precision, stages.append, episodes=3)
    made = Bundle.load(tmp_path / "b.onnx")
    assert made.contract == report.contract
    assert report.size_bytes == len(made.model) < len(source.model)
    told, parity = made.contract.precision, made.contract.parity
    assert (told.name, told.layers, told.sensitive, told.source) == (precision, 3, 0, source.contract.digest)
    assert parity is not None
    assert 1e-5 < parity.max_difference <= parity.tolerance == {"fp16": 0.01, "int8-dynamic": 0.05}[precision]
    assert told.control is not None
    assert (told.control.episodes, told.control.own.success_rate) == (3, 1.0)
    assert told.control.own.return_mean != told.control.reference.return_mean
    same = replace(made.contract, precision=source.contract.precision, parity=source.contract.parity)
    assert replace(same, digest="") == replace(source.contract, digest="")
    for ours, theirs in zip(
        *((*b.start().session.get_inputs(), *b.start().session.get_outputs()) for b in (made, source))
    ):
        assert (ours.name, ours.type, ours.shape) == (theirs.name, theirs.type, theirs.shape)
    assert stages[-1] == "compare how they control"
    with pytest.raises(GanglionError, match=f"cannot make int8 of .*, which is {precision}"):
        convert_bundle(made, tmp_path / "c.onnx", "int8")


def test_sensitive_layers_stay_in_fp32(source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = convert_bundle(source, tmp_path / "b.onnx", "int8-dynamic", episodes=1).contract
    assert every.parity is not None
    allowed = 0.9 * every.parity.max_difference
    monkeypatch.setitem(export.precision.TOLERANCES, "int8-dynamic", allowed)
    fewer = convert_bundle(source, tmp_path / "c.onnx", "int8-dynamic", episodes=1).contract
    assert fewer.precision.layers + fewer.precision.sensitive == every.precision.layers == 3
    assert fewer.precision.sensitive > 0
    assert fewer.parity is not None
    assert fewer.parity.max_difference <= allowed


def test_no_layer_within_the_tolerance_is_an_error(
    source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export.precision.TOLERANCES, "fp16", 1e-9)
    with pytest.raises(ParityError, match=r"no layer of .* computes in fp16 what it does in fp32: of 3, .* no bundle"):
        convert_bundle(source, tmp_path / "b.onnx", "fp16", episodes=1)
    assert not (tmp_path / "b.onnx").exists()


def test_who_controls_worse_is_refused(source: Bundle, cartpole: Bundle) -> None:
    """The tiny bundle lets the pole fall."""
    with pytest.raises(ControlError, match=r"success falls by 100.0%, return falls by \d+.*no bundle was written"):
        check_control(source, cartpole, 2, 1)
    assert check_control(cartpole, source, 2, 1).own.success_rate == 1.0


def test_unknown_precisions_and_fp32_of_a_bundle(source: Bundle, tmp_path: Path) -> None:
    for precision in ("fp32", "int4"):
        with pytest.raises(GanglionError, match=f"cannot make {precision} of .*, which is fp32: expected"):
            export_as(source.path, tmp_path / "b.onnx", precision)
