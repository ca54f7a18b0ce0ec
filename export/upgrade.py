"""A bundle of contract version 2 as one of version 3, without the run that it came from.

The old graph always made all the steps that it was allowed, whatever they were worth. So the new one takes a tolerance
that it does not heed, and tells as many steps as were asked for: every action stays what it was. The surprise, which
version 2 did not know, is calibrated anew in simulation.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export.exporter import ExportReport, write_bundle
from export.health import calibrate
from runtime.bundle import METADATA_KEY, Bundle, read_bytes
from runtime.contract import Contract
from runtime.errors import BundleError
from runtime.migration import to_version_3
from runtime.modelfile import ModelError, read_model
from sim.tasks import NOMINAL, task_class


def is_version_2(path: Path) -> bool:
    """Whether the file says so. Raises BundleError if it cannot be read."""
    try:
        plain = json.loads(read_model(read_bytes(path)).metadata[METADATA_KEY])
    except (ModelError, KeyError, ValueError, RecursionError):
        return False  # to be refused with the reason when it is loaded
    return isinstance(plain, dict) and plain.get("version") == 2


def upgrade(path: Path, output: Path, report: Callable[[str], None] | None = None, workers: int = 1) -> ExportReport:
    """Write the bundle `path` of contract version 2 as the bundle `output` of version 3, atomically.

    `report` is called with the name of each stage. Raises GanglionError if the bundle was altered, its contract does
    not fit, or its task is not known here.
    """
    say = report or (lambda stage: None)
    say("give the graph its new inputs and outputs")
    data = read_bytes(path)
    file = read_model(data)
    contract = Contract.from_json(json.dumps(to_version_3(json.loads(file.metadata[METADATA_KEY]))))
    if contract.digest != file.digest:
        raise BundleError(f"{path} is damaged or was altered: its digest does not fit; copy or export it again")
    model = onnx.load_model_from_string(data)
    model.graph.input.append(helper.make_tensor_value_info("tolerance", TensorProto.FLOAT, [1]))
    model.graph.output.append(helper.make_tensor_value_info("steps", TensorProto.INT64, [1]))
    model.graph.node.append(helper.make_node("Identity", ["refine"], ["steps"]))
    with tempfile.TemporaryDirectory() as folder:
        drafted = Bundle.load(write_bundle(Path(folder) / "draft.onnx", model, contract))
        say("calibrate the health signals")
        task, seed = contract.provenance.task, contract.provenance.seed
        worlds = tuple(name for name in task_class(task).worlds() if name != NOMINAL) or (NOMINAL,)
        health = calibrate(drafted, task, seed, workers=workers, worlds=worlds)
    write_bundle(output, model, replace(contract, health=health))
    return ExportReport(Bundle.load(output).contract, output.stat().st_size)
