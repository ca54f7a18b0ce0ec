"""Intervals and rows as Markdown."""

from __future__ import annotations

from benchmarks.refinement_study.statistics import Interval


def show(interval: Interval | None, form: str = ".1f") -> str:
    """Mean and interval; nothing for None."""
    if interval is None:
        return ""
    mean, low, high = (format(v, form) for v in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def markdown(rows: list[list[str]]) -> str:
    """A table whose first row is the head."""
    head, *body = rows
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body))
