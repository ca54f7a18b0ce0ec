"""The study's figures as JSON, Markdown tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.refinement_study.contest import CONTESTANTS, TASKS, Task
from benchmarks.refinement_study.figures import (
    BASELINE,
    CHAMPION,
    CHECKED,
    Figures,
    collect,
    contestants,
    detection,
    difference,
    error_ratio,
    faults_of,
    masked_fraction,
    over_nominal,
)
from benchmarks.refinement_study.judging import FINAL
from benchmarks.refinement_study.statistics import Interval, bootstrap
from benchmarks.refinement_study.tables import markdown, show
from benchmarks.refinement_study.units import Unit
from benchmarks.refinement_study.verdict import verdict
from runtime.files import write_bytes, write_json

Table = list[list[str]]
"""Rows of text, the first of which is the head; empty if there is nothing to show."""
Cell = Callable[[str, str], str]
"""Text for a label and a fault."""


def write_report(results: Mapping[Unit, dict[str, Any]], folder: Path) -> list[Path]:
    """Write results.json, tables.md and plots for every task; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    written, text, plain = [], [], {}
    for task in dict.fromkeys(unit.task for unit in results):
        own = {unit: kept for unit, kept in results.items() if unit.task == task}
        figures = collect(own)
        text.append(_section(task, figures, own))
        plain[task] = summary(figures)
        path = folder / f"{task}.png"
        _plot(figures, path)
        written.append(path)
    write_json(folder / "results.json", plain)
    write_bytes(folder / "tables.md", "\n".join(text).encode())
    return [*written, folder / "results.json", folder / "tables.md"]


def _section(name: str, figures: Figures, results: Mapping[Unit, dict[str, Any]]) -> str:
    task = TASKS[name]
    lines = [
        f"## {name}\n",
        f"J is the mean of {task.cost}; final is that of the last {FINAL} ticks alone. The estimate is of "
        f"{task.estimated}. Brackets hold 95 % intervals over seeds and episodes.\n",
    ]
    for unit, kept in results.items():
        if kept["switched_off"]:
            channels = ", ".join(kept["switched_off"])
            lines.append(
                f"{unit.agent}, seed {unit.seed}: a sensor check is off, no bound kept it quiet: {channels}.\n"
            )
    for title, rows in _tables(figures, task).items():
        if rows:
            lines.append(f"### {title}\n\n{markdown(rows)}\n")
    return "\n".join(lines)


def _tables(figures: Figures, task: Task) -> dict[str, Table]:
    everyone, everywhere = contestants(figures), faults_of(figures)
    others = [label for label in everyone if label != CHAMPION]
    named = {label: label for label in everyone}
    believing = {label: label for label in everyone if figures[label]["nominal"]["square_error"] is not None}
    believing_others = {label: label for label in believing if label != BASELINE}
    numbers = _sweep(figures)
    swept = [fault for fault in everywhere if fault in task.swept]

    def cost(label: str, fault: str) -> str:
        return show(bootstrap(figures[label][fault]["cost"]))

    def final(label: str, fault: str) -> str:
        return show(bootstrap(figures[label][fault]["final"]), ".2f")

    def lost(label: str, fault: str) -> str:
        return show(over_nominal(figures, label, fault, "final"), ".2f")

    def minus_champion(label: str, fault: str) -> str:
        return _starred(difference(figures, label, CHAMPION, fault), 0.0, "+.1f")

    def error(label: str, fault: str) -> str:
        square = figures[label][fault]["square_error"]
        return "" if square is None else f"{np.sqrt(square.mean(1)).mean():.1f}"

    def relative(label: str, fault: str) -> str:
        return _starred(error_ratio(figures, label, BASELINE, fault), 1.0, ".2f")

    return {
        "verdict": verdict(figures, task),
        "J (lower is better)": _table(figures, named, everywhere, cost),
        f"J minus that of {CHAMPION}, paired (positive: {CHAMPION} is better; * the interval excludes 0)": _table(
            figures, {n: n for n in others if CHAMPION in figures}, everywhere, minus_champion
        ),
        "final": _table(figures, named, everywhere, final),
        "final / nominal": _table(figures, named, everywhere[1:], lost),
        "error of the estimate": _table(figures, believing, everywhere, error),
        f"error of the estimate / that of {BASELINE} (* the interval excludes 1)": _table(
            figures, believing_others if BASELINE in figures else {}, everywhere, relative
        ),
        "refinement steps: J": _table(figures, numbers, swept, cost),
        "refinement steps: error of the estimate": _table(figures, numbers, swept, error),
        "sensor checks": checks_table(figures, task.layout.channels),
        "detection of faults that no mask tells (AUROC)": detection_table(figures, task.masked),
    }


