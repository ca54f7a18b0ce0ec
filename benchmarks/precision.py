"""Bundles of fp32 beside the same in fp16 and int8: tick, size, parity, and control in simulation.

    python -m benchmarks.precision [BUNDLE…] [--episodes 100] [--workers 2] [--output runs/precision]

Each bundle is converted by `ganglion export FILE --precision …`, gates included; what a gate refuses is a row that says
so. The ticks at the default K are timed in one run, in turn, on one thread. All precisions control the same held-out
episodes, others than those of the gate, in the nominal world. What is converted and flown is kept in the output folder,
so an interrupted run goes on where it was. Writes precision.json and precision.md there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks.tick import deployed_ticks, interleaved
from benchmarks.walking import wilson
from export.precision import export_as
from runtime.bundle import Bundle
from runtime.contract import PRECISIONS
from runtime.errors import GanglionError
from runtime.files import shipped_bundle, write_bytes, write_json
from sim.evaluate import evaluate

_SHIPPED = ("cartpole", "kuka_reach", "a1_walk")


@dataclass(frozen=True)
class Options:
    """Compare precisions."""

    bundles: Annotated[tuple[Path, ...], tyro.conf.Positional] = field(
        default_factory=lambda: tuple(map(shipped_bundle, _SHIPPED))
    )
    """Bundles (.onnx) of fp32."""
    episodes: int = 100
    """Episodes of every bundle and precision."""
    gate_episodes: int = 20
    """Episodes of the gate of control quality."""
    ticks: int = 4000
    """Ticks per figure."""
    seed: int = 1_000_000
    """Of the first episode."""
    workers: int = 2
    """Processes."""
    output: Path = field(default_factory=lambda: Path("runs/precision"))
    """Folder of the bundles and of the results."""


def main(options: Options) -> list[dict[str, Any]]:
    """Convert, time and fly; returns one row for every bundle and precision."""
    console, rows = Console(stderr=True), []
    for path in options.bundles:
        made = {p: _made(path, p, options, console) for p in PRECISIONS}
        bundles = {p: b for p, b in made.items() if isinstance(b, Bundle)}
        steps = bundles["fp32"].contract.refinement.default_steps
        console.print(f"{path.stem}: ticks")
        (times,) = interleaved([{p: deployed_ticks(b, steps)["controller"] for p, b in bundles.items()}], options.ticks)
        for precision, bundle in made.items():
            row: dict[str, Any] = {"bundle": path.stem, "precision": precision}
            if isinstance(bundle, Bundle):
                console.print(f"{path.stem}, {precision}: episodes")
                rows.append(row | _facts(bundle) | {"tick": times[precision]} | _flown(bundle, options))
            else:
                rows.append(row | {"refused": bundle})
    write_json(options.output / "precision.json", rows)
    text = _table(rows)
    write_bytes(options.output / "precision.md", text.encode())
    print(text)
    return rows


def _made(path: Path, precision: str, options: Options, console: Console) -> Bundle | str:
    """The bundle of a precision, or why a gate refused it."""
    source = Bundle.load(path)
    if precision == PRECISIONS[0]:
        return source
    target = options.output / f"{path.stem}-{precision}.onnx"
    if target.exists() and Bundle.load(target).contract.precision.source == source.contract.digest:
        return Bundle.load(target)

    def say(stage: str) -> None:
        console.print(f"{path.stem}, {precision}: {stage}")

    try:
        export_as(path, target, precision, say, options.workers, episodes=options.gate_episodes)
    except GanglionError as error:
        return str(error)
    return Bundle.load(target)


def _facts(bundle: Bundle) -> dict[str, Any]:
    contract = bundle.contract
    parity, precision = contract.parity, contract.precision
    return {
        "layers": precision.layers,
        "sensitive_layers": precision.sensitive,
        "bytes": len(bundle.model),
        "parity": None if parity is None else parity.max_difference,
        "tolerance": None if parity is None else parity.tolerance,
    }


def _flown(bundle: Bundle, options: Options) -> dict[str, Any]:
    """Control figures of one bundle, kept in a file of their own."""
    settings = {"digest": bundle.contract.digest, "episodes": options.episodes, "seed": options.seed}
    kept = options.output / f"{bundle.path.stem}-flown.json"
    if kept.exists():
        flown: dict[str, Any] = json.loads(kept.read_text())
        if flown["settings"] == settings:
            return flown
    result = evaluate(bundle, episodes=options.episodes, seed=options.seed, workers=options.workers)["results"][0]
    flown = {n: result[n] for n in ("episodes", "success_rate", "return_mean", "return_ci95", "active_rate")}
    flown["success_ci95"] = wilson(round(result["success_rate"] * options.episodes), options.episodes)
    flown["settings"] = settings
    write_json(kept, flown)
    return flown


def _table(rows: list[dict[str, Any]]) -> str:
    names = (
        "bundle", "precision", "layers", "tick p50 (p99), µs", "kB", "differs by (allowed)", "solved (95 %)",
        "return (95 %)",
    )  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        if "refused" in row:
            lines.append(f"| {row['bundle']} | {row['precision']} | refused: {row['refused']} | | | | | |")
            continue
        tick, large = row["tick"], row["layers"] + row["sensitive_layers"]
        (low, high), (least, most) = row["success_ci95"], row["return_ci95"]
        cells = (
            row["bundle"],
            row["precision"],
            f"{row['layers']} of {large}" if large else "",
            f"{tick['p50_us']:.0f} ({tick['p99_us']:.0f})",
            f"{row['bytes'] / 1000:.0f}",
            "" if row["parity"] is None else f"{row['parity']:.1g} ({row['tolerance']:g})",
            f"{row['success_rate']:.1%} ({low:.1%} to {high:.1%})",
            f"{row['return_mean']:.5g} ({least:.5g} to {most:.5g})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except GanglionError as error:
        raise SystemExit(f"error: {error}") from None
