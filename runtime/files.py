"""Results that a reader never finds half written, and the bundles that come with the installation."""

from __future__ import annotations

import json
import os
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.errors import GanglionError


def json_text(value: Any) -> str:
    """Indented JSON text that ends with a line feed."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, all or nothing; missing folders are made. Raises GanglionError if that fails."""
    write_bytes(path, json_text(value).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data`, all or nothing; missing folders are made. Raises GanglionError if that fails."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new, empty file that takes the place of `path` at the end, and is deleted if what is done in between fails.

    Missing folders are made. Raises GanglionError on an error of the file system.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
        yield temporary
        temporary.chmod(0o644)  # temporary files are made for their owner alone
        synchronise(temporary)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise GanglionError(f"cannot write {path}: {error.strerror}; choose another place for it") from error
        raise


def synchronise(path: Path) -> None:
    """Wait until the file is on the disk, so that a power cut after its renaming cannot leave it empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def shipped_bundle(name: str) -> Path:
    """A bundle of the checkout or the installation. Raises GanglionError if there is none of this name."""
    here = Path(__file__)
    # The first is where colcon installs, which the interpreter does not know.
    prefixes = dict.fromkeys([*here.parents[4:5], Path(sysconfig.get_path("data"))])
    places = [here.parents[1] / "bundles", *(prefix / "share" / "ganglion" / "bundles" for prefix in prefixes)]
    found = [place / f"{name}.onnx" for place in places if (place / f"{name}.onnx").is_file()]
    if not found:
        raise GanglionError(f"there is no {name}.onnx in {' or '.join(str(p) for p in places)}; give a bundle yourself")
    return found[0]
