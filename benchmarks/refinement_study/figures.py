"""Figures of all units side by side, and how two of them compare in the same episodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.refinement_study.contest import CONTESTANTS
from benchmarks.refinement_study.statistics import Interval, auroc, bootstrap, bootstrap_ratio
from benchmarks.refinement_study.units import Unit

Figures = dict[str, dict[str, dict[str, Any]]]
"""Per label (agent, or agent with a variant) and fault: cost, final (S, E), square_error (S, E) or None, failed (S,),
gated and frozen (S, D), signals (a list of S)."""
CHAMPION = "gauss_newton"
CHECKED = f"{CHAMPION} checks"
BASELINE = "amortized"


def collect(results: Mapping[Unit, dict[str, Any]]) -> Figures:
    """Seeds stacked. What has nothing to learn is the same with every seed."""
    seeds = len({unit.seed for unit in results})
    rows: dict[str, dict[str, dict[str, list[Any]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for unit, kept in results.items():
        copies = 1 if CONTESTANTS[unit.agent].schedule else seeds
        for variant, faults in kept["variants"].items():
            label = unit.agent if variant == "default" else f"{unit.agent} {variant}"
            for fault, values in faults.items():
                for name, value in values.items():
                    rows[label][fault][name] += copies * [value]
    return {
        label: {fault: {name: _stacked(name, v) for name, v in fields.items()} for fault, fields in faults.items()}
        for label, faults in rows.items()
    }


def _stacked(name: str, values: list[Any]) -> Any:
    if any(v is None for v in values):
        return None
    return values if name == "signals" else np.array(values)


def contestants(figures: Figures) -> list[str]:
    """Labels without those of variants."""
    return [label for label in figures if label in CONTESTANTS]


def faults_of(figures: Figures) -> list[str]:
    """Every fault, the nominal case first."""
    return max((list(faults) for faults in figures.values()), key=len)


def _paired(
    figures: Figures, one: tuple[str, str], other: tuple[str, str], name: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Arrays (S, E) of two (label, fault); None if one is missing or they have not the same seeds."""
    a, b = (figures.get(label, {}).get(fault, {}).get(name) for label, fault in (one, other))
    return None if a is None or b is None or a.shape != b.shape else (a, b)


def difference(figures: Figures, label: str, other: str, fault: str) -> Interval | None:
    """J of `label` minus that of `other` in the same episodes; None without common seeds."""
    pair = _paired(figures, (label, fault), (other, fault), "cost")
    return None if pair is None else bootstrap(pair[0] - pair[1])


def over_nominal(figures: Figures, label: str, fault: str, name: str = "cost") -> Interval | None:
    """`name` (cost or final) under the fault by that without, of the same agent."""
    pair = _paired(figures, (label, fault), (label, "nominal"), name)
    return None if pair is None else bootstrap_ratio(*pair)


def error_ratio(figures: Figures, label: str, other: str, fault: str) -> Interval | None:
    """Root mean squared error of the estimate of `label` by that of `other`; None if one has no estimate."""
    pair = _paired(figures, (label, fault), (other, fault), "square_error")
    if pair is None:
        return None
    square = bootstrap_ratio(*pair)
    return Interval(*(float(np.sqrt(v)) for v in (square.mean, square.low, square.high)))


def masked_fraction(figures: Figures, label: str, fault: str) -> np.ndarray:
    """Fraction (S, D) of the ticks in which the sensor checks masked each channel."""
    values = figures[label][fault]
    masked: np.ndarray = values["gated"] + values["frozen"]
    return masked


def detection(figures: Figures, label: str, fault: str) -> dict[str, float]:
    """AUROC of each health signal, of episodes with the fault against nominal ones, mean over seeds."""
    pairs = list(zip(figures[label]["nominal"]["signals"], figures[label][fault]["signals"]))
    return {s: float(np.mean([auroc(np.array(h[s]), np.array(f[s])) for h, f in pairs])) for s in pairs[0][0]}
