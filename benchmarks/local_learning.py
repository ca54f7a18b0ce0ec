"""Local predictive-coding learning against backpropagation: one tick at a time, and while the payload changes.

    python -m benchmarks.local_learning [--seeds 0 1 2 3 4] [--ticks 4000] [--output runs/local_learning]

The model of the cart-pole learns from one pass over a stream of ticks, once an update per tick and once an update per
64 parallel ticks; the cart's mass then changes three times. Both rules start from the same weights, see the same
streams and use the same optimiser; each gets the learning rate that suited it best on seeds of its own for tuning.
What is finished is kept in the output folder, seed by seed, so an interrupted study goes on where it was. Writes
results.json, tables.md and local_learning.png.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.local_learning_study import (
    BURN_IN,
    RULES,
    Filter,
    fly,
    forgetting,
    held_out_error,
    learn,
    recovery,
    side_by_side,
)
from benchmarks.refinement_study.statistics import Interval, bootstrap
from benchmarks.refinement_study.tables import markdown, show
from runtime.errors import GanglionError
from runtime.files import write_bytes, write_json
from training.local_learning import Gradients

RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TUNING_SEEDS = (1000, 1001)
PAYLOADS = (1.0, 2.0, 0.3)
"""Factors on the cart's mass, in the order in which they are met."""
_HELD_OUT_SEED, _HELD_OUT, _HELD_OUT_TICKS = 1_000_000, 16, 20  # sequences and ticks per payload


@dataclass(frozen=True)
class Course:
    """What a model learns from."""

    batch: int
    """Worlds side by side."""
    phases: tuple[int, ...]
    """Payload of every phase, as its place in `PAYLOADS`."""

    def marks(self, ticks: int) -> list[int]:
        """Updates of a phase of `ticks` ticks after which the model is judged, closer together at the start."""
        return sorted({max(1, round(ticks / self.batch / 2 ** (i / 2))) for i in range(9)})


PAIRED = "local - backprop"
COURSES = {"batch 1": Course(1, (0, 1, 2, 0)), "batch 64": Course(64, (0,))}
Errors = dict[str, dict[str, np.ndarray]]
"""By course and rule: held-out error (seeds, rates, phases, marks, payloads), nats per channel."""


@dataclass(frozen=True)
class Options:
    """Train both rules and compare."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of weights and streams."""
    ticks: int = 4000
    """Length of a phase, 10 ms each."""
    output: Path = field(default_factory=lambda: Path("runs/local_learning"))
    """Folder of figures and reports."""


def main(options: Options) -> list[Path]:
    """Train what is missing, then write the report; the files written.

    Raises GanglionError for too few ticks, no seed, or a seed that is used for tuning.
    """
    least = max(course.batch for course in COURSES.values())
    if options.ticks < least:
        raise GanglionError(f"ticks is {options.ticks}, expected at least {least}, one update of the largest batch")
    if not options.seeds or set(options.seeds) & set(TUNING_SEEDS):
        raise GanglionError(f"seeds are {options.seeds}; expected some, and none of {TUNING_SEEDS}, kept for tuning")
    torch.set_num_threads(1)
    seeds = (*TUNING_SEEDS, *options.seeds)
    kept = {seed: _kept(options, seed) for seed in seeds}
    parts = [(name, rule) for name in COURSES for rule in RULES]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        for name, rule in parts:
            missing = [seed for seed in seeds if rule not in kept[seed].get(name, {})]
            if missing:
                task = bar.add_task(f"{name} {rule}")
                trained = _train(COURSES[name], rule, missing, options.ticks, partial(_show, bar, task))
                for seed, errors in zip(missing, trained.astype(float).round(5).tolist()):
                    kept[seed].setdefault(name, {})[rule] = errors
                    write_json(_file(options, seed), {"settings": _settings(options), "errors": kept[seed]})
    return write_report({c: {r: np.array([kept[s][c][r] for s in seeds]) for r in RULES} for c in COURSES}, options)


