from __future__ import annotations

import json
from dataclasses import replace

from runtime.bundle import Bundle
from runtime.contract import ChannelCheck, Contract, Refinement, SensorChecks
from runtime.describe import facts
from runtime.schema import to_plain
from tests.tiny_bundle import tiny_contract


def described(contract: Contract, bundle: Bundle) -> dict[str, str]:
    return dict(facts(replace(bundle, contract=contract)))  # type: ignore[arg-type]


def test_method_and_checks_in_words(kuka: Bundle) -> None:
    contract = replace(
        tiny_contract("kuka_reach"),
        refinement=Refinement("gauss_newton", 1, 2, (1.0, 1.0), 8),
        checks=SensorChecks(
            20_000,
            {
                "target.x": ChannelCheck(6.0, 0.0, 3, 0.0012, 0.0),
                "end_effector.y": ChannelCheck(5.0, 4.5, 0, 0.0001, 0.0),
            },
        ),
    )
    rows = described(contract, kuka)
    assert rows["refinement"] == "gauss_newton, K = 1 by default, 2 at most; covariance in blocks of 8"
    assert rows["sensor checks"] == (
        "spike on 2, drift on 1, frozen on 1 of 20 channels; worst false alarm 0.12% gated, 0.00% frozen, "
        "over 20000 ticks"
    )
    plain = json.loads(json.dumps(to_plain(contract)))
    assert plain["checks"]["channels"]["target.x"]["repeats"] == 3
    assert plain["refinement"]["covariance_block"] == 8


def test_a_commit_with_changes_shows_its_plus(kuka: Bundle) -> None:
    contract = replace(kuka.contract, provenance=replace(kuka.contract.provenance, commit="0123456789ab+"))
    assert described(contract, kuka)["by"].endswith("(commit 0123456789ab+)")


def test_without_checks_and_covariance(kuka: Bundle) -> None:
    rows = described(kuka.contract, kuka)
    assert rows["refinement"] == "gradient, K = 2 by default, 8 at most; covariance not carried"
    assert rows["sensor checks"] == "none"
