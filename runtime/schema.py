"""Frozen dataclasses to and from plain JSON values, with errors that name the field."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

from runtime.errors import ContractError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses to dicts, tuples to lists, the rest as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    return value


def from_plain(kind: type[T], value: Any, where: str) -> T:
    """Build the dataclass `kind` from plain JSON values.

    Raises ContractError with the path `where`, what was got and what was expected, for an unknown or missing
    field or a value of the wrong type.
    """
    return typing.cast(T, _convert(kind, value, where))


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in typing.get_args(kind):
            return None
        return _convert(next(a for a in typing.get_args(kind) if a is not type(None)), value, where)
    if origin is tuple:
        _expect(isinstance(value, list), where, value, "a list")
        return tuple(_convert(typing.get_args(kind)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), where, value, "an object")
        return {k: _convert(typing.get_args(kind)[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if kind is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), where, value, "a number")
        return _finite(value, where)
    if kind is int:
        _expect(isinstance(value, int) and not isinstance(value, bool), where, value, "a whole number")
        return value
    _expect(isinstance(value, kind), where, value, f"a {kind.__name__}")
    return value


def _finite(value: int | float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    _expect(math.isfinite(number), where, value, "a finite number")
    return number


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, value, "an object")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    _expect(not unknown, where, unknown, f"only the fields {sorted(fields)}")
    missing = sorted(
        n
        for n, f in fields.items()
        if n not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    if missing:
        raise ContractError(f"{where}: the fields {missing} are missing; add them or export the agent again")
    return kind(**{n: _convert(hints[n], v, f"{where}.{n}") for n, v in value.items()})


def _expect(condition: bool, where: str, value: Any, expected: str) -> None:
    if not condition:
        shown = repr(value)
        raise ContractError(f"{where}: got {shown if len(shown) < 80 else shown[:77] + '...'}, expected {expected}")
