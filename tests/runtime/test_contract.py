from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract import ChannelCheck, Contract, Health, HealthAt, Parity, Refinement, SensorChecks
from runtime.errors import ContractError
from tests.tiny_bundle import tiny_contract

KUKA = tiny_contract("kuka_reach")


def test_round_trip_keeps_every_field() -> None:
    contract = replace(
        KUKA,
        parity=Parity(200, (0, 1, 8), 0.25, 1e-4, 3e-6),
        health=Health((0.5, 0.99), 1000, {"0": HealthAt((1.5, 2.5), {"target.x": (0.1, 0.2)}, (1.0, 1.5), 2.0)}),
        refinement=Refinement("gauss_newton", 1, 3, (1.0, 0.5, 0.25), 8),
        checks=SensorChecks(4000, {"target.x": ChannelCheck(6.0, 4.5, 3, 0.001, 0.0)}),
    )
    assert Contract.from_json(contract.to_json()) == contract


def test_a_contract_without_checks_has_none() -> None:
    plain = json.loads(KUKA.to_json())
    del plain["checks"]
    assert Contract.from_json(json.dumps(plain)).checks == SensorChecks(0, {})


def test_layout_follows_the_order_of_the_observations() -> None:
    layout = KUKA.layout
    assert (layout.size, layout.joints) == (20, 7)
    assert layout.channels[7] == "joint_velocity.lbr_iiwa_joint_1"
    assert layout.slices["end_effector"] == slice(14, 17)
    assert layout.min_valid.tolist() == [3, 0, 0, 3]
    assert layout.max_age_ns[[0, 19]].tolist() == [50_000_000, 250_000_000]
    assert layout.channel_indices("lbr_iiwa_joint_2").tolist() == [1, 8]
    assert layout.channel_indices("target").tolist() == [17, 18, 19]
    assert layout.channel_indices("target.y").tolist() == [18]
    with pytest.raises(ContractError, match="'elbow' names no sensor channel"):
        layout.channel_indices("elbow")


