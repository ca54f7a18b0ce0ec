"""Which source tree runs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def source_commit() -> str:
    """Commit of this source tree, with `+` if it has changes; `unknown` outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
