"""What subcommands show, and the bundles that they load."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from runtime.files import write_json
from runtime.tables import Table

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.results import Rows

T = TypeVar("T")


def load(path: Path, trusted_keys: Sequence[Path] = ()) -> Bundle:
    """The bundle in a file. Raises BundleError or ContractError, see `Bundle.load`."""
    from runtime.bundle import Bundle

    return Bundle.load(path, trusted_keys=trusted_keys)


def load_or_draft(path: Path) -> Bundle:
    """A bundle, or what a run would be as one, without calibration."""
    if not path.is_dir():
        return load(path)
    from export.exporter import draft

    return draft(path)


def show_table(table: Table) -> None:
    """Print a table; one without column names has no head."""
    shown = RichTable(show_header=any(table[0]))
    for column in table[0]:
        shown.add_column(column, overflow="fold")
    for row in table[1]:
        shown.add_row(*map(Text, row))  # what is in brackets is no markup
    show(shown)


def with_progress(what: str, work: Callable[[Callable[[float, float], None]], T]) -> T:
    """`work` with a progress bar on stderr; its callback takes what is done and the total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        return work(lambda done, total: bar.update(task, completed=done, total=total))


def kept(results: Path | None) -> AbstractContextManager[Rows | None]:
    """Takes rows for the folder `results`, or is None if there is none."""
    from runtime.results import results_folder

    return nullcontext() if results is None else results_folder(results)


def show(what: object) -> None:
    """Print for people: a file or a pipe has no width to fold to, and what a bundle calls its joints is no markup."""
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(what)


def finish(title: str, table: Table, result: object, path: Path | None) -> None:
    """Print a title and, unless it is empty, the table; write `result` as JSON to `path`, if one is given."""
    show(title)
    if table[1]:
        show_table(table)
    if path is not None:
        write_json(path, result)
