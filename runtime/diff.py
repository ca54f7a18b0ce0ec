"""What differs between two bundles: contracts field by field, graphs by operator, weights by constant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.modelfile import weights
from runtime.schema import to_plain
from runtime.signature import signer

_ABSENT = "absent"
_RECORDS = re.compile(
    r"contract\.(provenance|parity|digest|precision|checks\.ticks|.*_false_alarm|health(?!.*\.sustained))|file\."
)
"""What only tells where a bundle came from and how it was checked; a robot notices all the rest."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same."""

    where: str
    """Path of the field, e.g. `contract.action.high`; or `operator.Gemm`, `weight.NAME`, `file.signed_by`."""
    first: str
    second: str

    @property
    def noticed(self) -> bool:
        """Whether a robot would notice: in what it senses, commands, believes or is limited to."""
        return not _RECORDS.match(self.where)


def differences(first: Bundle, second: Bundle) -> list[Difference]:
    """Everything that differs, in the order of the contract, then graph, weights and file."""
    found = [*_plain("contract", to_plain(first.contract), to_plain(second.contract))]
    if first.contract.digest != second.contract.digest:
        found += [*_operators(first, second), *_weights(first, second)]
        if not any(d.where.startswith(("operator.", "weight.", "opset.")) for d in found):
            found.append(Difference("graph", "other nodes", "or constants, of the same kinds and sizes"))
    if signer(first.model) != signer(second.model):
        found.append(Difference("file.signed_by", signer(first.model) or _ABSENT, signer(second.model) or _ABSENT))
    return found


def _plain(where: str, first: Any, second: Any) -> Iterator[Difference]:
    """Of two JSON values; lists of numbers or of another length, and what is missing in one, differ as a whole."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in dict.fromkeys([*first, *second]):
            yield from _plain(f"{where}.{key}", first.get(key, _ABSENT), second.get(key, _ABSENT))
    elif _objects(first) and _objects(second) and len(first) == len(second):
        for i, (a, b) in enumerate(zip(first, second)):
            label = a["name"] if "name" in a and a.get("name") == b.get("name") else i
            yield from _plain(f"{where}[{label}]", a, b)
    elif first != second:
        yield Difference(where, _short(first), _short(second))


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) for v in value)


def _operators(first: Bundle, second: Bundle) -> Iterator[Difference]:
    for what, a, b in (
        ("operator", first.file.operators, second.file.operators),
        ("opset", first.file.opsets, second.file.opsets),
    ):
        for name in sorted({*a, *b}):
            if a.get(name) != b.get(name):
                yield Difference(f"{what}.{name or 'ai.onnx'}", str(a.get(name, _ABSENT)), str(b.get(name, _ABSENT)))


def _weights(first: Bundle, second: Bundle) -> Iterator[Difference]:
    ours, theirs = weights(first.file), weights(second.file)
    for name in sorted({*ours, *theirs}):
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            yield Difference(f"weight.{name}", _kind(a), _kind(b))
        elif a.tobytes() != b.tobytes():
            largest = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
            yield Difference(f"weight.{name}", _kind(a), f"{_kind(b)}, by up to {largest:.3g}")


def _kind(array: np.ndarray | None) -> str:
    return _ABSENT if array is None else f"{array.dtype}{list(array.shape)}"


def _short(value: Any) -> str:
    text = (
        ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
        if isinstance(value, list)
        else str(value)
    )
    return text if len(text) <= 80 else f"{text[:77]}..."
