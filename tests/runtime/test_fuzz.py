"""Readings, requests and bundles that nobody would make on purpose; messages are in tests/ros_nodes/test_fuzz.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bundle import METADATA_KEY, Bundle
from runtime.contract import Contract
from runtime.errors import BundleError, ContractError, GanglionError
from runtime.files import shipped_bundle
from runtime.safety import Request
from runtime.sample import Sample
from tests.fuzzing import NUMBERS, PERIOD_NS, TEXTS, Judge
from tests.tiny_bundle import write_tiny_bundle

STAMPS = (-(2**62), -1, 0, 1, 2**40, 2**62)
TICKS = 25

# (channel as a share of all, reading, stamp's age in ns or None for the present one)
corruptions = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(NUMBERS) | st.floats(),
        st.none() | st.sampled_from(STAMPS) | st.integers(-(10**9), 10**9),
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    tiny = {t: Bundle.load(write_tiny_bundle(folder / f"{t}.onnx", t, gain=0.3)) for t in ("a1_stand", "husky_goto")}
    return tiny | {name: Bundle.load(shipped_bundle(name)) for name in ("kuka_reach", "cartpole", "a1_walk")}


@pytest.mark.parametrize("name", ["a1_stand", "husky_goto", "kuka_reach", "cartpole", "a1_walk"])
def test_whatever_is_read_the_command_is_safe(name: str, bundles: dict[str, Bundle]) -> None:
    """200 x 25 ticks for each of five bundles."""
    bundle = bundles[name]
    layout = bundle.contract.layout
    judge = Judge(bundle)
    acted = 0

    @settings(max_examples=200)
    @given(
        spoiled=st.lists(corruptions, min_size=TICKS, max_size=TICKS),
        jumps=st.lists(st.sampled_from([0, 1, 1, 1, 1, 3, 50, -1]), min_size=TICKS, max_size=TICKS),
        asked=st.lists(st.sampled_from([Request.NONE] * 8 + [*Request]), min_size=TICKS, max_size=TICKS),
    )
    def run(spoiled: list[Any], jumps: list[int], asked: list[Request]) -> None:
        nonlocal acted
        judge.controller.reset()
        judge.restart()
        sample, now_ns = Sample(bundle.contract), 10**15
        for tick in range(TICKS):
            now_ns += jumps[tick] * PERIOD_NS
            sample.put_flat(layout.mean + 0.1 * layout.scale * np.sin(tick + np.arange(layout.size)), now_ns)
            for share, value, age in spoiled[tick]:
                channel = int(share * layout.size)
                sample.values[channel] = value
                if age is not None:
                    sample.stamp_ns[channel] = now_ns - age
            judge.controller.request(asked[tick], "asked for")
            judge.check(judge.controller.tick(sample, now_ns), sample.values)
        acted += judge.acted

    run()
    assert acted > 200, "the agent acts in between"


leaves: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, -1, 0, 1, 3, 2**31, 2**63, 2**70, [], {}, [1], [[]], {"x": 1}, *NUMBERS, *TEXTS]
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, inner in items for p in [(*path, key), *places(inner, (*path, key))]]


def altered(plain: Any, path: tuple[Any, ...], how: str, leaf: Any) -> None:
    """Change what lies at the path in place, if it is still there."""
    for key in path[:-1]:
        try:
            plain = plain[key]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(plain, dict) and path[-1] in plain:
        if how == "drop":
            del plain[path[-1]]
        elif how == "add":
            plain[f"{path[-1]}_more"] = leaf
        else:
            plain[path[-1]] = leaf
    elif isinstance(plain, list) and isinstance(path[-1], int) and path[-1] < len(plain):
        if how == "drop":
            plain.pop(path[-1])
        elif how == "add":
            plain.insert(path[-1], leaf)
        else:
            plain[path[-1]] = leaf


def fly(bundle: Bundle) -> None:
    """A few ticks of a bundle that loads; it may still be refused."""
    try:
        judge = Judge(bundle, engage_s=0.02)
    except GanglionError:
        return
    layout = bundle.contract.layout
    sample = Sample(bundle.contract)
    for tick in range(5):
        sample.put_flat(layout.mean, 10**15 + tick * PERIOD_NS)
        if tick == 3:
            sample.values[:] = np.nan
        judge.check(judge.controller.tick(sample, 10**15 + tick * PERIOD_NS), sample.values)


@pytest.mark.parametrize("name", ["kuka_reach", "cartpole", "a1_stand"])
def test_a_contract_that_was_altered_is_refused_or_safe(name: str, bundles: dict[str, Bundle]) -> None:
    """500 contracts each."""
    bundle = bundles[name]
    text = bundle.contract.to_json()
    paths = places(json.loads(text))
    refused = 0

    @settings(max_examples=500)
    @given(
        changes=st.lists(
            st.tuples(st.integers(0, len(paths) - 1), st.sampled_from(["set", "set", "drop", "add"]), leaves),
            min_size=1,
            max_size=3,
        )
    )
    def run(changes: list[tuple[int, str, Any]]) -> None:
        nonlocal refused
        plain = json.loads(text)
        for index, how, leaf in changes:
            altered(plain, paths[index], how, leaf)
        try:
            contract = Contract.from_json(json.dumps(plain))
        except ContractError:
            refused += 1
            return
        fly(replace(bundle, contract=contract))

    run()
    assert 100 < refused < 500


def test_bytes_of_a_bundle_that_were_altered_are_refused_or_harmless(tmp_path: Path) -> None:
    """1,500 files."""
    whole = write_tiny_bundle(tmp_path / "whole.onnx", "cartpole", gain=0.3).read_bytes()
    first = whole.index(METADATA_KEY.encode())
    path = tmp_path / "altered.onnx"
    loaded = 0

    # most of them in the contract: what lies in the graph is caught by its digest
    @settings(max_examples=1500)
    @given(
        where=st.lists(st.integers(first - 20, len(whole) - 1) | st.integers(0, len(whole) - 1), max_size=4),
        to=st.lists(st.integers(0, 255), min_size=4, max_size=4),
        cut=st.none() | st.integers(0, len(whole)),
    )
    def run(where: list[int], to: list[int], cut: int | None) -> None:
        nonlocal loaded
        data = bytearray(whole)
        for position, byte in zip(where, to):
            data[position] = byte
        path.write_bytes(data[:cut])
        try:
            bundle = Bundle.load(path)
        except (BundleError, ContractError):
            return
        loaded += 1
        fly(bundle)

    run()
    assert 50 < loaded < 1450


def test_settings_of_the_controller(bundles: dict[str, Bundle]) -> None:
    """1,000 settings."""
    bundle = bundles["a1_stand"]

    @settings(max_examples=1000)
    @given(
        refine=st.integers() | st.integers(0, 8),
        engage_s=st.sampled_from(NUMBERS) | st.floats(),
        rate_hz=st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.sampled_from([1e-3, 100.0, 1e6]),
    )
    def run(refine: int, engage_s: float, rate_hz: float) -> None:
        try:
            contract = replace(bundle.contract, rate_hz=rate_hz)
            judge = Judge(replace(bundle, contract=contract), refine, engage_s)
        except ContractError:
            return
        sample = Sample(contract)
        for tick in range(3):
            sample.put_flat(contract.layout.mean, tick)
            judge.check(judge.controller.tick(sample, tick), sample.values)

    run()
