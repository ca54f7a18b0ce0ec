from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from export.precision import export_as
from runtime.bundle import METADATA_KEY, Bundle, graph_digest
from runtime.controller import Controller
from runtime.errors import BundleError, ContractError
from runtime.sample import Sample


@pytest.fixture
def old(cartpole_path: Path, tmp_path: Path) -> Path:
    """The tiny bundle as version 2 had it."""
    model = onnx.load_model_from_string(cartpole_path.read_bytes())
    graph = model.graph
    plain = json.loads(model.metadata_props[0].value)
    graph.input.remove(next(i for i in graph.input if i.name == "tolerance"))
    graph.output.remove(next(o for o in graph.output if o.name == "steps"))
    graph.node.remove(next(n for n in graph.node if n.output[0] == "steps"))
    plain["version"] = 2
    plain["health"] = {"levels": [0.5], "ticks": 9, "refine": {"0": {"free_energy": [1.0], "innovation": {}}}}
    plain["digest"] = graph_digest(model.SerializeToString())
    del plain["precision"]
    helper.set_model_props(model, {METADATA_KEY: json.dumps(plain)})
    (tmp_path / "old.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "old.onnx"


def test_version_2_is_refused_with_the_way_out(old: Path) -> None:
    with pytest.raises(ContractError, match=r"contract version 2 is too old .*'ganglion export FILE -o NEW\.onnx'"):
        Bundle.load(old)


def test_the_upgraded_bundle_acts_alike_and_is_calibrated(old: Path, cartpole: Bundle, tmp_path: Path) -> None:
    stages: list[str] = []
    contract = export_as(old, tmp_path / "new.onnx", "fp32", stages.append).contract
    assert contract.version == 3
    assert stages[-1] == "calibrate the health signals"
    assert set(contract.health.refine) == {"0", "1", "2", "4", "8"}
    assert contract.health.refine["0"].sustained > 0
    ours, theirs = Controller(Bundle.load(tmp_path / "new.onnx"), 3), Controller(cartpole, 3)
    sample, rng = Sample(contract), np.random.default_rng(0)
    for tick in range(20):
        sample.put_flat(0.1 * rng.standard_normal(4), tick)
        here, there = ours.tick(sample, tick), theirs.tick(sample, tick)
        np.testing.assert_array_equal(here.values, there.values)
        assert here.steps == there.steps == 3


def test_an_altered_one_is_refused(old: Path, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(old.read_bytes())
    model.graph.node[0].op_type = "ReduceMax"
    old.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"old\.onnx is damaged or was altered"):
        export_as(old, tmp_path / "new.onnx", "fp32")
