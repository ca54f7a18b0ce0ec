"""Results as they come, one row each, in a folder of Parquet files that pandas and pyarrow read as one table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import GanglionError
from runtime.files import replacing

_EVERY_S = 5.0  # a file at most


class Rows:
    """Keeps rows in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files, self._written = folder, 0, time.monotonic()
        self._waiting: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """The next; every one has the same columns, of plain values or None. Raises GanglionError as `flush` does."""
        self._waiting.append(row)
        if time.monotonic() - self._written > _EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write those that wait to a file of their own, all or nothing. Raises GanglionError if that fails."""
        if not self._waiting:
            return
        import pyarrow as pa
        from pyarrow import parquet

        with replacing(self._folder / f"part-{self._files:05d}.parquet") as temporary:
            parquet.write_table(pa.Table.from_pylist(self._waiting), temporary)
        self._files, self._written, self._waiting = self._files + 1, time.monotonic(), []


@contextmanager
def results_folder(folder: Path) -> Iterator[Rows]:
    """Keeps rows in `folder`, those of the last seconds when it ends, also by an error.

    Raises GanglionError if the folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GanglionError(f"{folder} is not an empty folder; give another one for the results")
    rows = Rows(folder)
    try:
        yield rows
    finally:
        rows.flush()
