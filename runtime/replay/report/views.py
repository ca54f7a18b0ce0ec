"""What the page shows of each replay, and of several replays of one bag: plain values for the template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.contract import Contract
from runtime.replay.compare import ReplayResult
from runtime.replay.report.figures import SERIES, comparison_figure, replay_figure
from runtime.replay.timeline import Moment, Timeline
from runtime.replay.verdict import (
    STATES,
    Replayed,
    error_shares,
    held_share,
    joint_units,
    masked_share,
    surprise_bound,
)
from runtime.replay.words import count, duration, number, quantity, share, sigma
from runtime.sensing import Reason

_TOLD = 3  # channels or joints that a moment names
_NOTABLE = 3.0  # standard deviations; a smaller innovation is nothing to point at
_MEASURES = {"surprise": "surprise", "free_energy": "free energy", "error": "command error"}


def summary_row(run: Replayed, view: str) -> dict[str, Any]:
    """One line of the summary; `view` is the identifier of its details."""
    row: dict[str, Any] = {
        "view": view,
        "bag": run.bag,
        "bundle": run.file.name,
        "steps": run.steps,
        "error": run.outcome.error,
        "state": "bad",
    }
    if run.failed:
        return row
    result, timeline, verdict = run.result, run.timeline, run.verdict()
    shares = error_shares(result, run.contract)
    surprise = _peak(timeline.series["sustained_surprise"].high)
    return row | {
        "state": verdict.state,
        "headline": verdict.headline,
        "mode": "bit for bit" if result.mode == "telemetry" and result.bit_exact else result.mode,
        "ticks": f"{result.ticks:,}",
        "duration": _length(timeline),
        "rms": share(max(shares.values())) if shares else "–",
        "max": "–" if result.max is None else quantity(result.max, run.contract.action.unit),
        "masked": share(float(masked_share(timeline).mean())),
        "held": share(held_share(result)),
        "surprise": _against(surprise, surprise_bound(run.contract)),
        "speed": f"{result.realtime_factor:.0f}×",
    }


def _length(timeline: Timeline) -> str:
    return duration(float(timeline.end_s[-1] - timeline.begin_s[0]))


def _against(value: float, bound: float) -> str:
    return f"{number(value)} of {number(bound)}" if math.isfinite(bound) else number(value)


def replay_view(run: Replayed, view: str) -> dict[str, Any]:
    """Details of one replay that did not fail."""
    result, timeline, verdict, contract = run.result, run.timeline, run.verdict(), run.contract
    asked = run.outcome.job.options.refine
    steps = contract.refinement.default_steps if asked is None else asked
    return {
        "id": view,
        "kind": "replay",
        "title": _subtitle(run),
        "state": verdict.state,
        "headline": verdict.headline,
        "checks": verdict.checks,
        "facts": _facts(run, result),
        "notices": result.notices,
        "joints": _joints(result, contract),
        "joint_names": contract.action.joints,
        "joint": _worst_joint(result, contract),
        "compared": bool(result.per_joint),
        "topics": _topics(result),
        "sensors": _sensors(timeline, contract, steps),
        "moments": _moments(timeline, contract),
        "events": _events(timeline),
        "event_counts": timeline.event_counts,
        "figure": replay_figure(timeline, contract, steps),
    }


def _subtitle(run: Replayed) -> str:
    mode = "recorded ticks" if run.result.mode == "telemetry" else "sensor topics"
    rate, faults = f"{run.contract.rate_hz:g} Hz", run.outcome.job.options.faults
    return " · ".join((run.bag, run.file.name, _length(run.timeline), rate, mode, f"K {run.steps}", *faults))


def _facts(run: Replayed, result: ReplayResult) -> list[tuple[str, str]]:
    c, options = run.contract, run.outcome.job.options
    p = c.provenance
    mode = (
        "recorded ticks (telemetry)"
        if result.mode == "telemetry"
        else f"sensor topics (raw), {options.align}, {options.clock} time"
    )
    facts = [
        ("Bag", str(run.outcome.job.bag)),
        ("Bundle", f"{run.file}, graph {c.digest[:12]}"),
        ("Robot", f"{c.robot} at {c.rate_hz:g} Hz"),
        ("Agent", f"{p.task}, {p.algorithm}, seed {p.seed}" + (f", commit {p.commit[:10]}" if p.commit else "")),
        ("Replayed", f"{mode}; K {run.steps}"),
        ("Ticks", f"{result.ticks:,}" + (f", {result.skipped:,} skipped" if result.skipped else "")),
        ("Faults injected", ", ".join(options.faults)),
        ("Remapped", ", ".join(options.remap)),
        ("Not in the bag", ", ".join(result.missing)),
        ("Speed", f"{result.realtime_factor:.0f} times real time"),
    ]
    return [(name, text) for name, text in facts if text]


def _joints(result: ReplayResult, contract: Contract) -> list[dict[str, Any]]:
    units, shares = joint_units(contract), error_shares(result, contract)
    most = max(shares.values(), default=0.0)
    return [
        {
            "name": joint,
            "range": f"{number(low)} to {number(high)} {units[joint]}",
            "rms": quantity(result.per_joint[joint]["rmse"], units[joint]) if joint in shares else "–",
            "max": quantity(result.per_joint[joint]["max"], units[joint]) if joint in shares else "–",
            "share": share(shares[joint]) if joint in shares else "–",
            "bar": shares[joint] / most if joint in shares and most else 0.0,
        }
        for joint, low, high in zip(contract.action.joints, contract.action.low, contract.action.high)
    ]


def _worst_joint(result: ReplayResult, contract: Contract) -> str:
    """The one with the largest error in its range; the first if all are equal."""
    shares = error_shares(result, contract)
    return max(contract.action.joints, key=lambda j: shares.get(j, 0.0))


def _topics(result: ReplayResult) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "type": t.type,
            "messages": f"{t.messages:,}",
            "gaps": t.gaps,
            "longest": f"{t.longest_gap_s:.3g} s",
            "disorder": t.out_of_order,
            "zero": t.zero_stamps,
            "undecodable": t.undecodable,
        }
        for name, t in result.topics.items()
    ]


def _sensors(timeline: Timeline, contract: Contract, steps: int) -> dict[str, list[dict[str, Any]]]:
    """By observation."""
    masked = masked_share(timeline)
    reasons = np.bitwise_or.reduce(timeline.reasons, axis=0)
    calibrated = contract.health.refine.get(str(steps))
    groups: dict[str, list[dict[str, Any]]] = {o.name: [] for o in contract.observations}
    for i, channel in enumerate(timeline.channels):
        band = timeline.series[f"innovation.{channel}"]
        known = np.isfinite(band.mean)
        bias = float(np.average(band.mean[known], weights=timeline.ticks[known])) if known.any() else math.nan
        peak = _peak(np.fmax(np.abs(band.low), np.abs(band.high)))
        quantiles = calibrated.innovation.get(channel, ()) if calibrated is not None else ()
        usual = quantiles[-1] if quantiles else math.nan
        group, name = channel.split(".", 1)
        groups[group].append(
            {
                "name": name,
                "masked": share(float(masked[i])),
                "bar": float(masked[i]),
                "reasons": Reason(int(reasons[i])).text,
                "bias": sigma(bias),
                "peak": sigma(peak),
                "usual": sigma(usual),
                "beyond": peak > max(_NOTABLE, 2 * usual),
            }
        )
    return groups


def _peak(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else math.nan


def _moments(timeline: Timeline, contract: Contract) -> list[dict[str, Any]]:
    """The worst moments, by measure, with what stood out in each."""
    return [
        {
            "measure": _MEASURES[measure],
            "value": quantity(m.value, {"error": contract.action.unit, "free_energy": "nats"}.get(measure, ""))
            if measure == "error"
            else f"{number(m.value)}{' nats' if measure == 'free_energy' else ''}",
            "time": round(m.time_s, 4),
            "tick": f"{m.activation} · {m.tick:,}" if m.activation else f"{m.tick:,}",
            "status": m.status.lower(),
            "why": _why(m, timeline, contract),
            "joint": _joint(m, contract) if measure == "error" else "",
        }
        for measure, found in timeline.worst.items()
        for m in found
        if m.value > 0 or measure == "free_energy"
    ]


def _joint(moment: Moment, contract: Contract) -> str:
    assert moment.recorded is not None
    return contract.action.joints[int(np.abs(moment.command - moment.recorded).argmax())]


def _why(moment: Moment, timeline: Timeline, contract: Contract) -> str:
    if moment.measure == "error" and moment.recorded is not None:
        ours, recorded = moment.command, moment.recorded
        off = np.abs(ours - recorded)
        return "; ".join(
            f"{contract.action.joints[i]} {number(ours[i])}, recorded {number(recorded[i])}"
            for i in np.argsort(-off)[:_TOLD]
            if off[i] > 0
        )
    size = np.abs(moment.innovation)
    parts = [
        f"{timeline.channels[i]} {sigma(float(moment.innovation[i]))} σ"
        for i in np.argsort(-size)[:_TOLD]
        if size[i] > 1
    ]
    masked = np.flatnonzero(moment.reasons)
    if len(masked):
        parts.append(f"{count(len(masked), 'channel')} masked")
    return "; ".join(parts)


def _events(timeline: Timeline) -> list[dict[str, Any]]:
    """By time; what happened to several channels alike is one event."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for e in timeline.events:
        alike.setdefault((e.kind, round(e.time_s, 4), round(e.end_s, 4), e.text), []).append(e.subject)
    return [
        {"kind": kind, "time": time, "end": end, "text": _sentence(subjects, text)}
        for (kind, time, end, text), subjects in alike.items()
    ]


