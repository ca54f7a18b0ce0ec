"""A bundle of fp32 to one of another precision, behind two gates: what it computes, and how it controls.

Each layer is converted alone first; those that alone, or together with the less sensitive ones, take some output
beyond the tolerance stay in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.exporter import ExportReport, export, write_bundle
from export.gate import Arrays, ParityError, answers, given_inputs, largest_difference
from export.quantise import convert, split_layers
from export.record import HELD_OUT, Recording, record_faulty
from export.upgrade import is_version_2, upgrade
from runtime.bundle import Bundle
from runtime.contract import PRECISIONS, Control, Parity, Precision, Quality
from runtime.errors import GanglionError
from runtime.modelfile import read_model
from sim.evaluate import evaluate

TOLERANCES = {"fp16": 0.01, "int8-dynamic": 0.05, "int8": 0.05}
"""Largest difference from fp32 by precision, of any output of a tick, relative where the output is above 1."""
MARGIN = 0.05
"""Of the control gate, see `runtime.contract.Control`."""
_PARITY_TICKS, _CALIBRATION_TICKS = 1000, 500


class ControlError(GanglionError):
    """A converted bundle controls worse than the one that it was made of."""


def export_as(
    source: Path,
    output: Path,
    precision: str,
    report: Callable[[str], None] | None = None,
    workers: int = 1,
    checks: bool = True,
    episodes: int = 100,
    best: bool = False,
) -> ExportReport:
    """Write `source`, the folder of a run or a bundle of fp32, as the bundle `output` of a precision, atomically.

    See `export.exporter.export`, by which a run becomes fp32 first, `export.upgrade.upgrade`, by which a bundle of
    contract version 2 does, and `convert_bundle`.
    """
    bundle = source.suffix == ".onnx"
    if bundle and best:
        raise GanglionError(f"{source} is a bundle, which has no best checkpoint; give the folder of the run")
    if bundle and not is_version_2(source):
        return convert_bundle(Bundle.load(source), output, precision, report, workers, episodes)

    def first(path: Path) -> ExportReport:
        if bundle:
            return upgrade(source, path, report, workers)
        return export(source, path, report, workers, checks, best)

    if precision == PRECISIONS[0]:
        return first(output)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp32.onnx"
        first(path)
        return convert_bundle(Bundle.load(path), output, precision, report, workers, episodes)


def convert_bundle(
    source: Bundle,
    output: Path,
    precision: str,
    report: Callable[[str], None] | None = None,
    workers: int = 1,
    episodes: int = 100,
) -> ExportReport:
    """Write `source`, a bundle of fp32, as the bundle `output` of another precision, atomically.

    `report` is called with the name of each stage. `workers` share the `episodes` of the control gate. Raises
    GanglionError if there is nothing to convert, or the task is not known here; ParityError if no layer may be
    converted, and ControlError if it controls worse by more than the margin.
    """
    say = report or (lambda stage: None)
    contract = source.contract
    if precision not in TOLERANCES or contract.precision.name != PRECISIONS[0]:
        raise GanglionError(
            f"cannot make {precision} of {source.path}, which is {contract.precision.name}: expected a bundle of fp32 "
            f"and one of {', '.join(TOLERANCES)}"
        )
    task, seed = contract.provenance.task, contract.provenance.seed
    refine = contract.parity.refine if contract.parity else (0, contract.refinement.default_steps)
    say("record failing sensors")
    ticks = record_faulty(source, task, seed, refine, _PARITY_TICKS)
    calibration = record_faulty(source, task, seed + HELD_OUT, refine, _CALIBRATION_TICKS)
    say(f"compare {precision} with fp32, layer by layer")
    search = _Search(source, precision, ticks, calibration, refine)
    layers, model, difference = search.run()
    parity = Parity(
        observations=len(ticks),
        refine=tuple(refine),
        masked_fraction=float(1.0 - ticks["mask"].mean()),
        tolerance=TOLERANCES[precision],
        max_difference=difference,
    )
    made = Precision(precision, len(layers), len(search.layers) - len(layers), contract.digest)
    contract = replace(contract, parity=parity, precision=made, digest=read_model(model.SerializeToString()).digest)
    say("compare how they control")
    control = check_control(source, Bundle(output, contract, model.SerializeToString()), episodes, workers)
    contract = replace(contract, precision=replace(made, control=control))
    write_bundle(output, model, contract)
    return ExportReport(Bundle.load(output).contract, output.stat().st_size)


class _Search:
    """Which layers compute in `precision` without any output leaving the tolerance."""

    def __init__(
        self, source: Bundle, precision: str, ticks: Recording, calibration: Recording, refine: Sequence[int]
    ) -> None:
        self._source, self._precision, self._ticks, self._refine = source, precision, ticks, refine
        self._tolerance = TOLERANCES[precision]
        self._split, self.layers = split_layers(onnx.load_model_from_string(source.model))
        self._calibration = _rows(calibration)
        self._expected = self._answers(source.model)

    def run(self) -> tuple[list[str], onnx.ModelProto, float]:
        """The layers, the model and its largest difference. Raises ParityError if there are none."""
        alone = {layer: self._difference([layer])[1] for layer in self.layers}
        layers = [x for x in sorted(alone, key=alone.__getitem__) if alone[x] <= self._tolerance]
        while layers:
            model, difference = self._difference(layers)
            if difference <= self._tolerance:
                return layers, model, difference
            layers.pop()
        raise ParityError(
            f"no layer of {self._source.path} computes in {self._precision} what it does in fp32: of "
            f"{len(self.layers)}, the best differs by {min(alone.values(), default=float('inf')):.2g}, allowed is "
            f"{self._tolerance:g}; no bundle was written"
        )

    def _difference(self, layers: list[str]) -> tuple[onnx.ModelProto, float]:
        model = convert(self._split, self._precision, layers, self._calibration)
        pairs = zip(self._answers(model.SerializeToString()), self._expected)
        worst = max(largest_difference(a[n], b[n]) for a, b in pairs for n in b)
        return model, worst if np.isfinite(worst) else float("inf")

    def _answers(self, model: bytes) -> list[Arrays]:
        session = replace(self._source, model=model).start().session
        return [answer for k in self._refine for answer in answers(session, self._ticks, k)]


def _rows(ticks: Recording) -> list[Arrays]:
    """The inputs of the graph, tick by tick."""
    given = given_inputs(ticks) | {n: ticks[n] for n in ("refine", "tolerance")}
    return [{n: a[i : i + 1] for n, a in given.items()} for i in range(len(ticks))]


def check_control(source: Bundle, made: Bundle, episodes: int, workers: int) -> Control:
    """Fly the same held-out episodes with both. Raises ControlError if `made` is worse by more than the margin."""
    seed = made.contract.provenance.seed + 4 * HELD_OUT
    reference, own = (
        _quality(evaluate(b, episodes=episodes, seed=seed, workers=workers)["results"][0]) for b in (source, made)
    )
    losses = {
        "success": reference.success_rate - own.success_rate,
        "time in which it acts": reference.active_rate - own.active_rate,
        "return": (reference.return_mean - own.return_mean) / max(abs(reference.return_mean), 1e-9),
    }
    worse = [f"{name} falls by {loss:.1%}" for name, loss in losses.items() if not loss <= MARGIN]
    if worse:
        raise ControlError(
            f"{made.contract.precision.name} controls worse than fp32 over {episodes} episodes: {', '.join(worse)}, "
            f"allowed is {MARGIN:.0%}; no bundle was written, stay with fp32 or try another precision"
        )
    return Control(episodes, own, reference, MARGIN)


def _quality(result: dict[str, Any]) -> Quality:
    return Quality(result["success_rate"], result["return_mean"], result["active_rate"])
