"""Full disks under a real Ray cluster: one error each, and what was kept before stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra 'scale'")
pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")

from pyarrow import parquet
from ray.cluster_utils import Cluster

from runtime.errors import GanglionError
from runtime.fleet import connect, put, spread
from runtime.results import Rows, results_folder
from tests.clusters import two_nodes

LARGE = 400_000_000  # bytes, more than the nodes have object memory


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with little object memory that take their disks for full."""
    with two_nodes(object_store_memory=100_000_000, local_fs_capacity_threshold=1e-6) as started:
        connect(started.address)
        yield started


def zeros(shared: int, item: int) -> Any:
    return np.zeros(shared * item, np.uint8)


def test_what_does_not_fit_is_one_error(cluster: Cluster) -> None:
    assert [len(value) for _, value in sorted(spread(zeros, 1000, [1, 2]), key=lambda pair: pair[0])] == [1000, 2000]
    with pytest.raises(GanglionError, match=r"cannot keep what is sent to its nodes: .*disk of a node are full; free"):
        put(np.zeros(LARGE, np.uint8))
    with pytest.raises(GanglionError, match=r"cannot keep what 1 gave: .*disk of a node are full; free"):
        list(spread(zeros, LARGE, [1]))
    assert dict(spread(zeros, 0, [1]))[0].size == 0, "the cluster goes on"


def test_a_cluster_is_not_started_on_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(small_disk))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(GanglionError, match=rf"the disk of {small_disk} is full; free some of it, or let RAY_TMPDIR"):
        connect("local")


def fill(rows: Rows) -> None:
    rows.add({"bag": "first"})
    rows.flush()
    rows.add({"bag": np.random.default_rng(0).bytes(1 << 20)})


def test_results_on_a_full_disk_are_one_error_and_the_rows_before_stay(small_disk: Path) -> None:
    folder = small_disk / "results"
    reason = rf"cannot write {folder}/part-00001.parquet: .*No space left on device"
    with pytest.raises(GanglionError, match=reason), results_folder(folder) as rows:
        fill(rows)
    assert [path.name for path in folder.iterdir()] == ["part-00000.parquet"]
    assert parquet.read_table(folder).to_pylist() == [{"bag": "first"}]
