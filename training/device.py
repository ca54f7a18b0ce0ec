"""Where an agent computes. Inside `on_device` every new tensor is made there, so nobody else needs to know."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from runtime.errors import GanglionError

_KINDS: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}
"""Kinds of devices, and whether there is one."""


def find_device(name: str) -> torch.device:
    """The device called `name`; for auto the first of cuda, mps and cpu. Raises GanglionError if it is not here."""
    here = [kind for kind, found in _KINDS.items() if found()]
    if name == "auto":
        return torch.device(here[0])
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in here or (index and not (index.isdecimal() and int(index) < count)):
        raise GanglionError(f"there is no device '{name}' on this machine; expected auto or one of {', '.join(here)}")
    return torch.device(name)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make new tensors on `device` meanwhile. Costs nothing on a CPU."""
    return nullcontext() if device.type == "cpu" else device
