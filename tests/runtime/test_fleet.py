"""Replays and episodes on a real Ray cluster of two nodes: each once, whoever dies, with the figures of one machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra 'scale'")
pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")

import ray
from pyarrow import parquet
from ray.cluster_utils import Cluster

import ganglion
from runtime.bundle import Bundle
from runtime.errors import GanglionError
from runtime.files import shipped_bundle
from runtime.fleet import connect, spread
from runtime.replay.batch import Outcome, jobs, replay_many
from runtime.replay.options import ReplayOptions
from runtime.results import results_folder
from sim.evaluate import evaluate
from tests.clusters import processes_of, two_nodes
from tests.runtime.replay.recording import Recording

BAGS = 200


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and another node, with a CPU each."""
    with two_nodes() as started:
        yield started


@pytest.fixture(scope="module")
def folder(kuka: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred bags of five ticks."""
    bags = tmp_path_factory.mktemp("bags")
    recording = Recording(kuka)
    recording.run(1, 5, seed=0)
    recording.write(bags / "bag_000")
    for number in range(1, BAGS):
        shutil.copytree(bags / "bag_000", bags / f"bag_{number:03d}")
    return bags


def test_200_bags_on_two_workers_one_of_which_is_killed_are_200_results(
    cluster: Cluster, folder: Path, kuka: Bundle, tmp_path: Path
) -> None:
    killed: list[int] = []
    rows: list[str] = []

    def each(outcome: Outcome) -> None:
        rows.append(outcome.job.bag.name)
        keep.add({"bag": outcome.job.bag.name, "error": outcome.error})
        if not killed and len(rows) >= BAGS // 4:
            (other,) = cluster.worker_nodes
            for pid in processes_of(other, "ray::_do")[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    wanted = jobs([folder], ReplayOptions(mode="telemetry"))
    assert len(wanted) == BAGS
    with results_folder(tmp_path / "results") as keep:
        outcomes = replay_many(wanted, kuka, cluster=cluster.address, each=each)
    assert killed, "no worker of the other node was at work"
    assert [o.job for o in outcomes] == wanted
    assert [(o.error, o.result.ticks if o.result else 0) for o in outcomes] == [("", 5)] * BAGS
    assert Counter(rows) == Counter(job.bag.name for job in wanted), "each once"
    table = parquet.read_table(tmp_path / "results").to_pylist()
    assert sorted(row["bag"] for row in table) == sorted(job.bag.name for job in wanted)


def test_the_command_line_replays_a_folder_on_the_cluster(
    cluster: Cluster, folder: Path, kuka: Bundle, tmp_path: Path
) -> None:
    bags, result = tmp_path / "bags", tmp_path / "result.json"
    for number in (3, 7):
        shutil.copytree(folder / f"bag_{number:03d}", bags / f"bag_{number:03d}")
    (bags / "broken.mcap").write_bytes(b"nothing")
    words = ["replay", str(bags), str(kuka.path), "--cluster", cluster.address, "--results", str(tmp_path / "results")]
    assert ganglion.main([*words, "--json", str(result), "--report", str(tmp_path / "report.html")]) == 1
    replays = json.loads(result.read_text())["replays"]
    table = {row["bag"]: row for row in parquet.read_table(tmp_path / "results").to_pylist()}
    assert table.keys() == {replay["bag"] for replay in replays}
    for replay in replays:
        row = table[replay["bag"]]
        assert json.loads(row["json"]) == replay
        assert (row["error"] == "") == row["bag"].endswith(("bag_003", "bag_007"))
        assert row["ticks"] == (5 if row["error"] == "" else None)
    assert (tmp_path / "report.html").stat().st_size > 1000
    with pytest.raises(GanglionError, match="is not an empty folder"), results_folder(tmp_path / "results"):
        pass


def test_episodes_on_the_cluster_are_those_of_one_process(cluster: Cluster) -> None:
    bundle, rows = Bundle.load(shipped_bundle("cartpole")), list[dict[str, Any]]()
    asked: dict[str, Any] = {"episodes": 7, "refine": (0, 1), "faults": ("nominal", "lost:joint_velocity")}
    there = evaluate(bundle, **asked, cluster=cluster.address, each=rows.append)
    assert there == evaluate(bundle, **asked)
    assert len(rows) == 4 * 7
    assert {(row["refine"], row["fault"], row["seed"]) for row in rows} == {
        (k, fault, 1_000_000 + i) for k in (0, 1) for fault in asked["faults"] for i in range(7)
    }
    first = [row["return"] for row in rows if (row["refine"], row["fault"]) == (0, "nominal")]
    assert there["results"][0]["return_mean"] == pytest.approx(sum(first) / 7)


def double(shared: int, item: int) -> int:
    if item == 13:
        raise GanglionError("13 cannot be doubled")
    return shared * item


def test_what_fails_by_its_own_fault_is_one_error(cluster: Cluster) -> None:
    ray.shutdown()
    connect(cluster.address)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "Ray's own is not left behind"
    assert dict(spread(double, 2, range(5))) == {0: 0, 1: 2, 2: 4, 3: 6, 4: 8}
    with pytest.raises(GanglionError, match="13 failed on the cluster: 13 cannot be doubled"):
        list(spread(double, 2, [13]))
