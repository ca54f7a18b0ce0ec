"""A Ray cluster, and work spread over it that needs no exchange: every item is done once, whoever dies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError

from runtime.errors import GanglionError

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

_LEAST_DISK = 1 << 20  # bytes, that Ray needs to start
_LOOK_S = 1.0  # how often the size of the cluster is looked at
_NO_ROOM = (
    "object memory and disk of a node are full; free some of the disk of Ray's temporary folder there, or start the "
    "node with more --object-store-memory"
)
RETRIES = 5
"""Of a task whose worker died."""


def connect(address: str) -> None:
    """Join the cluster at `address` (host:port, or auto for the one that this machine belongs to), or start one here
    (local). Does nothing in a process that belongs to one.

    Raises GanglionError if there is none, it is of another version of Ray or Python, or the disk here is full.
    """
    if ray.is_initialized():
        return
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if ":" in address:
        _require_listener(address)
    if address == "local":
        _require_disk()
    try:
        if address == "local":
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (RayError, ConnectionError, RuntimeError, ValueError, AssertionError, OSError) as error:
        reason = " ".join(str(error).split())
        raise GanglionError(
            f"cannot use the Ray cluster '{address}' ({reason[:300]}); start one with 'ray start --head' and give its "
            "host:port, or take --cluster local"
        ) from error
    finally:
        if in_main:  # Ray puts its own in its place, which would end a run unsaved
            signal.signal(signal.SIGTERM, handler)


def _require_disk() -> None:
    folder = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    if folder.is_dir() and shutil.disk_usage(folder).free < _LEAST_DISK:
        raise GanglionError(
            f"cannot start a Ray cluster here: the disk of {folder} is full; free some of it, or let RAY_TMPDIR name "
            "another folder"
        )


def _require_listener(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, ValueError, OverflowError) as error:
        raise GanglionError(
            f"there is no Ray cluster at '{address}' ({error}); give host:port of its head as 'ray start --head' "
            "shows it, auto on one of its machines, or local to start one here"
        ) from error


def spread(work: Callable[[S, T], R], shared: S, items: Sequence[T]) -> Iterator[tuple[int, R]]:
    """`work(shared, item)` for every item as a task with a CPU, in any order; the index of each with what came of it.

    The cluster of `connect` is given twice as many tasks as it has CPUs, with those of nodes that join. An item whose
    worker or node dies is begun anew. Raises GanglionError if an item fails by its own fault, or its workers die again
    and again.
    """
    do = ray.remote(num_cpus=1, max_retries=RETRIES)(_do)
    common, waiting = put((work, shared)), iter(enumerate(items))
    running: dict[Any, int] = {}
    try:
        while True:
            places = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(running) < places and (following := next(waiting, None)) is not None:
                running[do.remote(common, following[1])] = following[0]
            if not running:
                return
            ended, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_S)
            for answer in ended:
                index = running.pop(answer)
                yield index, result_of(answer, items[index])
    finally:
        for answer in running:
            ray.cancel(answer, force=True)


def _do(common: tuple[Callable[[S, T], R], S], item: T) -> R:
    work, shared = common
    return work(shared, item)


def put(value: object) -> Any:
    """Where the cluster keeps `value`. Raises GanglionError if it has no room for it."""
    try:
        return ray.put(value)
    except (OutOfDiskError, ObjectStoreFullError) as error:
        raise GanglionError(f"the Ray cluster cannot keep what is sent to its nodes: {_NO_ROOM}") from error


def own_fault(who: str, error: RayTaskError) -> GanglionError:
    """That `who` failed on the cluster, which would happen again."""
    if isinstance(error.cause, (OutOfDiskError, ObjectStoreFullError)):
        return GanglionError(f"the Ray cluster cannot keep what {who} gave: {_NO_ROOM}")
    return GanglionError(f"{who} failed on the cluster: {str(error.cause).splitlines()[0]}")


def result_of(answer: Any, item: object) -> Any:
    """What a task with `RETRIES` gave for `item`. Raises GanglionError if it failed, or its workers died each time."""
    try:
        return ray.get(answer)
    except RayTaskError as error:
        raise own_fault(str(item), error) from error
    except RayError as error:
        raise GanglionError(
            f"the workers of {item} died {RETRIES + 1} times ({type(error).__name__}); memory is the usual cause"
        ) from error