def _sentence(subjects: list[str], text: str) -> str:
    named = [s.lower() if s.isupper() else s for s in subjects if s]
    who = ", ".join(named[:_TOLD]) + (f" and {len(named) - _TOLD} more" if len(named) > _TOLD else "")
    return ": ".join(part for part in (who, text) if part)


def comparison_view(runs: Sequence[Replayed], names: Sequence[str], view: str) -> dict[str, Any]:
    """Several replays of one bag, none of which failed; `names` tells them apart."""
    joints = list(dict.fromkeys(j for r in runs for j in r.contract.action.joints))
    errors = {name: _mean_error(r) for name, r in zip(names, runs)}
    known = [name for name in names if math.isfinite(errors[name])]
    return {
        "id": view,
        "kind": "comparison",
        "title": f"{runs[0].bag} · "
        + ", ".join(f"{name} {share(errors[name])}" for name in known)
        + (" of the joints' range, rms" if known else "no recorded commands"),
        "state": max((r.verdict().state for r in runs), key=STATES.index),
        "headline": _finding(errors),
        "names": [{"name": name, "colour": SERIES[i % len(SERIES)][1:]} for i, name in enumerate(names)],
        "rows": [_compared(joint, runs) for joint in joints],
        "joint": max(joints, key=lambda j: max(error_shares(r.result, r.contract).get(j, 0.0) for r in runs)),
        "joint_names": joints,
        "figure": comparison_figure([(name, r.timeline, r.contract) for name, r in zip(names, runs)]),
    }


def _finding(errors: dict[str, float]) -> str:
    """From the errors by the name of the replay."""
    known = {name: error for name, error in errors.items() if math.isfinite(error)}
    if len(set(known.values())) < 2:
        return f"Replays side by side{', equally near to the recorded commands' if known else ''}"
    return f"{min(known, key=lambda name: known[name])} is nearest to the recorded commands"


def _mean_error(run: Replayed) -> float:
    """Over the joints, as a fraction of their ranges; NaN if there is nothing to compare."""
    shares = error_shares(run.result, run.contract)
    return float(np.mean(list(shares.values()))) if shares else math.nan


def _compared(joint: str, runs: Sequence[Replayed]) -> dict[str, Any]:
    """Errors of one joint; the least of them is marked."""
    errors = [(r.result.per_joint.get(joint), joint_units(r.contract).get(joint, "")) for r in runs]
    least = min((e["rmse"] for e, _ in errors if e), default=0.0)
    nothing = {"rms": "–", "max": "–", "best": False}
    cells = [
        nothing
        if e is None
        else {"rms": quantity(e["rmse"], unit), "max": quantity(e["max"], unit), "best": e["rmse"] == least}
        for e, unit in errors
    ]
    return {"name": joint, "cells": cells}
