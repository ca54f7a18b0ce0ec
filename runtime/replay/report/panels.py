"""The panels of one replay: status, commands, error, surprise, free energy, innovations, steps and times."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from runtime.contract import Contract
from runtime.replay.report.stack import Panel, Times, Trace, coloured, selectable
from runtime.replay.timeline import Timeline
from runtime.replay.verdict import surprise_bound
from runtime.replay.words import number, short_names
from runtime.safety import Status
from runtime.sensing import Reason

STATUS_COLOURS = {
    Status.WAITING: "$faint",
    Status.ACTIVE: "$calm",
    Status.HOLDING: "$orange",
    Status.ENGAGING: "$sky",
    Status.STOPPED: "$red",
}
_TIMED = {"wall_us": ("$faint", "$muted"), "tick_us": ("$blue", "$blue"), "latency_us": ("$orange", "$orange")}
"""Colours of lines, and of the words that name them."""
_SEVERITY = (Status.ACTIVE, Status.ENGAGING, Status.WAITING, Status.HOLDING, Status.STOPPED)
_DISBELIEVED = int(Reason.FROZEN | Reason.GATED)
_AT_ONCE = ("late", "differs", "request")
"""Kinds of events that are marked."""


def replay_panels(timeline: Timeline, times: Times, contract: Contract, steps: int) -> list[Panel]:
    """From top to bottom; `steps` is the K whose calibration bounds the free energy."""
    panels = [
        _status(timeline, times),
        _commands(timeline, times, contract),
        _error(timeline, times, contract),
        _surprise(timeline, times, contract),
        _free_energy(timeline, times, contract, steps),
        _innovations(timeline, times, contract),
        _refinement(timeline, times),
        _durations(timeline, times, contract),
    ]
    return [panel for panel in panels if panel is not None]


def _status(timeline: Timeline, times: Times) -> Panel:
    """The gravest status of each bin, and marks for what happened at once."""
    gravest = np.zeros(len(timeline.ticks))
    for rank, status in enumerate(_SEVERITY):
        gravest[timeline.statuses[:, status] > 0] = rank
    scale = [[(i + d) / len(_SEVERITY), STATUS_COLOURS[s]] for i, s in enumerate(_SEVERITY) for d in (0, 1)]
    names = [s.name.lower() for s in _SEVERITY]
    strip = times.heat(gravest[None], [0], scale, (-0.5, len(_SEVERITY) - 0.5), hovertemplate="%{text}<extra></extra>")
    strip["text"] = [["" if v is None else names[int(v)] for v in strip["z"][0]]]
    traces: list[Trace] = [strip]
    kinds = [k for k in _AT_ONCE if timeline.event_counts.get(k)]
    for row, kind in enumerate(kinds, 1):
        events = [e for e in timeline.events if e.kind == kind]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [round(e.time_s, 4) for e in events],
                "y": [row] * len(events),
                "marker": {"color": "$red" if kind in ("differs", "late") else "$ink", "size": 7, "symbol": "diamond"},
                "text": [e.text or e.subject for e in events],
                "hovertemplate": "%{text}<extra></extra>",
                "cliponaxis": False,
            }
        )
    rows = ["status", *kinds]
    axis = {
        "range": [-0.5, len(rows) - 0.5],
        "tickmode": "array",
        "tickvals": list(range(len(rows))),
        "ticktext": rows,
        "showgrid": False,
    }
    seen = [s for s in _SEVERITY if timeline.statuses[:, s].any()]
    key = "  ".join(f"{coloured('■', STATUS_COLOURS[s])} {s.name.lower()}" for s in seen)
    return Panel(f"<b>Status</b>   {key}", 18 * len(rows), traces, axis)


def _commands(timeline: Timeline, times: Times, contract: Contract) -> Panel:
    """Replayed on recorded, of the joint that is chosen."""
    traces = []
    compared = np.isfinite(timeline.series["error"].mean).any()
    for i, joint in enumerate(timeline.joints):
        parts = times.band(timeline.series[f"command.{joint}"], "$blue", "replayed")
        if compared:
            parts.insert(0, times.line(timeline.series[f"recorded.{joint}"].mean, "$orange", "recorded", 3.5))
        traces += [selectable(p, joint, i == 0) for p in parts]
    key = f"   {coloured('replayed', '$blue')}"
    if compared:
        key += f" on {coloured('recorded', '$orange')}"
    return Panel(f"<b>Command</b>, {contract.action.unit}{key}", 170, traces)


def _error(timeline: Timeline, times: Times, contract: Contract) -> Panel | None:
    band = timeline.series["error"]
    if not np.isfinite(band.mean).any():
        return None
    traces = times.band(band, "$red", "error")
    most = float(np.nanmax(band.high))
    axis = {"rangemode": "tozero"} if most else {"range": [0, 1], "tickvals": [0]}
    return Panel(f"<b>Error</b>, largest of all joints, {contract.action.unit}", 80 if most else 36, traces, axis)


def _surprise(timeline: Timeline, times: Times, contract: Contract) -> Panel:
    single = times.line(timeline.series["surprise"].high, "$faint", "of one tick", 1.0)
    traces = [single, *times.band(timeline.series["sustained_surprise"], "$purple", "sustained", 1.8)]
    bound = surprise_bound(contract)
    bounds = [(bound, f"bound {number(bound)}")] if math.isfinite(bound) else []
    title = f"<b>Surprise</b>   {coloured('over half a second', '$purple')}, {coloured('of one tick', '$muted')}"
    values = np.concatenate([timeline.series[n].high for n in ("surprise", "sustained_surprise")])
    positive = values[values > 0]
    low = max(float(np.nanpercentile(positive, 2)), 1e-3) if len(positive) else 0.1
    high = max([float(positive.max()) if len(positive) else 1.0, *([bound] if bounds else [])])
    limits = [math.log10(low) - 0.1, math.log10(high) + 0.25]
    axis = {"type": "log", "dtick": 1 if limits[1] - limits[0] > 1.5 else "D1", "range": limits, "tickformat": "~g"}
    return Panel(title, 130, traces, axis, bounds)


def _free_energy(timeline: Timeline, times: Times, contract: Contract, steps: int) -> Panel:
    band = timeline.series["free_energy"]
    traces = times.band(band, "$green", "free energy")
    at = contract.health.refine.get(str(steps))
    bounds = []
    if at is not None and at.free_energy:
        level, value = contract.health.levels[-1], at.free_energy[-1]
        bounds = [(value, f"{100 * level:g} % of calibration lie below")]
    return Panel("<b>Free energy</b>, nats", 100, traces, {}, bounds)


def _innovations(timeline: Timeline, times: Times, contract: Contract) -> Panel:
    """Largest |innovation| of every channel and bin; masked channels in the colour of the reason."""
    names = [f"{o.name.replace('_', ' ')} {short}" for o in contract.observations for short in short_names(o.channels)]
    labels = [n if len(n) <= 24 else f"{n[:10]}…{n[-13:]}" for n in _unique(names)]
    bands = [timeline.series[f"innovation.{c}"] for c in timeline.channels]
    sizes = np.array([np.fmax(np.abs(b.low), np.abs(b.high)) for b in bands])
    masked = timeline.masked.T
    disbelieved = (timeline.reasons.T & _DISBELIEVED) > 0

    def layer(values: np.ndarray, scale: list[Any], most: float, text: str) -> Trace:
        hover = f"%{{y}}: {text}<extra></extra>"
        return times.heat(values, labels, scale, (0.0, most), ygap=1, hovertemplate=hover)

    heat = [[0, "$heat0"], [0.4, "$heat1"], [0.7, "$heat2"], [1, "$heat3"]]
    traces = [layer(sizes, heat, 5.0, "%{z:.2g} σ")]
    for where, colour in ((~disbelieved, "$mask"), (disbelieved, "$gate")):
        part = np.where(where & (masked > 0), masked, np.nan)
        if np.isfinite(part).any():
            traces.append(layer(part, [[0, f"{colour}0"], [1, colour]], 1.0, "masked in %{z:.0%} of the ticks"))
    keys = {
        "2 σ": "$heat1",
        "5 σ": "$heat3",
        "masked: missing, stale or invalid": "$mask",
        "masked: disbelieved": "$gate",
    }
    title = "<b>Innovation</b> of every sensor   " + "   ".join(
        f"{coloured('■', c)} {text}" for text, c in keys.items()
    )
    axis = {
        "autorange": "reversed",
        "showgrid": False,
        "tickfont": {"size": 10},
        "tickmode": "array",
        "tickvals": labels,
        "type": "category",
    }
    return Panel(title, min(13 * len(labels), 640), traces, axis)


def _unique(names: list[str]) -> list[str]:
    """Names that repeat get a number: a category must be one of its kind."""
    return [f"{n} ({i})" if names.count(n) > 1 else n for i, n in enumerate(names)]


def _refinement(timeline: Timeline, times: Times) -> Panel:
    traces = [
        times.line(timeline.series["refine"].mean, "$faint", "allowed", shape="hv"),
        times.line(timeline.series["steps"].mean, "$blue", "made", shape="hv"),
    ]
    title = f"<b>Refinement steps</b> K   {coloured('made', '$blue')}, {coloured('allowed', '$muted')}"
    most = float(np.nanmax(timeline.series["refine"].high))
    return Panel(title, 50, traces, {"rangemode": "tozero", "dtick": max(1, round(most / 2))})


def _durations(timeline: Timeline, times: Times, contract: Contract) -> Panel:
    """What the robot took at most, and what this replay takes on average."""
    shown = (
        ("wall_us", timeline.series["wall_us"].mean, "tick in this replay"),
        ("tick_us", timeline.series["tick_us"].high, "tick on the robot"),
        ("latency_us", timeline.series["latency_us"].high, "sensor to command"),
    )
    known = [(_TIMED[name], 1e-3 * values, text) for name, values, text in shown if np.isfinite(values).any()]
    traces = [times.line(values, colour, text) for (colour, _), values, text in known]
    title = "<b>Time taken</b>, ms   " + ", ".join(coloured(text, colour) for (_, colour), _, text in known)
    period = 1e3 / contract.rate_hz
    most = min(1.08 * max(float(np.nanmax(values)) for _, values, _ in known), 3 * period)
    bounds = [(period, f"period {period:g} ms")] if most > 0.5 * period else []
    return Panel(title, 100, traces, {"range": [0, max(most, 1.15 * period if bounds else most)]}, bounds)
