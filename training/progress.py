"""The curve of a run: progress.jsonl, one JSON object per line, and the same numbers for TensorBoard.

A run that was killed may have logged more than its checkpoint knows, and its last line may be torn. Who opens the log
at the checkpoint's step gets the lines up to there, and TensorBoard's events are made anew from them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from runtime.errors import GanglionError
from runtime.files import write_bytes

PROGRESS = "progress.jsonl"
STEPS, WALL_TIME = "time/total_timesteps", "wall_time"
"""Names of the step of a line, and of its time in seconds since 1970; the others are TensorBoard's tags."""


def read_progress(run: Path) -> list[dict[str, Any]]:
    """Every whole line of the run's progress.jsonl; none if there is no such file."""
    path = run / PROGRESS
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and STEPS in entry and WALL_TIME in entry else None


class ProgressLog:
    """Logs the mean of what `add` is given, at least `every` steps apart."""

    def __init__(self, run: Path, steps: int, every: int = 1) -> None:
        """Continue after `steps`. Raises GanglionError if it cannot be written."""
        self._run, self._steps, self._logged, self._every = run, steps, steps, every
        self._sums: dict[str, tuple[float, int]] = {}
        kept = [entry for entry in read_progress(run) if entry[STEPS] <= steps]
        write_bytes(run / PROGRESS, b"".join(_line(entry) for entry in kept))
        former = list(run.glob("events.out.tfevents.*"))
        self._writer = SummaryWriter(str(run), purge_step=0)  # which an open TensorBoard takes as a new beginning
        self._file = (run / PROGRESS).open("ab", buffering=0)
        with _writing(run):
            for entry in kept:
                self._show(entry)
            self._writer.flush()
        for path in former:
            path.unlink()

    def add(self, steps: int, values: dict[str, float]) -> None:
        """What an update that ended at `steps` gave, by TensorBoard's tag. Raises GanglionError if it cannot be
        written.
        """
        for tag, value in values.items():
            total, count = self._sums.get(tag, (0.0, 0))
            self._sums[tag] = (total + value, count + 1)
        self._steps = steps
        if steps - self._logged >= self._every:
            self.flush()

    def flush(self) -> None:
        """Write what has been added."""
        if not self._sums:
            return
        means = {tag: total / count for tag, (total, count) in self._sums.items()}
        entry = {STEPS: self._steps, WALL_TIME: round(time.time(), 3)} | means
        self._sums, self._logged = {}, self._steps
        with _writing(self._run):
            self._file.write(_line(entry))
            self._show(entry)

    def _show(self, entry: dict[str, Any]) -> None:
        for tag, value in entry.items():
            if tag != WALL_TIME:
                self._writer.add_scalar(tag, value, entry[STEPS], entry[WALL_TIME])

    def close(self) -> None:
        """Write the rest."""
        self.flush()
        self._file.close()
        self._writer.close()


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


@contextmanager
def _writing(run: Path) -> Iterator[None]:
    """An error of the file system as one that says what to do."""
    try:
        yield
    except OSError as error:
        raise GanglionError(
            f"cannot write the curve of {run}: {error.strerror}; make room, then: ganglion train --resume {run}"
        ) from error
