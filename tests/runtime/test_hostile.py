"""Files that were made to do harm: loading them opens no other file, takes no more memory than they have, and ends."""

from __future__ import annotations

import hashlib
import os
import resource
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from runtime.bundle import LARGEST_BYTES, METADATA_KEY, Bundle, graph_digest
from runtime.contract import Contract
from runtime.errors import BundleError, ContractError
from runtime.modelfile import metadata_record
from tests.tiny_bundle import write_tiny_bundle

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle.onnx", "cartpole", gain=0.3)


def refit(model: onnx.ModelProto, path: Path) -> Path:
    """Write `model` with the digest of its graph in its contract: what somebody does who means it."""
    entry = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    contract = Contract.from_json(entry.value)
    entry.value = replace(contract, digest=graph_digest_of(model)).to_json()
    path.write_bytes(model.SerializeToString())
    return path


def graph_digest_of(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.graph.SerializeToString()).hexdigest()


def external(where: str) -> TensorProto:
    tensor = TensorProto(name="gain", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=where)
    return tensor


def to_initializer(tensor: TensorProto) -> Change:
    def change(model: onnx.ModelProto) -> None:
        next(t for t in model.graph.initializer if t.name == tensor.name).CopyFrom(tensor)

    return change


def to_attribute(tensor: TensorProto, depth: int) -> Change:
    """As a Constant inside so many graphs of If nodes."""

    def change(model: onnx.ModelProto) -> None:
        node = helper.make_node("Constant", [], ["x"], value=tensor)
        for _ in range(depth):
            node = helper.make_node("If", ["x"], ["x"], then_branch=helper.make_graph([node], "g", [], []))
        model.graph.node.append(node)

    return change


def sparse(tensor: TensorProto) -> Change:
    def change(model: onnx.ModelProto) -> None:
        indices = numpy_helper.from_array(np.zeros(1, np.int64))
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, indices=indices, dims=[1]))

    return change


def operator(domain: str, name: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(name, ["observation"], ["x"], domain=domain))

    return change


def function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [], [helper.make_opsetid("", 17)]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (to_initializer(external("/etc/passwd")), "external data"),
        (to_initializer(external("../x")), "external data"),
        (to_attribute(external("weights.bin"), 0), "external data"),
        (to_attribute(external("weights.bin"), 3), "external data"),
        (to_attribute(external("weights.bin"), 20), "nested too deeply"),
        (sparse(external("weights.bin")), "external data"),
        (operator("ai.somebody", "Run"), "the operator ai.somebody.Run"),
        (operator("com.microsoft", "EPContext"), "the operator com.microsoft.EPContext"),
        (operator("ai.onnx.ml", "LabelEncoder"), "the operator ai.onnx.ml.LabelEncoder"),
        (function, "functions"),
    ],
)
def test_what_reaches_outside_is_refused(change: Change, reason: str, whole: Path) -> None:
    model = onnx.load_model_from_string(whole.read_bytes())
    change(model)
    with pytest.raises(BundleError, match=reason):
        Bundle.load(refit(model, whole))


def test_a_second_graph_does_not_slip_past_the_digest(whole: Path) -> None:
    """Protobuf would join the two, so that onnxruntime computes what the digest did not see."""
    evil = onnx.ModelProto(graph=onnx.GraphProto(node=[helper.make_node("Identity", ["observation"], ["x"])]))
    data = whole.read_bytes()
    whole.write_bytes(evil.SerializeToString() + data)
    assert len(onnx.load_model_from_string(whole.read_bytes()).graph.node) == 16
    with pytest.raises(BundleError, match="two graphs"):
        Bundle.load(whole)


def test_a_second_contract_is_refused(whole: Path) -> None:
    whole.write_bytes(whole.read_bytes() + metadata_record(METADATA_KEY, "{}"))
    with pytest.raises(BundleError, match=r"two entries 'ganglion\.contract'"):
        Bundle.load(whole)


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", Path("/dev/zero"), tmp_path):
        with pytest.raises(BundleError, match="it is no file"):
            Bundle.load(path)


