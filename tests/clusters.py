"""Ray clusters of two nodes on this machine."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.cluster_utils import Cluster


def processes_of(node: Any, title: str) -> list[int]:
    """Those on a node of the test's cluster, whose title holds `title`."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = subprocess.run(["pgrep", "-P", str(raylet), "-f", title], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@contextmanager
def two_nodes(object_store_memory: int | None = None, **settings: Any) -> Iterator[Cluster]:
    """A head with these system settings and another node; both end with the context.

    Each has a CPU and so many bytes for objects, or as many as Ray likes.
    """
    before = signal.getsignal(signal.SIGTERM)
    node = {"num_cpus": 1, "object_store_memory": object_store_memory}
    started = Cluster(initialize_head=True, head_node_args=node | {"_system_config": settings})
    started.add_node(**node)
    signal.signal(signal.SIGTERM, before)  # a node has its own, which ends the process
    try:
        yield started
    finally:
        ray.shutdown()
        started.shutdown()
        signal.signal(signal.SIGTERM, before)
