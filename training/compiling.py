"""How learning is computed faster, for who asks for it: compiled, and with products in bfloat16."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

from training import learners

F = TypeVar("F", bound=Callable[..., object])
PROCESSOR_HAS_BF16: bool = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
"""Whether the CPU multiplies matrices in bfloat16 at no loss of speed."""


def compiled(function: F, wanted: bool) -> F:
    """`function`, compiled when it is first called if that is `wanted` and can be done here; else as it is.

    Several learners exchange gradients within it, which is not compiled.
    """
    if not wanted or learners.count() > 1 or shutil.which(os.environ.get("CXX", "g++")) is None:
        return function
    import torch._dynamo.config as tracing

    tracing.trace_autograd_ops = True  # torch.autograd.grad becomes part of what is compiled, where torch can do that
    return cast(F, torch.compile(function, options={"size_asserts": False}))  # of what it allocates itself


def products(like: Tensor, bf16: bool) -> torch.autocast:
    """A context where matrices, on the device of `like`, are multiplied in bfloat16 if that is wanted and can be done
    there: a processor without it would emulate it, far slower than float32.
    """
    return torch.autocast(like.device.type, torch.bfloat16, enabled=bf16 and (PROCESSOR_HAS_BF16 or not like.is_cpu))
