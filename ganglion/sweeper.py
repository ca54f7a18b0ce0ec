"""The subcommand that searches for settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ganglion.console import show, show_table
from ganglion.options import Command, Names
from ganglion.trainer import parse_settings

if TYPE_CHECKING:
    from training.sweep import Sweep as Search
    from training.sweep import TrialResult
    from training.trainer import Status


@dataclass(frozen=True)
class Sweep:
    """Search settings of an algorithm for TASK: --trials runs, and then the command of the best; the same command
    again goes on.
    """

    config: Any
    """training.config.TrainConfig of every trial, but for what is searched."""
    output: Path
    trials: int
    search: tuple[str, ...]
    storage: str

    def run(self) -> int | None:
        from training.interrupts import Interrupted
        from training.sweep import Sweep as Search

        search = Search(self.config, self.output, self.trials, self.search, self.storage)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        steps: dict[int, int] = {}
        try:
            with Progress(*columns, console=Console(stderr=True)) as bar:
                task = bar.add_task("starting", total=self.trials * self.config.steps)

                def report(number: int, s: Status) -> None:
                    steps[number] = s.steps
                    speed = f"{s.steps_per_s:.0f} steps/s, " if s.steps_per_s else ""
                    text = f"trial {number} of {self.trials}: {speed}return {s.episode_return:.1f}"
                    bar.update(task, description=text, completed=sum(steps.values()))

                results = self._search(search, report)
        except Interrupted as interrupted:
            show(f"{self.output} is {interrupted}, its trial saved; the same command goes on")
            return 128 + interrupted.signum
        show_table((("trial", "", "return", "settings"), [_row(r) for r in results]))
        show(f"the best again: {results[0].command}")
        show(f"or as it is: ganglion export {search.run_folder(results[0].number)} --best -o FILE.onnx")
        return None

    def _search(self, search: Search, report: Callable[[int, Status], None]) -> list[TrialResult]:
        if not self.config.cluster:
            return search.run(report)
        from training.cluster_sweep import run_on_cluster

        return run_on_cluster(search, self.config.cluster, self.config.actors, report)


def _row(result: TrialResult) -> tuple[str, ...]:
    values = (f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in sorted(result.parameters.items()))
    return str(result.number), result.state, f"{result.value:.1f}", ", ".join(values)


def parse_sweep(arguments: list[str]) -> Command:
    """Options of `ganglion train`, which hold for every trial, and those of the search."""
    trials = Annotated[int, tyro.conf.arg(help="Trials in all, also those of earlier calls.")]
    names = Annotated[Names, tyro.conf.arg(help="Settings to search, for example learning_rate,gamma; all if empty.")]
    place = Annotated[
        str, tyro.conf.arg(help="URL of optuna's storage of the trials; a journal in the folder if empty.")
    ]
    extra: list[Any] = [("trials", trials, 20), ("search", names, ()), ("storage", place, "")]
    config, given = parse_settings("sweep", arguments, str(Sweep.__doc__), Path("sweeps"), extra)
    return Sweep(config, given.output, given.trials, given.search, given.storage)
