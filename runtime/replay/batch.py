"""Many replays at once, each in a process of its own: one that fails is one row of the summary, not its end."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle
from runtime.errors import BagError, GanglionError
from runtime.replay.bags import Progress
from runtime.replay.compare import ReplayResult
from runtime.replay.files import find_bags
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay


@dataclass(frozen=True)
class Job:
    """One replay."""

    bag: Path
    options: ReplayOptions


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    result: ReplayResult | None
    """None if it failed."""
    error: str = ""
    """Why it failed."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        result = None if self.result is None else self.result.to_json()
        return {"bag": str(self.job.bag), "refine": self.job.options.refine, "error": self.error, "result": result}


Work = Callable[[Path, Bundle, ReplayOptions, Progress], ReplayResult]
"""What is done for a job; it can be pickled, and raises GanglionError for what the user can put right."""

Ended = Generator[tuple[int, Outcome], None, None]
"""The index of each job with what became of it, in any order."""


def jobs(paths: Sequence[Path], options: ReplayOptions, refine: Sequence[int] = ()) -> list[Job]:
    """One for every bag of `paths` and every K; a folder stands for the bags in it.

    Raises BagError if there is none.
    """
    steps: Sequence[int | None] = refine or [options.refine]
    bags = list(dict.fromkeys(bag for path in paths for bag in find_bags(path)))
    return [Job(bag, replace(options, refine=k)) for bag in bags for k in steps]


def replay_many(
    wanted: Sequence[Job],
    bundle: Bundle,
    workers: int = 2,
    progress: Callable[[float, float], None] | None = None,
    work: Work = replay,
    cluster: str = "",
    each: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """The outcomes in the order of the jobs; `progress` takes the replays that are done, with fractions, and all.

    With the address of a Ray `cluster` its machines share the replays, and see the bags at the same paths. `each` takes
    every outcome as it comes. Raises BagError if there is less than one worker, GanglionError if the cluster cannot be
    used.
    """
    if workers < 1:
        raise BagError(f"workers is {workers}, expected 1 or more")
    done = [0.0] * len(wanted)

    def tell(index: int, fraction: float) -> None:
        done[index] = fraction
        if progress is not None:
            progress(sum(done), len(done))

    if cluster:
        ended = _on_cluster(wanted, bundle, cluster, work)
    elif min(workers, len(wanted)) == 1:
        ended = ((i, _attempt(job, bundle, work, partial(tell, i))) for i, job in enumerate(wanted))
    else:
        ended = _in_parallel(wanted, bundle, workers, work, tell)
    outcomes: dict[int, Outcome] = {}
    with closing(ended):
        for index, outcome in ended:
            outcomes[index] = outcome
            if each is not None:
                each(outcome)
            tell(index, 1.0)
    return [outcomes[i] for i in range(len(wanted))]


def _attempt(job: Job, bundle: Bundle, work: Work, tell: Callable[[float], None]) -> Outcome:
    try:
        return Outcome(job, work(job.bag, bundle, job.options, lambda now, end: tell(now / max(end, 1e-9))))
    except GanglionError as error:
        return Outcome(job, None, str(error))


def _in_parallel(
    wanted: Sequence[Job], bundle: Bundle, workers: int, work: Work, tell: Callable[[int, float], None]
) -> Ended:
    waiting: Iterator[tuple[int, Job]] = iter(enumerate(wanted))
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    context = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
    try:
        while True:
            while len(running) < workers and (next_job := next(waiting, None)) is not None:
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_worker, args=(next_job[1], bundle, work, theirs), daemon=True
                )
                process.start()
                theirs.close()
                running[ours] = next_job[0], process
            if not running:
                return
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                index, process = running[ready]
                try:
                    message: float | Outcome = ready.recv()
                except EOFError:  # it has ended without a word
                    process.join()
                    text = f"the process that replayed {wanted[index].bag} ended with {_cause(process.exitcode)}"
                    message = Outcome(wanted[index], None, text)
                if not isinstance(message, Outcome):
                    tell(index, message)
                    continue
                del running[ready]
                ready.close()
                process.join()
                yield index, message
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _on_cluster(wanted: Sequence[Job], bundle: Bundle, cluster: str, work: Work) -> Ended:
    from runtime.fleet import connect, spread

    connect(cluster)
    there = [replace(job, bag=job.bag.resolve()) for job in wanted]
    for index, outcome in spread(_task, (bundle, work), there):
        yield index, replace(outcome, job=wanted[index])


def _task(shared: tuple[Bundle, Work], job: Job) -> Outcome:
    bundle, work = shared
    return _survived(job, bundle, work, lambda fraction: None)


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"code {code}"


def _worker(job: Job, bundle: Bundle, work: Work, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which takes half-written files away
    pipe.send(_survived(job, bundle, work, pipe.send))


def _survived(job: Job, bundle: Bundle, work: Work, tell: Callable[[float], None]) -> Outcome:
    try:
        return _attempt(job, bundle, work, tell)
    except Exception as error:  # a defect of ours must not cost the other replays
        return Outcome(job, None, f"{job.bag}: {type(error).__name__}: {error}")
