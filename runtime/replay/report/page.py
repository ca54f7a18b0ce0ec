"""The report as one HTML file that holds all it needs."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.files import write_bytes
from runtime.replay.report.views import comparison_view, replay_view, summary_row
from runtime.replay.verdict import Replayed

_HERE = Path(__file__).parent


def write_report(path: Path, title: str, runs: Sequence[Replayed]) -> None:
    """Write the page on these replays, all or nothing. Raises GanglionError if that fails."""
    write_bytes(path, render(title, runs).encode())


def render(title: str, runs: Sequence[Replayed]) -> str:
    """The page on one or more replays: a summary, every replay, and replays of the same bag side by side."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    rows = [summary_row(run, f"r{i}") for i, run in enumerate(runs)]
    views = [*_comparisons(runs), *(replay_view(run, f"r{i}") for i, run in enumerate(runs) if not run.failed)]
    for view in views:
        view["figure"] = _packed(json.dumps(view["figure"], separators=(",", ":"), allow_nan=False))
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        rows=rows,
        views=views,
        several_bundles=len({run.file for run in runs}) > 1,
        style=(_HERE / "page.css").read_text(),
        script=(_HERE / "page.js").read_text(),
        plotly=_packed(get_plotlyjs()),
    )


def _comparisons(runs: Sequence[Replayed]) -> list[dict[str, Any]]:
    """One for every bag that was replayed more than once."""
    by_bag: dict[Path, list[Replayed]] = {}
    for run in runs:
        if not run.failed:
            by_bag.setdefault(run.outcome.job.bag, []).append(run)
    several = [same for same in by_bag.values() if len(same) > 1]
    return [comparison_view(same, _names(same), f"c{i}") for i, same in enumerate(several)]


def _names(runs: Sequence[Replayed]) -> list[str]:
    """What tells replays of one bag apart: the bundle, K, or both."""
    bundles = len({run.file for run in runs}) > 1
    sweep = len({run.outcome.job.options.refine for run in runs}) > 1
    parts = [[run.file.stem] * bundles + [f"K {run.steps}"] * (sweep or not bundles) for run in runs]
    names = [", ".join(p) for p in parts]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def _packed(text: str) -> str:
    """Compressed, as text: the browser unpacks it."""
    return b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
