"""Which execution provider of onnxruntime computes a graph: the CPU, CUDA, or TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from runtime.errors import GanglionError

AUTO = "auto"
NAMES = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""onnxruntime's names, the most specialised first; each leaves what it cannot compute to those after it."""
SMALL_BYTES = 16_000_000
"""A model of fewer bytes is the CPU's with `auto`."""


class Session(Protocol):
    """What is asked of an onnxruntime.InferenceSession."""

    def get_providers(self) -> list[str]:
        """The providers that have really started, in their order."""


S = TypeVar("S", bound=Session)


@dataclass(frozen=True)
class Started(Generic[S]):
    """A session that runs, and where."""

    session: S
    provider: str
    """Short name."""
    notice: str
    """What would have been preferred and did not start; empty if nothing."""


def plans(wanted: str, available: Sequence[str], size: int) -> list[list[str]]:
    """What to ask of onnxruntime, in turn, for a model of `size` bytes: a provider, then those that help it out.

    `available` are onnxruntime's names of what it was built with. `auto` depends on that and on the model, never on a
    measurement, so that a replay computes where the robot did. Raises GanglionError for an unknown name, and for a
    provider that is not available.
    """
    known = {name: full for name, full in NAMES.items() if full in available}
    if wanted not in (AUTO, *NAMES):
        raise GanglionError(f"there is no provider '{wanted}'; expected one of {', '.join([AUTO, *reversed(NAMES)])}")
    if wanted not in (AUTO, *known):
        raise GanglionError(
            f"this onnxruntime has no provider '{wanted}', only {', '.join(reversed(known))}: install onnxruntime-gpu "
            f"in place of onnxruntime, or ask for '{AUTO}'"
        )
    names = list(known)
    by_size = names[-1:] if size < SMALL_BYTES else names
    chosen = by_size if wanted == AUTO else [wanted]
    return [[known[n] for n in names[names.index(name) :]] for name in chosen]


def start(asked: Sequence[list[str]], make: Callable[[list[str]], S]) -> Started[S]:
    """The first of the plans that starts.

    Raises what `make` raises for the CPU, and GanglionError if there is no plan for it and none starts. onnxruntime may
    take another provider than it was asked for without raising anything, as it does when a library of CUDA is missing.
    """
    short = {full: name for name, full in NAMES.items()}
    failed: dict[str, str] = {}
    for plan in asked:
        name = short[plan[0]]
        try:
            session = make(plan)
        except Exception as error:  # onnxruntime raises many unrelated types
            if name == "cpu":
                raise
            failed[name] = str(error).strip().splitlines()[0]
            continue
        if session.get_providers()[0] == plan[0]:
            notice = f"{' and '.join(failed)} did not start, so {name} computes instead" if failed else ""
            return Started(session, name, notice)
        failed[name] = "a library of CUDA or cuDNN is missing or of another version, see its message above"
    reasons = "; ".join(f"the provider '{name}' did not start ({why})" for name, why in failed.items())
    raise GanglionError(f"{reasons}: install what onnxruntime-gpu needs, or ask for '{AUTO}' or 'cpu'")
