"""Results in words: from what goes into a JSON file to the columns and rows of a table."""

from __future__ import annotations

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


def replay_table(result: dict[str, Any]) -> Table:
    """From `runtime.replay.compare.ReplayResult.to_json`."""
    error = result["action_error"]
    size = "no recorded commands" if error["rmse"] is None else f"rmse {error['rmse']:.3g}, max {error['max']:.3g}"
    statuses = ", ".join(f"{n} {s.lower()}" for s, n in result["statuses"].items())
    rows = [
        ("mode", result["mode"]),
        ("ticks", f"{result['ticks']} ({statuses}; {result['skipped']} skipped)"),
        ("actions identical", "yes" if result["bit_exact"] else "no"),
        ("action error", size),
        ("first difference", result["first_difference"]),
        ("not in the bag", ", ".join(result["missing"])),
        ("speed", f"{result['realtime_factor']:.0f} times real time"),
    ]
    return FACTS, [(name, text) for name, text in rows if text]


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
