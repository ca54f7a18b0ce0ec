"""The learning curve of training runs, from what they log for TensorBoard, as a table.

    python -m benchmarks.curve RUN… [--points 10] [--json PATH]

Return and share of solved episodes are means of the last hundred training episodes, with exploration and randomised.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runtime.errors import GanglionError
from runtime.files import write_json

_RETURN, _SOLVED = "rollout/ep_rew_mean", "rollout/success_rate"


@dataclass(frozen=True)
class Options:
    """Show learning curves."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""
    points: int = 10
    """Rows of each run, evenly spaced."""
    json: Path | None = None
    """Also write the figures to this file."""


def main(options: Options) -> list[dict[str, Any]]:
    """Print a table in Markdown, write JSON, and return what is written."""
    rows = [row for run in options.runs for row in curve(run, options.points)]
    lines = ["| run | steps | minutes | return | solved |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (
            row["run"],
            f"{row['steps']:,}",
            f"{row['minutes']:.1f}",
            f"{row['return']:.0f}",
            f"{row['solved']:.0%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    Console(soft_wrap=True).print("\n".join(lines), markup=False)
    if options.json:
        write_json(options.json, rows)
    return rows


def curve(run: Path, points: int) -> list[dict[str, Any]]:
    """`points` evenly spaced rows of a run: steps, minutes since its first update, return, share of solved episodes.

    Raises GanglionError if the folder holds no curve.
    """
    if not run.is_dir():
        raise GanglionError(f"there is no run at {run}; expected a folder that 'ganglion train' wrote")
    log = EventAccumulator(str(run), size_guidance={"scalars": 0})
    log.Reload()
    if _RETURN not in log.Tags()["scalars"]:
        raise GanglionError(f"{run} has no learning curve yet: no episode has ended; train it longer")
    returns, solved = log.Scalars(_RETURN), log.Scalars(_SOLVED)
    began = log.Scalars("time/fps")[0].wall_time
    chosen = np.unique(np.linspace(len(returns) - 1, 0, points, endpoint=False).round().astype(int))
    return [
        {
            "run": run.name,
            "steps": returns[i].step,
            "minutes": (returns[i].wall_time - began) / 60,
            "return": returns[i].value,
            "solved": solved[i].value,
        }
        for i in chosen
    ]


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except GanglionError as error:
        raise SystemExit(f"error: {error}") from None
