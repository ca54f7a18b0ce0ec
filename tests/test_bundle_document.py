"""docs/bundle.md alone is enough to run a bundle: its program does, and its tables name every field."""

from __future__ import annotations

import ast
import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.controller import Controller
from runtime.inference import INPUTS, OUTPUTS
from runtime.messages import KINDS
from runtime.sample import Sample

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "bundle.md").read_text()
BUNDLES = sorted(path.stem for path in (ROOT / "bundles").glob("*.onnx"))
PERIOD_NS = 10_000_000


@pytest.fixture(scope="module")
def robot() -> Any:
    """The class of the document's program."""
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    imported = {a.name for n in ast.walk(ast.parse(program)) if isinstance(n, ast.Import) for a in n.names}
    assert imported == {"json", "numpy", "onnxruntime"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(ast.parse(program)))
    space: dict[str, Any] = {}
    exec(compile(program, "docs/bundle.md", "exec"), space)
    return space["Robot"]


def readings(contract: Contract, ticks: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """A slow motion with noise, of which readings are missing, late, not finite, out of range, or repeat themselves."""
    rng, layout = np.random.default_rng(0), contract.layout
    values, stamps = np.full(layout.size, np.nan), np.full(layout.size, -1)
    for tick in range(ticks):
        now_ns = 10**15 + tick * PERIOD_NS
        arrives = rng.random(layout.size) < (1.0 if tick < 30 else 0.9)
        new = layout.mean + 0.1 * layout.scale * (np.sin(0.05 * tick) + 0.1 * rng.standard_normal(layout.size))
        values[arrives] = np.clip(new, layout.low, layout.high)[arrives]
        stamps[arrives] = now_ns - rng.integers(0, PERIOD_NS)
        if tick % 20 == 19:
            values[rng.integers(layout.size)] = rng.choice([np.nan, np.inf, 1e9])
        yield values, stamps, now_ns


@pytest.mark.parametrize("name", BUNDLES)
def test_the_program_computes_what_the_controller_does(name: str, robot: Any) -> None:
    path = ROOT / "bundles" / f"{name}.onnx"
    consumer, controller = robot(str(path)), Controller(Bundle.load(path), most_surprise=0.0)
    sample, acted, masked = Sample(controller.contract), 0, 0
    for values, stamps, now_ns in readings(controller.contract, 200):
        sample.values[:], sample.stamp_ns[:] = values, stamps
        theirs = controller.tick(sample, now_ns)
        command, outputs = consumer.tick(values, stamps, now_ns)
        for output in OUTPUTS:
            np.testing.assert_array_equal(outputs[output], getattr(controller.inference, output), output)
        if theirs.status.name != "ACTIVE":  # what the document tells, but its program leaves out
            break
        np.testing.assert_array_equal(command, theirs.values)
        acted += 1
        masked += int((theirs.reasons != 0).sum())
    assert acted >= 100
    assert masked >= 10


def test_a_robot_without_its_pose_waits(robot: Any) -> None:
    consumer = robot(str(ROOT / "bundles" / "a1_walk.onnx"))
    nothing = np.full(len(consumer.mean), np.nan)
    assert consumer.tick(nothing, np.full(len(nothing), -1), 0) == (None, None)


def tables() -> dict[str, set[str]]:
    """Names in the first column of every table below a heading of the third level, by the heading."""
    sections = re.split(r"^### `(.+)`$", TEXT.split("\n## Older")[0], flags=re.MULTILINE)
    return {
        name: set(re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE))
        for name, body in zip(sections[1::2], sections[2::2])
    }


def schema(kind: Any, where: str) -> Iterator[tuple[str, set[str]]]:
    """Path and field names of a dataclass and of those inside it, as the document calls them."""
    yield where, {f.name for f in dataclasses.fields(kind)}
    for name, hint in typing.get_type_hints(kind).items():
        path = name if where == "contract" else f"{where}.{name}"
        inner, arguments = typing.get_origin(hint), typing.get_args(hint)
        if inner is tuple and dataclasses.is_dataclass(arguments[0]):
            yield from schema(arguments[0], f"{path}[]")
        elif inner is dict and dataclasses.is_dataclass(arguments[1]):
            yield from schema(arguments[1], f"{path}.{'K' if name == 'refine' else 'CHANNEL'}")
        elif inner is types.UnionType:
            yield from schema(arguments[0], path)
        elif dataclasses.is_dataclass(hint) and name != "reference":
            yield from schema(hint, path)


def test_every_field_of_the_contract_is_told_and_no_other() -> None:
    assert tables() == dict(schema(Contract, "contract"))


def test_every_input_and_output_of_the_graph_is_told() -> None:
    ticks = TEXT.split("## One tick")[1].split("## The contract")[0]
    named = re.findall(r"^\| `([\w.]+)` \|", ticks, re.MULTILINE)
    assert sorted(named) == sorted([*INPUTS, "state.NAME", *OUTPUTS, "next.NAME"])


def test_every_kind_of_observation_is_told() -> None:
    (row,) = re.findall(r"^\| `kind` \| text \| what it is, (.*)$", TEXT, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == set(KINDS)
