"""Several learners: processes that torchrun started, each with simulations and a batch of its own, and equal weights.

Every gradient is the mean of theirs, and so is whatever else an update is made from, so N processes learn as one with
N times the simulations and the batch. Alone, all of this costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from runtime.errors import GanglionError
from training.interrupts import Interrupted

APART = 1_000_000_007
"""Between the seeds of two learners."""
_PATIENCE = timedelta(minutes=30)  # as long as gloo waits in an exchange


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes that torchrun started, if it did; over nccl where each has a GPU, else over gloo.

    They part together, also where a signal ends all of them: a connection that one closes early can fail the last
    exchange of another, and torchrun ends those that are still saving when one has left with an error.

    Raises GanglionError if they cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    one_each = gpus >= int(os.environ["LOCAL_WORLD_SIZE"])
    if one_each:
        torch.cuda.set_device(local)
    try:
        store, index, size = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if one_each else "gloo"
        dist.init_process_group(backend, store=store, rank=index, world_size=size)
    except (RuntimeError, ValueError) as error:
        raise GanglionError(
            f"learner {os.environ['RANK']} cannot join the {os.environ['WORLD_SIZE']} that torchrun started "
            f"({str(error).splitlines()[0]}); check --rdzv-endpoint or --master-addr, and the network between them"
        ) from error
    try:
        try:
            yield
        except Interrupted:
            _wait_for_all(store)
            raise
        _wait_for_all(store)
    finally:
        dist.destroy_process_group()


def _wait_for_all(store: Store) -> None:
    """Through torchrun's store, which outlives them."""
    if store.add("parting", 1) == count():
        store.set("all part", "")
    store.wait(["all part"], _PATIENCE)


def count() -> int:
    """How many there are; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0, the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def mean(value: Tensor) -> Tensor:
    """Of all learners' values, of one shape."""
    return value if count() == 1 else averaged([value])[0]


@torch.no_grad()
def averaged(values: Sequence[Tensor]) -> list[Tensor]:
    """The mean over all learners of each of some tensors of one type, sent as one."""
    if count() == 1 or not values:
        return list(values)
    flat = torch.cat([v.detach().flatten() for v in values])
    dist.all_reduce(flat)
    flat /= count()
    return [part.view_as(v) for part, v in zip(flat.split([v.numel() for v in values]), values, strict=True)]


def everyone(value: Any) -> list[Any]:
    """What each learner has, in the order of their ranks; anything that can be pickled."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values
