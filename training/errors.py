"""Errors of training."""

from __future__ import annotations

from runtime.errors import GanglionError


class DivergedError(GanglionError):
    """What is learned is no longer finite."""
