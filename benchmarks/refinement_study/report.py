"""The study's figures as JSON, Markdown tables and plots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.refinement_study.contest import TASKS
from benchmarks.refinement_study.statistics import Interval, auroc, bootstrap
from benchmarks.refinement_study.units import Unit
from runtime.files import write_bytes, write_json

Figures = dict[str, dict[str, dict[str, Any]]]
"""Per label (agent, or agent with a variant) and fault: cost (S, E), rmse (S,) or None, failed (S,), and so on."""
CHAMPION = "gauss_newton"


def write_report(results: Mapping[Unit, dict[str, Any]], folder: Path) -> list[Path]:
    """Write results.json, tables.md and plots for every task; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    written, text, plain = [], [], {}
    for task in dict.fromkeys(unit.task for unit in results):
        figures = collect({u: r for u, r in results.items() if u.task == task})
        tables = {
            "J (lower is better)": cost_table(figures),
            f"J minus that of {CHAMPION}, paired (positive: {CHAMPION} is better)": difference_table(figures),
            "error of the estimate": error_table(figures),
            "sensor checks": checks_table(figures, TASKS[task].layout.channels),
            "detection (AUROC)": detection_table(figures),
        }
        text += [f"## {task}\n", *(f"### {title}\n\n{_markdown(rows)}\n" for title, rows in tables.items() if rows)]
        plain[task] = summary(figures)
        path = folder / f"{task}.png"
        _plot(figures, path)
        written.append(path)
    write_json(folder / "results.json", plain)
    write_bytes(folder / "tables.md", "\n".join(text).encode())
    return [*written, folder / "results.json", folder / "tables.md"]


def collect(results: Mapping[Unit, dict[str, Any]]) -> Figures:
    """Seeds stacked: arrays (S, …) per label and fault."""
    rows: dict[str, dict[str, dict[str, list[Any]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for unit, kept in results.items():
        for variant, faults in kept["variants"].items():
            label = unit.agent if variant == "default" else f"{unit.agent} {variant}"
            for fault, values in faults.items():
                for name, value in values.items():
                    rows[label][fault][name].append(value)
    return {
        label: {
            fault: {
                name: values if name == "signals" or values[0] is None else np.array(values)
                for name, values in fields.items()
            }
            for fault, fields in faults.items()
        }
        for label, faults in rows.items()
    }


def _faults(figures: Figures) -> list[str]:
    return max((list(faults) for faults in figures.values()), key=len)


def _table(figures: Figures, cell: Any, labels: list[str] | None = None) -> list[list[str]]:
    """Rows of faults against labels; `cell(label, fault)` gives the text."""
    names = labels or list(figures)
    rows = [["fault", *names]]
    for fault in _faults(figures):
        rows.append([fault, *(cell(n, fault) if fault in figures[n] else "" for n in names)])
    return rows


def cost_table(figures: Figures) -> list[list[str]]:
    """Mean cost with its interval."""

    def cell(label: str, fault: str) -> str:
        interval = bootstrap(figures[label][fault]["cost"])
        return f"{interval.mean:.1f} [{interval.low:.1f}, {interval.high:.1f}]"

    return _table(figures, cell)


def difference(figures: Figures, label: str, fault: str, champion: str = CHAMPION) -> Interval | None:
    """Cost of `label` minus the champion's in the same episodes; None without common seeds."""
    if fault not in figures.get(champion, {}) or fault not in figures[label]:
        return None
    a, b = figures[label][fault]["cost"], figures[champion][fault]["cost"]
    return bootstrap(a - b) if a.shape == b.shape else None


def difference_table(figures: Figures) -> list[list[str]]:
    """Paired differences to the champion; a star where the interval excludes zero."""

    def cell(label: str, fault: str) -> str:
        d = difference(figures, label, fault)
        return "" if d is None else f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]{'*' if d.excludes_zero else ''}"

    return _table(figures, cell, [n for n in figures if n != CHAMPION]) if CHAMPION in figures else []


def error_table(figures: Figures) -> list[list[str]]:
    """Root mean squared error of the estimate, mean over seeds."""

    def cell(label: str, fault: str) -> str:
        values = figures[label][fault]["rmse"]
        return f"{np.mean(values):.1f}"

    labels = [n for n, f in figures.items() if f["nominal"]["rmse"][0] is not None]
    return _table(figures, cell, labels) if labels else []


def checks_table(figures: Figures, channels: tuple[str, ...]) -> list[list[str]]:
    """What the sensor checks mask under each fault, and the cost with and without them."""
    label = f"{CHAMPION} checks"
    if label not in figures:
        return []
    rows = [["fault", "J without", "J with", "with / nominal", "masked (fraction of ticks)"]]
    nominal = figures[label]["nominal"]["cost"].mean()
    for fault, values in figures[label].items():
        masked = (values["gated"] + values["frozen"]).mean(0)
        worst = sorted(zip(masked, channels), reverse=True)[:2]
        without = figures[CHAMPION][fault]["cost"].mean()
        named = ", ".join(f"{c} {m:.4f}" for m, c in worst if m > 0)
        cost = values["cost"].mean()
        rows.append([fault, f"{without:.1f}", f"{cost:.1f}", f"{cost / nominal:.2f}", named])
    return rows


def detection_table(figures: Figures) -> list[list[str]]:
    """AUROC of each health signal, of episodes with a fault against nominal ones, averaged over seeds."""
    labels = [n for n, f in figures.items() if f["nominal"]["signals"][0] and " " not in n]
    if not labels:
        return []
    signals = list(figures[labels[0]]["nominal"]["signals"][0])
    rows = [["fault", *(f"{n}: {s}" for n in labels for s in signals)]]
    for fault in _faults(figures)[1:]:
        row = [fault]
        for label in labels:
            for signal in signals:
                pairs = zip(figures[label]["nominal"]["signals"], figures[label][fault]["signals"])
                row.append(f"{np.mean([auroc(np.array(h[signal]), np.array(f[signal])) for h, f in pairs]):.2f}")
        rows.append(row)
    return rows


def summary(figures: Figures) -> dict[str, Any]:
    """Everything as plain values."""
    plain: dict[str, Any] = {}
    for label, faults in figures.items():
        plain[label] = {}
        for fault, values in faults.items():
            d = difference(figures, label, fault)
            plain[label][fault] = {
                "seeds": int(values["cost"].shape[0]),
                "episodes": int(values["cost"].shape[1]),
                "cost": asdict(bootstrap(values["cost"])),
                "per_seed": values["cost"].mean(1).tolist(),
                "minus_champion": None if d is None else asdict(d),
                "failed": int(np.sum(values["failed"])),
                "rmse": None if values["rmse"][0] is None else float(np.mean(values["rmse"])),
            }
    return plain


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _plot(figures: Figures, path: Path) -> None:
    """Mean cost of every label under every fault, as a map."""
    faults = _faults(figures)
    values = np.array([[f[name]["cost"].mean() if name in f else np.nan for f in figures.values()] for name in faults])
    figure, axes = plt.subplots(figsize=(2 + 0.9 * len(figures), 1.5 + 0.26 * len(faults)), layout="constrained")
    image = axes.imshow(values, aspect="auto", cmap="viridis_r")
    axes.set_xticks(range(len(figures)), list(figures), rotation=60, ha="right")
    axes.set_yticks(range(len(faults)), faults)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = value > np.nanmean(values)
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
    figure.colorbar(image, ax=axes, label="J")
    figure.savefig(path, dpi=110)
    plt.close(figure)
