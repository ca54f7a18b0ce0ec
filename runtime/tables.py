"""Results in words: from what goes into a JSON file to the columns and rows of a table."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Columns, and rows of text; columns without names need no heading."""

FACTS = ("", "")
"""Columns of a table of names and texts."""


def bench_table(result: dict[str, Any]) -> Table:
    """From `runtime.bench.bench`."""
    rows = [(k, *(f"{t[p]:.1f}" for p in ("p50_us", "p99_us", "max_us"))) for k, t in result["refine"].items()]
    return ("K", "p50 µs", "p99 µs", "max µs"), rows


def evaluation_table(result: dict[str, Any]) -> Table:
    """From `sim.evaluate.evaluate`; the task's own metrics make the last columns."""
    known = ("refine", "world", "fault", "episodes", "return_mean", "return_ci95", "success_rate", "active_rate")
    metrics = [key for key in result["results"][0] if key not in known]
    rows = []
    for r in result["results"]:
        low, high = r["return_ci95"]
        total = f"{r['return_mean']:.2f} ({low:.2f} to {high:.2f})"
        rates = (f"{r['success_rate']:.1%}", f"{r['active_rate']:.1%}")
        rows.append((str(r["refine"]), r["world"], r["fault"], total, *rates, *(f"{r[m]:.4g}" for m in metrics)))
    return ("K", "world", "fault", "return (95 %)", "success", "acting", *metrics), rows


def off_policy_table(result: dict[str, Any]) -> Table:
    """From `training.off_policy.judge.judge`."""
    rows: list[tuple[str, ...]] = []
    for policy in result["policies"]:
        for name, e in policy["estimates"].items():
            bounds = "unknown" if e["low"] is None else f"{e['low']:.4g} to {e['high']:.4g}"
            rows.append((policy["name"], name, f"{e['value']:.4g}", bounds, f"{e['effective']:.1f}"))
    return ("policy", "estimator", "discounted return", "95 %", "effective episodes"), rows


def replay_table(result: dict[str, Any]) -> Table:
    """From `runtime.replay.compare.ReplayResult.to_json`, with the `runtime.replay.verdict.Verdict` as `verdict`."""
    error = result["action_error"]
    size = "no recorded commands" if error["rmse"] is None else f"rmse {error['rmse']:.3g}, max {error['max']:.3g}"
    statuses = ", ".join(f"{n} {s.lower()}" for s, n in result["statuses"].items())
    course = result["course"]
    masked = sorted(course["masked"].items(), key=lambda item: -item[1])
    worst = [(measure.replace("_", " "), found[0]) for measure, found in course["worst"].items() if found]
    events = ", ".join(f"{n} {kind}" for kind, n in course["event_counts"].items() if kind != "status")
    rows = [
        ("verdict", _verdict(result["verdict"])),
        ("mode", result["mode"]),
        ("ticks", f"{result['ticks']} ({statuses}; {result['skipped']} skipped)"),
        ("actions identical", "yes" if result["bit_exact"] else "no"),
        ("action error", size),
        ("first difference", result["first_difference"]),
        ("not in the bag", ", ".join(result["missing"])),
        ("masked", ", ".join(f"{channel} {share:.1%}" for channel, share in masked)),
        ("events", events),
        ("worst", "\n".join(f"{measure} {m['value']:.3g} at {m['time_s']:.2f} s" for measure, m in worst)),
        ("notice", "\n".join(result["notices"])),
        ("speed", f"{result['realtime_factor']:.0f} times real time"),
    ]
    return FACTS, [(name, text) for name, text in rows if text]


def replays_table(outcomes: list[dict[str, Any]]) -> Table:
    """From `runtime.replay.batch.Outcome.to_json`, one row for every bag and K."""
    columns = ("bag", "K", "mode", "ticks", "acting", "identical", "rmse", "max", "surprise", "speed", "")
    return columns, [_replays_row(outcome) for outcome in outcomes]


