from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.errors import BagError
from runtime.replay.batch import Job, jobs, replay_many
from runtime.replay.compare import ReplayResult
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.tables import replays_table
from tests.runtime.replay.recording import Recording


@pytest.fixture
def folder(kuka: Bundle, tmp_path: Path) -> Path:
    """Two bags, of 40 and 60 ticks, and between them one that is none."""
    for name, ticks in (("a", 40), ("c", 60)):
        recording = Recording(kuka)
        recording.run(1, ticks, seed=ticks)
        recording.write(tmp_path / "bags" / name)
    (tmp_path / "bags" / "b.mcap").write_bytes(b"nothing")
    return tmp_path / "bags"


def fragile(
    bag: Path, bundle: Bundle, options: ReplayOptions, progress: Callable[[float, float], None]
) -> ReplayResult:
    """Dies on bag c, and has a defect on bag a with K = 1."""
    if bag.name == "c":
        os.kill(os.getpid(), signal.SIGKILL)
    if options.refine == 1:
        raise IndexError("a defect")
    return replay(bag, bundle, options, progress)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_of_bags_is_one_summary(workers: int, folder: Path, kuka: Bundle) -> None:
    told: list[tuple[float, float]] = []
    wanted = jobs([folder], ReplayOptions(mode="telemetry"))
    outcomes = replay_many(wanted, kuka, workers, lambda done, total: told.append((done, total)))
    assert [o.job.bag.name for o in outcomes] == ["b.mcap", "a", "c"]
    assert "b.mcap holds no message that can be read" in outcomes[0].error
    results = [o.result for o in outcomes[1:]]
    assert [(r.ticks, r.bit_exact) for r in results if r] == [(40, True), (60, True)]
    assert [(done, 3) for done, _ in told] == sorted(told)
    assert told[-1][0] == 3.0
    columns, rows = replays_table([o.to_json() for o in outcomes])
    assert [len(row) for row in rows] == [len(columns)] * 3
    json.dumps([o.to_json() for o in outcomes], allow_nan=False)


def test_a_worker_that_dies_is_one_row(folder: Path, kuka: Bundle) -> None:
    (folder / "b.mcap").unlink()
    wanted = jobs([folder], ReplayOptions(), refine=(0, 1))
    assert [(j.bag.name, j.options.refine) for j in wanted] == [("a", 0), ("a", 1), ("c", 0), ("c", 1)]
    outcomes = replay_many(wanted, kuka, 2, work=fragile)
    assert outcomes[0].result is not None
    assert outcomes[0].result.refine == 0
    assert [o.result for o in outcomes[1:]] == [None] * 3
    assert "IndexError: a defect" in outcomes[1].error
    assert all("ended with SIGKILL" in o.error for o in outcomes[2:])


def test_in_processes_or_not_the_results_are_the_same(folder: Path, kuka: Bundle) -> None:
    wanted = jobs([folder / "a", folder / "c", folder / "a"], ReplayOptions(faults=("dropout:all=0.3",)))
    assert [j.bag.name for j in wanted] == ["a", "c"], "a bag that is named twice is one"
    alone, beside = (replay_many(wanted, kuka, workers) for workers in (1, 2))
    for a, b in zip(alone, beside):
        assert a.result is not None
        assert b.result is not None
        assert a.result.timeline is not None
        assert b.result.timeline is not None
        for name, band in a.result.timeline.series.items():
            if not name.startswith("wall"):
                np.testing.assert_array_equal(band.mean, b.result.timeline.series[name].mean)
        assert replace(a.result, timeline=None, realtime_factor=0.0) == replace(
            b.result, timeline=None, realtime_factor=0.0
        )


def test_no_worker(folder: Path, kuka: Bundle) -> None:
    with pytest.raises(BagError, match="workers is 0, expected 1 or more"):
        replay_many([Job(folder / "a", ReplayOptions())], kuka, 0)
