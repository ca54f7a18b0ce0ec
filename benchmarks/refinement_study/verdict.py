"""What the study is asked, answered in a few rows; the other tables give every fault."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.refinement_study.contest import Task
from benchmarks.refinement_study.figures import (
    BASELINE,
    CHAMPION,
    CHECKED,
    Figures,
    difference,
    error_ratio,
    masked_fraction,
    over_nominal,
)
from benchmarks.refinement_study.statistics import Interval, bootstrap
from benchmarks.refinement_study.tables import show

_MEMORY, _HELD = "gru", "hold"
_GAINS = ("nominal", "dropout80", "dead_angle_encoder", "dead_gyro+accelerometer")
_FALSIFIED = ("bias_", "stuck_")
_ENCODER_LOSS = ("dead_joint_", "encoders_out_")

Row = list[str]


def verdict(figures: Figures, task: Task) -> list[Row]:
    """Rows of text under a head; empty without the agents that they are about."""
    masked = [f for f in task.masked if f != "nominal"]
    memory = {f: difference(figures, _MEMORY, CHAMPION, f) for f in masked}
    errors = {f: error_ratio(figures, CHAMPION, BASELINE, f) for f in masked}
    falsified = {f: over_nominal(figures, CHECKED, f) for f in task.faults if f.startswith(_FALSIFIED)}
    rows = [
        *_gains(figures),
        *_range(f"J, {_MEMORY} - {CHAMPION}", memory, "+.1f", 0.0),
        *_range(f"error of the estimate, {CHAMPION} / {BASELINE}", errors, ".2f", 1.0),
        *_range(f"J / nominal, {CHECKED}", falsified, ".2f", 1.0),
        *_false_masking(figures, task.layout.channels),
    ]
    for agent in (CHAMPION, BASELINE, _HELD):
        lost = {f: over_nominal(figures, agent, f, "final") for f in masked if f.startswith(_ENCODER_LOSS)}
        rows += _range(f"final / nominal, {agent}", lost, ".2f", 1.0)
    return [["figure", "fault", "value [95 % interval]"], *rows] if rows else []


def _gains(figures: Figures) -> list[Row]:
    rows = []
    for fault in _GAINS:
        gain = difference(figures, BASELINE, CHAMPION, fault)
        if gain is not None:
            part = 100 / float(figures[CHAMPION]["nominal"]["cost"].mean())
            percent = Interval(part * gain.mean, part * gain.low, part * gain.high)
            text = f"{show(gain, '+.2f')}; {show(percent, '+.0f')} % of nominal"
            rows.append([f"J, {BASELINE} - {CHAMPION}", fault, text])
    return rows


def _range(title: str, intervals: Mapping[str, Interval | None], form: str, neutral: float) -> list[Row]:
    """The least and the largest, and the faults whose interval lies wholly on one side of `neutral`."""
    known = {fault: i for fault, i in intervals.items() if i is not None}
    if not known:
        return []
    least, largest = (choose(known, key=lambda f: known[f].mean) for choose in (min, max))
    above = [fault for fault, i in known.items() if i.low > neutral]
    below = [fault for fault, i in known.items() if i.high < neutral]
    return [
        [f"{title}: least", least, show(known[least], form)],
        [f"{title}: largest", largest, show(known[largest], form)],
        [f"{title}: above {neutral:g}", f"{len(above)} of {len(known)}", _few(above)],
        [f"{title}: below {neutral:g}", f"{len(below)} of {len(known)}", _few(below)],
    ]


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names) if len(names) <= most else ""


def _false_masking(figures: Figures, channels: tuple[str, ...]) -> list[Row]:
    """Of the worst channel; the interval is over seeds alone, of which each has its own bounds."""
    if CHECKED not in figures:
        return []
    masked = masked_fraction(figures, CHECKED, "nominal")
    worst = int(np.argmax(masked.mean(0)))
    interval = bootstrap(100 * masked[:, worst : worst + 1])
    return [[f"masked at nominal, {channels[worst]}", "nominal", f"{show(interval, '.4f')} % of ticks"]]
