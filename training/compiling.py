"""Compilation by torch.compile, for who asks for it and has a C++ compiler."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F, wanted: bool) -> F:
    """`function`, compiled when it is first called if that is `wanted` and can be done here; else as it is."""
    if not wanted or shutil.which(os.environ.get("CXX", "g++")) is None:
        return function
    import torch._dynamo.config as tracing

    tracing.trace_autograd_ops = True  # torch.autograd.grad becomes part of what is compiled, where torch can do that
    return cast(F, torch.compile(function))