def _show(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _file(options: Options, seed: int) -> Path:
    return options.output / f"seed-{seed}.json"


def _settings(options: Options) -> dict[str, Any]:
    return {"ticks": options.ticks, "rates": list(RATES), "payloads": list(PAYLOADS)}


def _kept(options: Options, seed: int) -> dict[str, dict[str, Any]]:
    """What is finished of a seed under these settings: errors by course and rule."""
    path = _file(options, seed)
    kept = json.loads(path.read_text()) if path.exists() else {}
    return kept["errors"] if kept.get("settings") == _settings(options) else {}


def _train(course: Course, rule: str, seeds: list[int], ticks: int, report: Callable[[int, int], None]) -> np.ndarray:
    """All of `seeds` at once, each with every rate: (seeds, rates, phases, marks, payloads)."""
    payloads = np.tile(np.repeat(PAYLOADS, _HELD_OUT), (BURN_IN + _HELD_OUT_TICKS, 1))
    held_out = fly(payloads, [_HELD_OUT_SEED])

    def judge(skeleton: Filter, weights: Gradients) -> np.ndarray:
        return held_out_error(skeleton, weights, held_out).unflatten(-1, (len(PAYLOADS), -1)).mean(-1).numpy()

    updates, marks = ticks // course.batch, course.marks(ticks)
    payload = np.repeat([PAYLOADS[p] for p in course.phases], updates)[:, None]
    streams = [fly(np.tile(payload, course.batch), [seed, course.batch]) for seed in seeds]
    judged = learn(
        rule,
        [Filter(seed) for seed in seeds for _ in RATES],
        [rate for _ in seeds for rate in RATES],
        side_by_side([stream for stream in streams for _ in RATES]),
        [phase * updates + mark for phase in range(len(course.phases)) for mark in marks],
        judge,
        report,
    )
    shape = (len(course.phases), len(marks), len(seeds), len(RATES), len(PAYLOADS))
    return judged.reshape(shape).transpose(2, 3, 0, 1, 4)


def chosen_rates(errors: Errors) -> dict[str, dict[str, int]]:
    """Place in `RATES` of the least error over the second half of the first phase, on the tuning seeds."""
    return {c: {r: int(tuning_error(e).argmin()) for r, e in rules.items()} for c, rules in errors.items()}


def tuning_error(errors: np.ndarray) -> np.ndarray:
    """What the rate is chosen by, (rates,), from (seeds, rates, phases, marks, payloads); the first seeds tune."""
    return errors[: len(TUNING_SEEDS), :, 0, -3:, 0].mean((0, 2))


Row = tuple[str, dict[str, np.ndarray]]
"""A quantity and its values (seeds,) under each rule."""


def tables(errors: Errors, ticks: int) -> dict[str, list[Row]]:
    """The report's rows by title; the tuning seeds are left out."""
    chosen = chosen_rates(errors)
    judged = {c: {r: e[len(TUNING_SEEDS) :] for r, e in rules.items()} for c, rules in errors.items()}
    tuned = {c: {r: e[:, chosen[c][r]] for r, e in rules.items()} for c, rules in judged.items()}

    def row(name: str, course: str, quantity: Callable[[np.ndarray], np.ndarray], rate: int | None = None) -> Row:
        values = tuned[course] if rate is None else {r: e[:, rate] for r, e in judged[course].items()}
        return name, {rule: quantity(value) for rule, value in values.items()}

    one, many = COURSES
    phases, marks = COURSES[one].phases, np.array(COURSES[one].marks(ticks))
    middle = range(1, len(phases) - 1)
    ends = [row(f"{c}, at the end", c, lambda e: e[:, 0, -1, 0]) for c in COURSES]
    halves = [row(f"{c}, mean of the second half", c, lambda e: e[:, 0, -3:, 0].mean(1)) for c in COURSES]
    gap = {rule: ends[0][1][rule] - ends[1][1][rule] for rule in RULES}
    return {
        "Batch size: held-out error on payload 1": [*ends, *halves, (f"{one} less {many}, at the end", gap)],
        "Payloads: held-out error at the end of every phase": [
            row(f"phase {p + 1}, payload {PAYLOADS[k]}{' (now)' if k == phases[p] else ''}", one,
                lambda e, p=p, k=k: e[:, p, -1, k])  # type: ignore[misc]
            for p in range(len(phases))
            for k in sorted(set(phases[: p + 1]))
        ],
        "Payloads: payload 1 forgotten and recovered": [
            *(row(f"forgotten after phase {p + 1}", one, lambda e, p=p: forgetting(e[..., 0])[:, p - 1])  # type: ignore[misc]
              for p in middle),
            row("ticks to recover in the last phase", one, lambda e: recovery(e[..., 0], marks)),
        ],
        "Payloads, at every learning rate": [
            row(f"rate {rate:g}: {name}", one, quantity, i)
            for i, rate in enumerate(RATES)
            for name, quantity in (
                ("error after phase 1", lambda e: e[:, 0, -1, 0]),
                (f"forgotten after phase {middle[-1] + 1}", lambda e: forgetting(e[..., 0])[:, -1]),
            )
        ],
    }  # fmt: skip


def intervals(values: dict[str, np.ndarray]) -> dict[str, Interval]:
    """Of each rule, and of the paired difference."""
    local, backprop = (values[rule] for rule in RULES)
    columns = values | {PAIRED: local - backprop}
    return {name: bootstrap(column[:, None]) for name, column in columns.items()}


def write_report(errors: Errors, options: Options) -> list[Path]:
    """Write results.json, tables.md and local_learning.png; their paths."""
    chosen = chosen_rates(errors)
    rows = [
        [f"{c}, {r}", *(f"{v:.3f}{' (chosen)' if i == chosen[c][r] else ''}" for i, v in enumerate(tuning_error(e)))]
        for c, rules in errors.items()
        for r, e in rules.items()
    ]
    text = ["## Learning rates: error on the tuning seeds\n", markdown([["", *(f"{r:g}" for r in RATES)], *rows])]
    plain: dict[str, Any] = {
        "settings": _settings(options) | {"seeds": list(options.seeds)},
        "rates": {c: {r: RATES[i] for r, i in rules.items()} for c, rules in chosen.items()},
    }
    for title, quantities in tables(errors, options.ticks).items():
        found = {name: intervals(values) for name, values in quantities}
        plain[title] = {name: {column: asdict(i) for column, i in row.items()} for name, row in found.items()}
        body = [[name, *(_cell(i, c == PAIRED) for c, i in row.items())] for name, row in found.items()]
        text += [f"\n## {title}\n", markdown([["", *RULES, PAIRED], *body])]
    written = [options.output / name for name in ("results.json", "tables.md", "local_learning.png")]
    write_json(written[0], plain)
    write_bytes(written[1], ("\n".join(text) + "\n").encode())
    write_bytes(written[2], _plot(errors, options.ticks))
    return written


def _cell(interval: Interval, paired: bool) -> str:
    """Mean with its interval; a star where that of a difference excludes zero."""
    digits = 0 if abs(interval.mean) >= 100 else 3
    return show(interval, f".{digits}f") + "*" * (paired and interval.excludes_zero)


def _plot(errors: Errors, ticks: int) -> bytes:
    """Learning curves by course, and the payloads' errors over the phases, as a PNG file."""
    chosen = chosen_rates(errors)
    figure, axes = plt.subplots(1, 1 + len(COURSES), figsize=(15, 4.5), layout="constrained")
    for axis, (name, course) in zip(axes, COURSES.items()):
        for rule in RULES:
            values = errors[name][rule][len(TUNING_SEEDS) :, chosen[name][rule], 0, :, 0]
            seen = course.batch * np.array(course.marks(ticks))
            axis.plot(seen, values.mean(0), label=rule)
            axis.fill_between(seen, values.min(0), values.max(0), alpha=0.2)
        axis.set(title=f"{name}, payload 1", xlabel="ticks", ylabel="held-out error, nats per channel")
        axis.legend()
    name, course = next(iter(COURSES.items()))
    marks = np.array(course.marks(ticks))
    at = np.concatenate([p * ticks + marks for p in range(len(course.phases))])
    for rule, style in zip(RULES, ("-", "--")):
        mean = errors[name][rule][len(TUNING_SEEDS) :, chosen[name][rule]].mean(0)
        for k, payload in enumerate(PAYLOADS):
            axes[-1].plot(at, mean[..., k].flatten(), style, color=f"C{k + 2}", label=f"{rule}, payload {payload}")
    for p in range(1, len(course.phases)):
        axes[-1].axvline(p * ticks, color="0.7", zorder=0)
    sequence = ", ".join(str(PAYLOADS[p]) for p in course.phases)
    axes[-1].set(title=f"{name}, payloads {sequence}", xlabel="ticks", ylabel="held-out error, nats per channel")
    axes[-1].set_ylim(top=float(np.quantile(axes[-1].lines[0].get_ydata(), 0.9)) + 1.0)
    axes[-1].legend(fontsize=8)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return file.getvalue()


if __name__ == "__main__":
    try:
        for path in main(tyro.cli(Options)):
            print(path)
    except GanglionError as error:
        raise SystemExit(f"error: {error}") from None