def edited(path: list[Any], value: Any, contract: Contract = KUKA) -> str:
    plain = json.loads(contract.to_json())
    parent = plain
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["version"],
            1,
            "contract version 1 is too old for this runtime, which reads version 3: its graph .* export the run again",
        ),
        (["version"], 4, "contract version 4 is not supported"),
        (["rate_hz"], 0.0, "rate_hz must be positive"),
        (["rate_hz"], 1e-300, r"rate_hz must be positive, got 1e-300; expected 0.001 to 1e\+06"),
        (["rate_hz"], 1e300, r"rate_hz must be positive, got 1e\+300; expected"),
        (["rate_hz"], "fast", r"contract\.rate_hz: got 'fast', expected a number"),
        (["rate_hz"], float("inf"), r"contract\.rate_hz: got inf, expected a finite number"),
        (["rate_hz"], 10**400, r"contract\.rate_hz: got 1000.*, expected a finite number"),
        (["observations"], [], "no observations"),
        (["observations", 0, "channels", 0], 3, r"contract\.observations\[0\]\.channels\[0\]: got 3"),
        (["observations", 0, "channels", 0], "lbr_iiwa_joint_2", "repeats a channel"),
        (["observations", 1, "name"], "joint_position", "observation names repeat"),
        (["observations", 0, "mean"], [0.0], "mean has 1 values for 7 channels"),
        (["observations", 0, "scale", 2], 0.0, "scale must be positive"),
        (["observations", 0, "scale", 2], 1e-300, "scale must be positive, 1e-09 at least"),
        (["observations", 0, "mean", 2], -1e38, r"mean must be finite, 1e\+09 at most"),
        (["observations", 0, "low", 2], 99.0, "low must be below high"),
        (["observations", 0, "max_age_s"], -1.0, "max_age_s is -1.0, expected more than 0 and at most 3600"),
        (["observations", 0, "max_age_s"], 1e12, "at most 3600"),
        (["observations", 0, "min_valid"], 8, "min_valid is 8, expected 0 to 7"),
        (["observations", 0, "colour"], "red", r"got \['colour'\], expected only the fields"),
        (["action", "kind"], "torque", "action kind 'torque' is unknown"),
        (["action", "mode"], "relative", "action mode 'relative' is unknown"),
        (["action", "safe"], "pray", "safe action 'pray' is unknown"),
        (["action", "kind"], "velocity", "needs kind 'position'"),
        (["action", "max_rate", 0], 0.0, "max_rate must be positive"),
        (["action", "high", 0], 1e300, r"action: high must be finite, 1e\+09 at most"),
        (["acting_node"], "policy", "acting_node 'policy' is not one of the nodes"),
        (["nodes", 0, "parents"], ["later"], "not listed before it"),
        (["refinement", "default_steps"], 9, "default_steps is 9, expected 0 to max_steps = 8"),
        (["refinement", "method"], "newton", "method 'newton' is unknown; expected one of .*'gauss_newton'"),
        (["refinement", "method"], "amortized", "max_steps is 8, expected 0 for the method 'amortized'"),
        (["refinement", "step_sizes"], [1.0], "1 step_sizes, max_steps is 8; give one per step or none"),
        (["refinement", "step_sizes"], [1.0] * 7 + [0.0], "step_sizes must be positive and finite"),
        (["refinement", "covariance_block"], -1, "covariance_block is -1, expected 0 or more"),
        (["checks", "ticks"], -1, "checks: ticks is -1, expected 0 or more"),
        (["states", 0, "initial"], [], "0 initial values"),
        (["states", 0, "initial"], [1e39], r"state 'z': initial must be finite, 1e\+09 at most, got \[1e\+39\]"),
        (["states", 0, "shape"], [-1, -1], "expected sizes > 0"),
        (["health"], None, r"contract\.health: got None, expected an object"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(path: list[Any], value: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Contract.from_json(edited(path, value))


CHECK = {"spike": 6.0, "drift": 4.5, "repeats": 3, "gate_false_alarm": 0.001, "frozen_false_alarm": 0.0}


@pytest.mark.parametrize(
    ("channel", "change", "message"),
    [
        (
            "target.w",
            {},
            r"checks: \['target.w'\] are no channels; expected some of \['joint_position.lbr_iiwa_joint_1'",
        ),
        ("target.x", {"spike": -1.0}, "spike of 'target.x' is -1.0, expected 0 or more, finite"),
        (
            "target.x",
            {"spike": float("inf")},
            r"contract\.checks\.channels\.target\.x\.spike: got inf, expected a finite",
        ),
        ("target.x", {"drift": -0.5}, "drift of 'target.x' is -0.5, expected 0 or more, finite"),
        ("target.x", {"repeats": -1}, "repeats of 'target.x' is -1, expected 0 or more, finite"),
        ("target.x", {"repeats": 2.5}, "repeats: got 2.5, expected a whole number"),
        ("target.x", {"gate_false_alarm": 1.5}, "gate_false_alarm of 'target.x' is 1.5, expected 0 to 1"),
        ("target.x", {"frozen_false_alarm": -0.1}, "frozen_false_alarm of 'target.x' is -0.1, expected 0 to 1"),
    ],
)
def test_checks_that_do_not_fit_are_refused_by_channel(channel: str, change: dict[str, float], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Contract.from_json(edited(["checks", "channels"], {channel: CHECK | change}))


def test_checks_made_in_python_are_finite_too() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ContractError, match=r"drift of 'target.x' is (nan|inf), expected 0 or more, finite"):
            SensorChecks(1, {"target.x": ChannelCheck(6.0, value, 3, 0.0, 0.0)})


def test_the_amortized_method_takes_no_steps() -> None:
    refinement = Refinement("amortized", 0, 0, (), 0)
    assert Contract.from_json(replace(KUKA, refinement=refinement).to_json()).refinement == refinement


def test_a_missing_field_is_named() -> None:
    plain = json.loads(KUKA.to_json())
    del plain["action"]["max_rate"]
    with pytest.raises(ContractError, match=r"contract\.action: the fields \['max_rate'\] are missing"):
        Contract.from_json(json.dumps(plain))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, child in children for p in places(child, (*path, key)))]


FULL = replace(KUKA, checks=SensorChecks(100, {"target.x": ChannelCheck(**CHECK)}))  # type: ignore[arg-type]
PLACES = [list(p) for p in places(json.loads(FULL.to_json())) if p]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(st.sampled_from(PLACES), JSON)
def test_any_edit_gives_a_contract_or_a_contract_error(path: list[Any], value: Any) -> None:
    try:
        contract = Contract.from_json(edited(path, value, FULL))
    except ContractError:
        return
    assert np.isfinite(contract.layout.scale).all()


@given(st.text())
def test_any_text_gives_a_contract_error(text: str) -> None:
    with pytest.raises(ContractError):
        Contract.from_json(text)
