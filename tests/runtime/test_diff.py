from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from runtime.contract import Contract, Health, HealthAt, Parity
from runtime.diff import differences
from runtime.signature import make_keys, sign
from tests.tiny_bundle import tiny_contract, write_tiny_bundle


def other(path: Path, contract: Contract | None = None, gain: float = 0.3) -> Bundle:
    return Bundle.load(write_tiny_bundle(path, "kuka_reach", gain, contract))


def test_a_bundle_is_like_itself(kuka: Bundle) -> None:
    assert differences(kuka, kuka) == []


def test_another_limit_and_another_maximum_age_are_noticed(kuka: Bundle, tmp_path: Path) -> None:
    contract = tiny_contract("kuka_reach")
    action = replace(contract.action, max_rate=(0.5, *contract.action.max_rate[1:]))
    first, *rest = contract.observations
    changed = replace(contract, action=action, observations=(replace(first, max_age_s=0.07), *rest))
    found = differences(kuka, other(tmp_path / "b.onnx", changed))
    assert [(d.where, d.noticed) for d in found] == [
        (f"contract.observations[{first.name}].max_age_s", True),
        ("contract.action.max_rate", True),
    ]
    assert (found[0].first, found[0].second) == ("0.05", "0.07")
    assert found[1].second.startswith("0.5, 1.5, 1.5")


def test_other_weights_are_noticed_by_how_much(kuka: Bundle, tmp_path: Path) -> None:
    found = {d.where: d for d in differences(kuka, other(tmp_path / "b.onnx", gain=0.5))}
    assert set(found) == {"contract.digest", "weight.gain"}
    assert found["weight.gain"].second == "float32[1], by up to 0.2"
    assert found["weight.gain"].noticed
    assert not found["contract.digest"].noticed


def test_records_are_not_noticed(kuka: Bundle, tmp_path: Path) -> None:
    contract = tiny_contract("kuka_reach")
    changed = replace(
        contract,
        provenance=replace(contract.provenance, seed=7),
        parity=Parity(1, (0,), 0.0, 1e-4, 0.0),
    )
    found = differences(kuka, other(tmp_path / "b.onnx", changed))
    assert {d.where for d in found} == {"contract.provenance.seed", "contract.parity"}
    assert not any(d.noticed for d in found)


@pytest.mark.parametrize(("sustained", "noticed"), [(2.0, False), (2.5, True)])
def test_of_the_health_only_its_bound_is_noticed(sustained: float, noticed: bool, tmp_path: Path) -> None:
    def calibrated(name: str, median: float, sustained: float) -> Bundle:
        health = Health((0.5,), 100, {"0": HealthAt((median,), {}, (1.0,), sustained)})
        return other(tmp_path / name, replace(tiny_contract("kuka_reach"), health=health))

    found = differences(calibrated("a.onnx", 1.0, 2.0), calibrated("b.onnx", 1.5, sustained))
    assert any(d.noticed for d in found) == noticed
    assert "contract.health.refine.0.free_energy" in {d.where for d in found}


def test_a_signature_is_told_and_not_noticed(kuka: Bundle, tmp_path: Path) -> None:
    make_keys(tmp_path / "key")
    path = tmp_path / "signed.onnx"
    path.write_bytes(sign(kuka.model, tmp_path / "key"))
    (found,) = differences(kuka, Bundle.load(path))
    assert (found.where, found.first, found.noticed) == ("file.signed_by", "absent", False)


def test_another_graph_tells_its_operators(kuka: Bundle, cartpole: Bundle) -> None:
    shipped = Bundle.load("bundles/cartpole.onnx")
    found = {d.where: d for d in differences(cartpole, shipped)}
    assert found["operator.com.microsoft.Inverse"].first == "absent"
    assert found["operator.com.microsoft.Inverse"].second == "2"
    assert (found["opset.ai.onnx"].first, found["opset.ai.onnx"].second) == ("17", "18")
    assert "contract.states" in found
