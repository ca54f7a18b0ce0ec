"""The refinement of an agent with the method `gradient` on two nodes as a C function, where a compiler is present."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from training.agent.agent import Agent, Start
from training.agent.networks import Conditional

_SOURCE = Path(__file__).with_name("kernel.c")
_FLAGS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")
_WEIGHTS = ("W", "b", "A", "D", "c", "Wt", "Dt", "Bt")

Arrays = list[np.ndarray]


class _Net(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int) for n in ("inputs", "hidden", "outputs")] + [(n, ctypes.c_void_p) for n in _WEIGHTS]


def kernel(agent: Agent, start: Start, x: torch.Tensor, steps: int) -> Callable[[], np.ndarray] | None:
    """Refines `start` (one row, seen x (1, D)) by so many steps and gives z (Z,); None without a C compiler.

    The agent's nodes are a top one and a bottom one, the latter in sight of all channels.
    """
    compiler = shutil.which("cc")
    if compiler is None or agent.method.steps is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernel.so"
        subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(library), "-lm"], check=True, capture_output=True)
        refine = ctypes.CDLL(str(library)).refine
    _, bottom = agent.model.nodes
    edge = agent.model.conditionals[bottom.name]
    assert isinstance(edge, Conditional)
    kept: Arrays = []  # what C has the addresses of

    def address(tensor: torch.Tensor) -> ctypes.c_void_p:
        array = np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)
        kept.append(array)
        return ctypes.c_void_p(array.ctypes.data)

    def net(inner: Conditional, skip: torch.Tensor, outer: torch.Tensor, bias: torch.Tensor) -> _Net:
        w = inner.inner_weight
        parts = (w, inner.inner_bias, skip, outer, bias, w.T, outer.T, (skip + outer @ w).T)
        return _Net(w.shape[1], w.shape[0], len(skip), *map(address, parts))

    seen = agent.model.observation
    assert seen.free is not None
    free, ties = seen.free, seen.tie_rows
    whole = [seen._with_ties(free.skip_weight, ties), *map(seen._with_ties, (free.outer_weight, free.outer_bias))]
    nets = net(edge, edge.skip_weight, edge.outer_weight, edge.outer_bias), net(free, *whole)
    eta = agent.method.steps.table()[steps, :steps] * start.gain
    given = [address(v) for v in (start.prior.precision, start.prior.drive, start.precision_x, x)]
    begin, z = start.z[0].detach().numpy().astype(np.float32), np.zeros(agent.model.size, np.float32)
    arguments = (
        steps, address(eta), ctypes.byref(nets[0]), ctypes.byref(nets[1]), *given, ctypes.c_void_p(z.ctypes.data)
    )  # fmt: skip

    def run() -> np.ndarray:
        z[:] = begin
        refine(*arguments)
        return z

    run.__dict__["kept"] = kept, nets
    return run