def test_a_file_of_half_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    path.touch()
    os.truncate(path, LARGEST_BYTES + 1)
    tracemalloc.start()
    with pytest.raises(BundleError, match="has 512 MB, a bundle 512 at most"):
        Bundle.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_link_is_what_it_points_to(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "current.onnx").symlink_to(whole)
    assert Bundle.load(tmp_path / "current.onnx").contract == Bundle.load(whole).contract
    (tmp_path / "secret.onnx").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="is not a bundle") as error:
        Bundle.load(tmp_path / "secret.onnx")
    assert ":0:0:" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"version":' + "9" * 5000 + "}",
        '{"version":3,"rate_hz":1e999}',
        '{"version":true}',
        '"3"',
        "null",
    ],
)
def test_contracts_that_overwhelm_a_parser(text: str, whole: Path) -> None:
    model = onnx.load_model_from_string(whole.read_bytes())
    helper.set_model_props(model, {METADATA_KEY: text})
    whole.write_bytes(model.SerializeToString())
    with pytest.raises(ContractError):
        Bundle.load(whole)


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value >= 0x80 else bytes([value])


def records(data: bytes) -> list[tuple[int, bytes]]:
    """Number and payload of every field of a message whose fields have lengths; numbers are left out."""
    found, position = [], 0
    while position < len(data):
        key, position = read_varint(data, position)
        length, position = read_varint(data, position)
        if key & 7 == 2:
            found.append((key >> 3, data[position : position + length]))
            position += length
    return found


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while data[position] >= 0x80:
        value, shift, position = value | (data[position] & 0x7F) << shift, shift + 7, position + 1
    return value | data[position] << shift, position + 1


damages = st.tuples(
    st.sampled_from(["drop", "twice", "cut", "flip", "wire type", "length", "number", "noise", "inside"]),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0, 1, 127, 128, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1, 2**70]),
    st.binary(max_size=12),
)


def damaged(data: bytes, damage: tuple[str, float, float, int, bytes], depth: int = 0) -> bytes:
    """The message `data` with one of its fields damaged, or one inside that."""
    how, which, where, number, noise = damage
    parts = records(data)
    if not parts:
        return noise
    index = int(which * len(parts))
    field, payload = parts[index]
    at = int(where * max(1, len(payload)))
    record = varint(field << 3 | 2) + varint(len(payload)) + payload
    if how == "drop":
        record = b""
    elif how == "twice":
        record += record
    elif how == "cut":
        record = record[: max(1, at)]
    elif how == "flip":
        payload = payload[:at] + bytes([payload[at] ^ 1 << number % 8]) + payload[at + 1 :] if payload else noise
        record = varint(field << 3 | 2) + varint(len(payload)) + payload
    elif how == "wire type":
        record = varint(field << 3 | number % 8) + varint(len(payload)) + payload
    elif how == "length":
        record = varint(field << 3 | 2) + varint(number) + payload
    elif how == "number":
        record = varint(number << 3 | 2) + varint(len(payload)) + payload
    elif how == "noise":
        record = varint(field << 3 | 2) + varint(len(noise)) + noise
    elif depth < 4:
        try:
            payload = damaged(payload, (["inside", "flip", "length", "wire type"][number % 4], *damage[1:]), depth + 1)
        except IndexError:  # no message, but text or numbers
            payload = noise
        record = varint(field << 3 | 2) + varint(len(payload)) + payload
    before = b"".join(varint(n << 3 | 2) + varint(len(p)) + p for n, p in parts[:index])
    after = b"".join(varint(n << 3 | 2) + varint(len(p)) + p for n, p in parts[index + 1 :])
    return before + record + after


def test_damaged_structure_is_one_error_or_harmless(whole: Path) -> None:
    """1,000 files; in half of them the digest is made to fit the damaged graph."""
    data, contract = whole.read_bytes(), Bundle.load(whole).contract
    outcomes: Counter[str] = Counter()

    @settings(max_examples=1000)
    @given(damage=damages, fit=st.booleans())
    def run(damage: tuple[str, float, float, int, bytes], fit: bool) -> None:
        made = damaged(data, damage)
        if fit:
            (graph,) = (p for n, p in records(data) if n == 7)
            graph = damaged(graph, damage)
            own = replace(contract, digest=hashlib.sha256(graph).hexdigest())
            made = varint(7 << 3 | 2) + varint(len(graph)) + graph + metadata_record(METADATA_KEY, own.to_json())
        whole.write_bytes(made)
        try:
            loaded = Bundle.load(whole)
        except (BundleError, ContractError) as error:
            outcomes["refused"] += 1
            outcomes["lines"] += len(str(error).splitlines())
        else:
            outcomes["loaded"] += 1
            assert graph_digest(loaded.model) == loaded.contract.digest

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"
    assert outcomes["lines"] == outcomes["refused"] > 400
    assert outcomes["loaded"] > 40
