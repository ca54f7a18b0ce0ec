"""Writing results so that a reader never finds half a file."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime.errors import GanglionError


def json_text(value: Any) -> str:
    """Indented JSON text that ends with a line feed."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, all or nothing; missing folders are made. Raises GanglionError if that fails."""
    text = json_text(value)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o644)  # temporary files are made for their owner alone
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        raise GanglionError(f"cannot write {path}: {error.strerror}; choose another place for it") from error
