"""The curve on disk: cut at the checkpoint, torn lines dropped, TensorBoard's events the same numbers once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runtime.errors import GanglionError
from training.progress import PROGRESS, STEPS, WALL_TIME, ProgressLog, read_progress


def shown(run: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run))
    events.Reload()
    return [(e.step, round(e.value, 5)) for e in events.Scalars(tag)]


def write(run: Path, start: int, *steps: int, every: int = 1) -> None:
    log = ProgressLog(run, start, every)
    for step in steps:
        log.add(step, {"a": step / 10})
    log.close()


def test_a_killed_run_continues_its_curve_without_doubling(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20, 30)
    with (tmp_path / PROGRESS).open("a") as file:
        file.write('{"time/total_timesteps": 40, "wall_')
    times = [entry[WALL_TIME] for entry in read_progress(tmp_path)]
    write(tmp_path, 20, 35, 50)
    lines = [json.loads(line) for line in (tmp_path / PROGRESS).read_text().splitlines()]
    assert [(line[STEPS], line["a"]) for line in lines] == [(10, 1.0), (20, 2.0), (35, 3.5), (50, 5.0)]
    assert [line[WALL_TIME] for line in lines[:2]] == times[:2]
    assert shown(tmp_path, "a") == [(10, 1.0), (20, 2.0), (35, 3.5), (50, 5.0)]
    assert shown(tmp_path, STEPS) == [(n, n) for n in (10, 20, 35, 50)]
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_lines_hold_the_means_of_the_updates_in_between(tmp_path: Path) -> None:
    write(tmp_path, 0, 4, 8, 12, 16, 20, every=10)
    assert [(e[STEPS], e["a"]) for e in read_progress(tmp_path)] == [(12, pytest.approx(0.8)), (20, pytest.approx(1.8))]


def test_lines_that_are_no_entries_are_dropped(tmp_path: Path) -> None:
    (tmp_path / PROGRESS).write_bytes(b'[1]\n{"a": 1}\n\xff\n{"time/total_timesteps": 5, "wall_time": 1.5, "a": 2}\n\n')
    assert read_progress(tmp_path) == [{STEPS: 5, WALL_TIME: 1.5, "a": 2}]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path, 0)
    log._file.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        log._file = full
        with pytest.raises(GanglionError, match=r"cannot write the curve of .*No space left.*--resume"):
            log.add(1, {"a": 1.0})
    log.close()
