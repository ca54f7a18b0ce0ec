"""The ticks of a replay as a table, one row each, written as they come: CSV or Parquet."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from runtime.contract import Contract
from runtime.files import replacing
from runtime.replay.timeline import Observer, Row
from runtime.safety import Status

_BATCH = 2000  # rows that Parquet writes at a time
_WHOLE = ("time_ns", "activation", "tick", "refine", "steps")
_WORDS = ("status", "recorded_status", "cause", "differs")
_NUMBERS = (
    "time_s",
    "free_energy",
    "surprise",
    "sustained_surprise",
    "error",
    "wall_us",
    "tick_us",
    "latency_us",
)


def columns(contract: Contract) -> dict[str, str]:
    """Kind of every column, in order: `int`, `str`, `bool` or `float`.

    Of every channel there are `value.CHANNEL` (SI), `reason.CHANNEL` (bits of `runtime.sensing.Reason`, 0 is believed)
    and `innovation.CHANNEL` (standard deviations), of every joint `command.JOINT` and `recorded.JOINT` (SI).
    """
    kinds = (
        dict.fromkeys(_WHOLE, "int")
        | dict.fromkeys(_WORDS, "str")
        | {"late": "bool"}
        | dict.fromkeys(_NUMBERS, "float")
    )
    for prefix, kind in (("value", "float"), ("reason", "int"), ("innovation", "float")):
        kinds |= {f"{prefix}.{c}": kind for c in contract.layout.channels}
    for prefix in ("command", "recorded"):
        kinds |= {f"{prefix}.{j}": "float" for j in contract.action.joints}
    return kinds


def cells(row: Row) -> list[Any]:
    """The values of one tick in the order of `columns`; NaN where there is none."""
    c = row.command
    status = "" if row.recorded_status is None else Status(row.recorded_status).name
    recorded = np.full(len(c.values), np.nan) if row.recorded is None else row.recorded
    innovation = np.where(c.reasons == 0, c.innovation, np.nan)
    return [
        row.time_ns,
        row.activation,
        row.tick,
        c.refine,
        c.steps,
        c.status.name,
        status,
        c.cause,
        ", ".join(row.differs),
        row.late,
        row.time_s,
        c.free_energy,
        row.surprise,
        row.sustained_surprise,
        row.error,
        row.wall_us,
        row.tick_us,
        row.latency_us,
        *row.values.tolist(),
        *c.reasons.tolist(),
        *innovation.tolist(),
        *c.values.tolist(),
        *recorded.tolist(),
    ]


@contextmanager
def csv_rows(path: Path, contract: Contract) -> Iterator[Observer]:
    """An observer that writes every tick to a CSV file, which is there when the replay has ended well.

    Numbers are written in full and read back as they were; an empty cell is a number that there is not. Raises
    GanglionError if it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns(contract))
        yield lambda row: writer.writerow("" if c != c else c for c in cells(row))


@contextmanager
def parquet_rows(path: Path, contract: Contract) -> Iterator[Observer]:
    """The same as a Parquet file; NaN is null there."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = columns(contract)
    types = {
        "int": pa.int64(),
        "str": pa.dictionary(pa.int32(), pa.string()),
        "bool": pa.bool_(),
        "float": pa.float64(),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in kinds.items()])
    waiting: list[list[Any]] = []

    def flush() -> None:
        arrays = [
            pa.array([None if kind == "float" and math.isnan(v) else v for v in column], types[kind])
            for column, kind in zip(zip(*waiting), kinds.values())
        ]
        writer.write_batch(pa.record_batch(arrays, schema=schema))
        waiting.clear()

    def observe(row: Row) -> None:
        waiting.append(cells(row))
        if len(waiting) == _BATCH:
            flush()

    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        yield observe
        if waiting:
            flush()