def _table(figures: Figures, columns: Mapping[str, str], faults: list[str], cell: Cell) -> Table:
    """Rows of `faults` against `columns`, which are titles of labels."""
    if not columns or not faults:
        return []
    body = [[f, *(cell(label, f) if f in figures[label] else "" for label in columns.values())] for f in faults]
    return [["fault", *columns], *body]


def _sweep(figures: Figures) -> dict[str, str]:
    """Every number of steps of the agents that were judged with several, by title, to its label."""
    columns = {}
    for agent in contestants(figures):
        variants = [v for v in CONTESTANTS[agent].variants if not v.checks]
        if len(variants) > 1:
            for v in sorted(variants, key=lambda v: v.steps):
                default = v.name == "default"
                columns[f"{agent} K={v.steps}{' (default)' * default}"] = agent if default else f"{agent} {v.name}"
    return columns


def _starred(interval: Interval | None, neutral: float, form: str) -> str:
    excluded = interval is not None and not interval.low <= neutral <= interval.high
    return show(interval, form) + "*" * excluded


def checks_table(figures: Figures, channels: tuple[str, ...]) -> Table:
    """What the sensor checks mask under each fault, and the cost with and without them."""
    if CHECKED not in figures:
        return []
    rows = [["fault", "J without", "J with", "with / nominal", "masked (fraction of ticks)"]]
    for fault, values in figures[CHECKED].items():
        masked = masked_fraction(figures, CHECKED, fault).mean(0)
        worst = sorted(zip(masked, channels), reverse=True)[:2]
        named = ", ".join(f"{c} {m:.4f}" for m, c in worst if m > 0)
        without, cost = figures[CHAMPION][fault]["cost"].mean(), values["cost"].mean()
        rows.append([fault, f"{without:.1f}", f"{cost:.1f}", show(over_nominal(figures, CHECKED, fault), ".2f"), named])
    return rows


def detection_table(figures: Figures, told: tuple[str, ...]) -> Table:
    """AUROC of each health signal for every fault but those in `told`, and their mean."""
    labels = [n for n in contestants(figures) if figures[n]["nominal"]["signals"][0]]
    faults = [f for f in faults_of(figures) if f not in told]
    if not labels or not faults:
        return []
    areas = [{f"{n}: {s}": a for n in labels for s, a in detection(figures, n, f).items()} for f in faults]
    means = {column: float(np.mean([row[column] for row in areas])) for column in areas[0]}
    body = [[f, *(f"{a:.2f}" for a in row.values())] for f, row in zip([*faults, "mean"], [*areas, means])]
    return [["fault", *areas[0]], *body]


def summary(figures: Figures) -> dict[str, Any]:
    """Everything as plain values, per label and fault."""
    return {label: {fault: _plain(figures, label, fault) for fault in faults} for label, faults in figures.items()}


def _plain(figures: Figures, label: str, fault: str) -> dict[str, Any]:
    values = figures[label][fault]
    square = values["square_error"]
    compared = {
        "cost": bootstrap(values["cost"]),
        "final": bootstrap(values["final"]),
        "minus_champion": difference(figures, label, CHAMPION, fault),
        "cost_over_nominal": over_nominal(figures, label, fault),
        "final_over_nominal": over_nominal(figures, label, fault, "final"),
        "error_over_baseline": error_ratio(figures, label, BASELINE, fault),
    }
    return {
        "seeds": int(values["cost"].shape[0]),
        "episodes": int(values["cost"].shape[1]),
        "per_seed": values["cost"].mean(1).tolist(),
        "failed": int(np.sum(values["failed"])),
        "rmse": None if square is None else float(np.sqrt(square.mean(1)).mean()),
        **{name: None if interval is None else asdict(interval) for name, interval in compared.items()},
    }


def _plot(figures: Figures, path: Path) -> None:
    """Mean cost of every contestant under every fault, as a map."""
    faults = faults_of(figures)
    labels = [label for label in figures if label in (*contestants(figures), CHECKED)]
    values = np.array([[figures[n][fault]["cost"].mean() for n in labels] for fault in faults])
    figure, axes = plt.subplots(figsize=(2 + 0.9 * len(labels), 1.5 + 0.26 * len(faults)), layout="constrained")
    image = axes.imshow(values, aspect="auto", cmap="viridis_r")
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    axes.set_yticks(range(len(faults)), faults)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = value > np.nanmean(values)
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
    figure.colorbar(image, ax=axes, label="J")
    figure.savefig(path, dpi=110)
    plt.close(figure)
