"""PyBullet, without the line that it prints on standard error whenever it is imported."""

from __future__ import annotations

import os
import sys


def _import_quietly() -> None:
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import pybullet  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


_import_quietly()
import pybullet  # noqa: E402
import pybullet_data  # noqa: E402

__all__ = ["pybullet", "pybullet_data"]