def replay_row(outcome: dict[str, Any]) -> dict[str, Any]:
    """The same as a row of plain values, None where there is none, and the whole as JSON in its last column."""
    result, verdict = outcome["result"] or {}, outcome["verdict"] or {}
    error = result.get("action_error", {})
    numbers = ("mode", "ticks", "compared", "skipped", "bit_exact", "realtime_factor")
    return {
        "bag": outcome["bag"], "bundle": outcome["bundle"], "refine": outcome["refine"], "error": outcome["error"],
        "verdict": verdict.get("state"), **{name: result.get(name) for name in numbers},
        "rmse": error.get("rmse"), "max": error.get("max"), "json": json.dumps(outcome),
    }  # fmt: skip


def _replays_row(outcome: dict[str, Any]) -> tuple[str, ...]:
    name, steps = outcome["bag"], "" if outcome["refine"] is None else str(outcome["refine"])
    if outcome["error"]:
        return name, steps, *("",) * 8, outcome["error"]
    result = outcome["result"]
    acting = sum(result["statuses"].get(s, 0) for s in ("ACTIVE", "ENGAGING")) / result["ticks"]
    error, surprise = result["action_error"], result["course"]["surprise"]
    sizes = ("–" if error[k] is None else f"{error[k]:.3g}" for k in ("rmse", "max"))
    return (
        name, steps, result["mode"], str(result["ticks"]), f"{acting:.1%}", "yes" if result["bit_exact"] else "no",
        *sizes, f"{surprise['mean']:.3g}" if surprise else "–", f"{result['realtime_factor']:.0f} ×",
        "\n".join(result["notices"]),
    )  # fmt: skip


def comparison_table(runs: list[dict[str, Any]]) -> Table:
    """From `runtime.replay.verdict.Replayed.to_json`, one row for every bag, K and bundle."""
    columns = ("bag", "bundle", "K", "acting", "masked", "rmse", "max", "surprise", "verdict")
    return columns, [_comparison_row(run) for run in runs]


def _comparison_row(run: dict[str, Any]) -> tuple[str, ...]:
    name, steps = (run["bag"], run["bundle"]), "" if run["refine"] is None else str(run["refine"])
    if run["error"]:
        return *name, steps, *("",) * 5, run["error"]
    _, _, _, _, acting, _, *sizes, surprise, _, _ = _replays_row(run)
    masked = next(c["value"] for c in run["verdict"]["checks"] if c["name"] == "Masked")
    return *name, steps, acting, masked, *sizes, surprise, _verdict(run["verdict"])


def _verdict(verdict: dict[str, Any]) -> str:
    """The worst state, and what is in it."""
    state = verdict["state"]
    named = [f"{c['name'].lower()} {c['value']}" for c in verdict["checks"] if c["state"] == state]
    return "good" if state == "good" else f"{state}: {', '.join(named)}"


def demo_table(result: dict[str, Any]) -> Table:
    """From `ros_nodes.demo.run_demo`."""

    def microseconds(times: dict[str, float]) -> str:
        return ", ".join(f"{name} {value:.0f} µs" for name, value in times.items())

    errors = [
        (
            f"tracking error, {phase}",
            f"{1000 * e['k0']:.1f} mm with K = 0, {1000 * e['k_default']:.1f} mm with the default",
        )
        for phase, e in result["tracking_error_m"].items()
    ]
    return FACTS, [
        ("rate held", f"{result['rate_hz']:.2f} Hz"),
        ("ticks", f"{result['ticks']}, {result['late_ticks']} late"),
        ("tick", microseconds(result["tick_us"])),
        ("message to command", microseconds(result["latency_us"])),
        *errors,
        ("replay identical", "yes" if result["replay_bit_exact"] else "no"),
    ]


def preflight_table(result: dict[str, Any]) -> Table:
    """From the findings of `runtime.preflight.check`, as plain values."""
    columns = ("", "where", "got", "expected", "what to do")
    return columns, [(f["level"], f["where"], f["got"], f["expected"], f["remedy"]) for f in result["findings"]]


def difference_table(result: dict[str, Any]) -> Table:
    """From the differences of `runtime.diff`, as plain values; of what a robot does not notice, only how much it is."""
    rows: list[tuple[str, ...]] = [(d["where"], d["first"], d["second"]) for d in result["differences"] if d["noticed"]]
    records = Counter(".".join(d["where"].split(".")[:2]) for d in result["differences"] if not d["noticed"])
    return ("what", "first", "second"), rows + [(where, f"records: {n}", "") for where, n in records.items()]
