"""Replays that also write their ticks to files, as tables or as topics."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from runtime.bundle import Bundle
from runtime.replay.bags import Progress
from runtime.replay.batch import Job
from runtime.replay.compare import ReplayResult
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.replay.streams import mcap_streams
from runtime.replay.tables import csv_rows, parquet_rows
from runtime.replay.timeline import Observer


@dataclass(frozen=True)
class Exports:
    """Work for `replay_many`. A file is there when its replay has ended well, and is never half written."""

    jobs: tuple[Job, ...]
    """All replays that are made; of several, each has files of its own."""
    csv: Path | None = None
    parquet: Path | None = None
    mcap: Path | None = None

    def place(self, path: Path | None, job: Job) -> Path | None:
        """Where the file of `job` lies: `path`, or of several `STEM_NUMBER_BAG` beside it; None if none is wanted."""
        if path is None or len(self.jobs) == 1:
            return path
        return path.with_name(f"{path.stem}_{self.jobs.index(job)}_{job.bag.stem}{path.suffix}")

    def __call__(self, bag: Path, bundle: Bundle, options: ReplayOptions, progress: Progress) -> ReplayResult:
        """Replay and write. Raises what `replay` raises, and GanglionError if a file cannot be written."""
        job, observers = Job(bag, options), list[Observer]()
        with ExitStack() as stack:
            if (path := self.place(self.csv, job)) is not None:
                observers.append(stack.enter_context(csv_rows(path, bundle.contract)))
            if (path := self.place(self.parquet, job)) is not None:
                observers.append(stack.enter_context(parquet_rows(path, bundle.contract)))
            if (path := self.place(self.mcap, job)) is not None:
                observers.append(stack.enter_context(mcap_streams(path, bundle.contract, bag)))
            return replay(bag, bundle, options, progress, observers)
