from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.bundle import METADATA_KEY, Bundle, graph_digest
from runtime.contract import State
from runtime.controller import Controller
from runtime.errors import BundleError, ContractError
from tests.tiny_bundle import tiny_contract, write_tiny_bundle

same_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_bundle_that_was_looked_at_still_travels_to_other_processes(kuka_path: Path) -> None:
    bundle = Bundle.load(kuka_path)
    assert bundle.file.operators
    assert pickle.loads(pickle.dumps(bundle)) == bundle


def test_load_gives_the_contract_that_was_written(kuka_path: Path) -> None:
    bundle = Bundle.load(kuka_path)
    assert replace(bundle.contract, digest="") == tiny_contract("kuka_reach")
    assert bundle.contract.digest == graph_digest(kuka_path.read_bytes())


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot read the bundle .*nothing\.onnx: No such file"):
        Bundle.load(tmp_path / "nothing.onnx")


def test_onnx_without_a_contract_is_refused(kuka_path: Path, tmp_path: Path) -> None:
    model = onnx.load(kuka_path)
    del model.metadata_props[:]
    with pytest.raises(BundleError, match="holds no contract"):
        Bundle.load(write(tmp_path / "plain.onnx", model.SerializeToString()))


def test_changed_weight_is_refused(kuka_path: Path, tmp_path: Path) -> None:
    model = onnx.load(kuka_path)
    gain = next(i for i in model.graph.initializer if i.name == "gain")
    gain.raw_data = b"\x00\x00\x80\x3f"
    with pytest.raises(BundleError, match="is damaged or was altered"):
        Bundle.load(write(tmp_path / "altered.onnx", model.SerializeToString()))


def test_contract_error_names_the_file(kuka_path: Path, tmp_path: Path) -> None:
    model = onnx.load(kuka_path)
    entry = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    entry.value = entry.value.replace('"rate_hz":100.0', '"rate_hz":-1.0')
    with pytest.raises(ContractError, match=r"odd\.onnx: rate_hz must be positive, got -1"):
        Bundle.load(write(tmp_path / "odd.onnx", model.SerializeToString()))


def test_a_bundle_of_version_1_is_refused(kuka_path: Path, tmp_path: Path) -> None:
    model = onnx.load(kuka_path)
    entry = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    entry.value = entry.value.replace('"version":3', '"version":1')
    with pytest.raises(
        ContractError,
        match=r"old\.onnx: contract version 1 is too old for this runtime, which reads version 3: its graph .*RUN",
    ):
        Bundle.load(write(tmp_path / "old.onnx", model.SerializeToString()))


@same_files
@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_bundle_error(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Bundle.load(write(tmp_path / "any.onnx", data))


@same_files
@given(cut=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_refused(cut: float, kuka_path: Path, tmp_path: Path) -> None:
    whole = kuka_path.read_bytes()
    with pytest.raises((BundleError, ContractError)):
        Bundle.load(write(tmp_path / "cut.onnx", whole[: int(cut * len(whole))]))


@same_files
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(where: float, bit: int, kuka_path: Path, tmp_path: Path) -> None:
    data = bytearray(kuka_path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    try:
        bundle = Bundle.load(write(tmp_path / "flipped.onnx", bytes(data)))
        Controller(bundle)
    except (BundleError, ContractError):
        return
    assert graph_digest(bundle.model) == bundle.contract.digest


def test_contract_of_another_graph_is_refused(tmp_path: Path) -> None:
    contract = tiny_contract("cartpole")
    states = (*contract.states, State("memory", (1, 2), (0.0, 0.0)))
    path = write_tiny_bundle(tmp_path / "b.onnx", "cartpole", contract=replace(contract, states=states))
    with pytest.raises(BundleError, match=r"the graph has inputs .* the contract expects .*state\.memory"):
        Controller(Bundle.load(path))


def test_a_contract_of_other_sizes_than_the_graph_s_is_refused(kuka: Bundle) -> None:
    fewer = replace(kuka.contract, observations=kuka.contract.observations[:-1])
    with pytest.raises(
        BundleError, match=r"'observation' has the shape \[1, 20\], the contract makes it \[1, 17\]; exp"
    ):
        Controller(replace(kuka, contract=fewer))


def test_a_graph_that_onnxruntime_refuses(tmp_path: Path, cartpole_path: Path) -> None:
    model = onnx.load(cartpole_path)
    model.graph.node[0].op_type = "NoSuchOperator"
    entry = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    old = graph_digest(cartpole_path.read_bytes())
    entry.value = entry.value.replace(old, graph_digest(model.SerializeToString()))
    bundle = Bundle.load(write(tmp_path / "b.onnx", model.SerializeToString()))
    with pytest.raises(BundleError, match=r"onnxruntime .* refuses"):
        Controller(bundle)
