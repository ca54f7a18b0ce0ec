"""Checkpoints that were made to do harm, and damaged ones: one error each, and nothing runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import GanglionError
from training.checkpoint import CHECKPOINT, load_agent, load_checkpoint, save_checkpoint, save_config
from training.presets import preset

same_files = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    pickle.loads(pickle.dumps(Touches(made)))
    assert made.exists(), "a plain unpickling runs it"
    made.unlink()
    torch.save({"agent": Touches(made), "steps": 1}, tmp_path / CHECKPOINT)
    with pytest.raises(GanglionError, match="cannot load"):
        load_checkpoint(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(pickle.dumps(Touches(made)))
    with pytest.raises(GanglionError, match="cannot load"):
        load_checkpoint(tmp_path)
    assert not made.exists()


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"agent": {"w": torch.zeros(10_000_000)}})
    plain = (tmp_path / CHECKPOINT).read_bytes()
    with zipfile.ZipFile(io.BytesIO(plain)) as source, zipfile.ZipFile(tmp_path / CHECKPOINT, "w") as bomb:
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry), zipfile.ZIP_DEFLATED)
    assert (tmp_path / CHECKPOINT).stat().st_size < 0.01 * len(plain)
    with pytest.raises(GanglionError, match="unpacks to more than its own size"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("state", [[1, 2], {"steps": 1}, {"agent": {}, "steps": 1}, {"agent": 3, "steps": "x"}])
def test_tensors_of_another_kind(state: Any, tmp_path: Path) -> None:
    save_config(tmp_path, preset("cartpole"))
    save_checkpoint(tmp_path, state)
    with pytest.raises(GanglionError, match=r"expected a dict|holds weights of another agent"):
        load_agent(tmp_path)


def test_damaged_checkpoints(tmp_path: Path) -> None:
    """300 files."""
    save_checkpoint(tmp_path, {"agent": {"w": torch.arange(20.0), "b": torch.ones(3, 2)}, "steps": 7})
    whole = (tmp_path / CHECKPOINT).read_bytes()
    outcomes: Counter[bool] = Counter()

    @same_files
    @given(
        where=st.lists(st.floats(0, 1, exclude_max=True), max_size=3),
        to=st.lists(st.integers(0, 255), min_size=3, max_size=3),
        cut=st.none() | st.floats(0, 1),
    )
    def run(where: list[float], to: list[int], cut: float | None) -> None:
        data = bytearray(whole)
        for place, byte in zip(where, to):
            data[int(place * len(data))] = byte
        (tmp_path / CHECKPOINT).write_bytes(data[: None if cut is None else int(cut * len(data))])
        try:
            outcomes[isinstance(load_checkpoint(tmp_path), dict)] += 1
        except GanglionError:
            outcomes[False] += 1

    run()
    assert outcomes[False] > 50
