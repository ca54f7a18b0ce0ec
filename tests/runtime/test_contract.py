from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract import Contract, Health, HealthAt, Parity
from runtime.errors import ContractError
from tests.tiny_bundle import tiny_contract

KUKA = tiny_contract("kuka_reach")


def test_round_trip_keeps_every_field() -> None:
    contract = replace(
        KUKA,
        parity=Parity(200, (0, 1, 8), 0.25, 1e-4, 3e-6),
        health=Health((0.5, 0.99), 1000, {"0": HealthAt((1.5, 2.5), {"target.x": (0.1, 0.2)})}),
    )
    assert Contract.from_json(contract.to_json()) == contract


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


def edited(path: list[Any], value: Any) -> str:
    plain = json.loads(KUKA.to_json())
    parent = plain
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], 2, "contract version 2 is not supported"),
        (["rate_hz"], 0.0, "rate_hz must be positive"),
        (["rate_hz"], "fast", r"contract\.rate_hz: got 'fast', expected a number"),
        (["rate_hz"], float("inf"), r"contract\.rate_hz: got inf, expected a finite number"),
        (["rate_hz"], 10**400, r"contract\.rate_hz: got 1000.*, expected a finite number"),
        (["observations"], [], "no observations"),
        (["observations", 0, "channels", 0], 3, r"contract\.observations\[0\]\.channels\[0\]: got 3"),
        (["observations", 0, "channels", 0], "lbr_iiwa_joint_2", "repeats a channel"),
        (["observations", 1, "name"], "joint_position", "observation names repeat"),
        (["observations", 0, "mean"], [0.0], "mean has 1 values for 7 channels"),
        (["observations", 0, "scale", 2], 0.0, "scale must be positive"),
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
        (["acting_node"], "policy", "acting_node 'policy' is not one of the nodes"),
        (["nodes", 0, "parents"], ["later"], "not listed before it"),
        (["refinement", "default_steps"], 9, "default_steps is 9, expected 0 to max_steps = 8"),
        (["states", 0, "initial"], [], "0 initial values"),
        (["states", 0, "shape"], [-1, -1], "expected sizes > 0"),
        (["health"], None, r"contract\.health: got None, expected an object"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(path: list[Any], value: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Contract.from_json(edited(path, value))


def test_a_missing_field_is_named() -> None:
    plain = json.loads(KUKA.to_json())
    del plain["action"]["max_rate"]
    with pytest.raises(ContractError, match=r"contract\.action: the fields \['max_rate'\] are missing"):
        Contract.from_json(json.dumps(plain))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, child in children for p in places(child, (*path, key)))]


PLACES = [list(p) for p in places(json.loads(KUKA.to_json())) if p]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(st.sampled_from(PLACES), JSON)
def test_any_edit_gives_a_contract_or_a_contract_error(path: list[Any], value: Any) -> None:
    try:
        contract = Contract.from_json(edited(path, value))
    except ContractError:
        return
    assert np.isfinite(contract.layout.scale).all()


@given(st.text())
def test_any_text_gives_a_contract_error(text: str) -> None:
    with pytest.raises(ContractError):
        Contract.from_json(text)
