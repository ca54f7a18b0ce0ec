"""What a serialised ONNX model holds, read from its bytes: nothing is run, and no onnx package is needed.

A model that could make its reader open another file, or that needs more than a stock onnxruntime, is refused here.
Field numbers are those of onnx.proto; `model` may be any bytes, and every number in it is checked against its length.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MICROSOFT = "com.microsoft"
EXTRA_OPERATORS = frozenset({f"{MICROSOFT}.Inverse"})
"""The operators outside the ONNX standard that every stock onnxruntime has and that read no file."""
_DEEPEST = 16  # of graphs inside nodes, and of what holds them
_DTYPES = {
    1: np.float32,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    2: np.uint8,
    3: np.int8,
}

Fields = Iterator[tuple[int, int | memoryview]]


class ModelError(ValueError):
    """The bytes are no ONNX model that may be loaded; the text says why, and begins in lower case."""


@dataclass(frozen=True)
class ModelFile:
    """The facts of one model."""

    digest: str
    """sha256 of the serialised graph."""
    metadata: dict[str, str]
    ir_version: int
    opsets: dict[str, int]
    """Version by domain; the standard's domain is empty."""
    operators: dict[str, int]
    """How often each operator stands in the graph and in the graphs inside it, `domain.Name` outside the standard."""
    graph: memoryview


def read_model(model: bytes) -> ModelFile:
    """Scan a serialised onnx.ModelProto. Raises ModelError."""
    graph: memoryview | None = None
    metadata: dict[str, str] = {}
    opsets: dict[str, int] = {}
    ir_version = 0
    for number, value in _fields(memoryview(model)):
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number == 7 and not isinstance(value, int):
            if graph is not None:  # protobuf would join them, and the digest see only one
                raise ModelError("it holds two graphs")
            graph = value
        elif number == 8:
            domain, version = _entry(value)
            opsets[_text(domain)] = version if isinstance(version, int) else 0
        elif number == 14:
            key, text = _entry(value)
            if _text(key) in metadata:
                raise ModelError(f"its metadata has two entries '{_text(key)}'")
            metadata[_text(key)] = _text(text)
        elif number in (20, 25):
            raise ModelError("it holds functions or training information, which no bundle has")
    if graph is None:
        raise ModelError("it holds no ONNX graph")
    operators: Counter[str] = Counter()
    _scan_graph(graph, operators, 0)
    return ModelFile(hashlib.sha256(graph).hexdigest(), metadata, ir_version, opsets, dict(operators), graph)


def oldest_onnxruntime(file: ModelFile) -> str:
    """The oldest onnxruntime that reads the model, empty if it has to be newer than any that was tried."""
    return "1.16" if file.ir_version <= 9 and file.opsets.get("", 0) <= 18 else ""


def weights(file: ModelFile) -> dict[str, np.ndarray]:
    """The constants of the graph, without those of the graphs inside it, by name. Raises ModelError."""
    found = {}
    for number, value in _fields(file.graph):
        if number == 5 and not isinstance(value, int):
            name, array = _tensor(value)
            found[name] = array
    return found


def last_record(model: bytes) -> tuple[int, str, str]:
    """Where the last top-level field begins, and its key and text if it is a metadata entry, else empty texts.

    Raises ModelError.
    """
    begin, key, text = 0, "", ""
    data, position = memoryview(model), 0
    while position < len(data):
        begin = position
        number, value, position = _field(data, position)
        key, text = map(_text, _entry(value)) if number == 14 else ("", "")
    return begin, key, text


def metadata_record(key: str, text: str) -> bytes:
    """A metadata entry as a top-level field of a model: bytes that may be appended to it."""
    entry = b"".join(_lengthened(n, t.encode()) for n, t in ((1, key), (2, text)))
    return _lengthened(14, entry)


def _lengthened(number: int, payload: bytes) -> bytes:
    return _written(number << 3 | 2) + _written(len(payload)) + payload


def _written(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _scan_graph(graph: memoryview, operators: Counter[str], depth: int) -> None:
    if depth > _DEEPEST:
        raise ModelError("its graphs are nested too deeply")
    for number, value in _fields(graph):
        if isinstance(value, int):
            continue
        if number == 1:
            _scan_node(value, operators, depth)
        elif number == 5:
            _scan_tensor(value)
        elif number == 15:
            _scan_sparse(value)


def _scan_node(node: memoryview, operators: Counter[str], depth: int) -> None:
    kind = domain = ""
    for number, value in _fields(node):
        if number == 4:
            kind = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5 and not isinstance(value, int):
            _scan_attribute(value, operators, depth)
    name = kind if domain in ("", "ai.onnx") else f"{domain}.{kind}"
    if domain not in ("", "ai.onnx") and name not in EXTRA_OPERATORS:
        raise ModelError(f"it needs the operator {name}, which is not one of every stock onnxruntime")
    operators[name] += 1


def _scan_attribute(attribute: memoryview, operators: Counter[str], depth: int) -> None:
    for number, value in _fields(attribute):
        if isinstance(value, int):
            continue
        if number in (5, 10):
            _scan_tensor(value)
        elif number in (6, 11):
            _scan_graph(value, operators, depth + 1)
        elif number in (22, 23):
            _scan_sparse(value)


def _scan_sparse(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number in (1, 2) and not isinstance(value, int):
            _scan_tensor(value)


def _scan_tensor(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number == 13 or (number == 14 and value != 0):
            raise ModelError("it keeps weights in another file (external data), which is never opened")


def _tensor(tensor: memoryview) -> tuple[str, np.ndarray]:
    """Name and values of a TensorProto that keeps them as raw data, as exports do; empty if it does not."""
    name, kind, shape, raw = "", 0, [], memoryview(b"")
    for number, value in _fields(tensor):
        if number == 1:
            shape += [value] if isinstance(value, int) else list(_packed(value))
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _text(value)
        elif number == 9 and not isinstance(value, int):
            raw = value
    try:
        return name, np.frombuffer(raw, _DTYPES.get(kind, np.uint8)).reshape(shape if len(raw) else [0])
    except ValueError as error:
        raise ModelError(f"the constant '{name}' does not have the size of its shape {shape}") from error


def _packed(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _entry(value: int | memoryview) -> tuple[int | memoryview, int | memoryview]:
    """The fields 1 and 2 of a message, empty where they are missing."""
    if isinstance(value, int):
        raise ModelError("a number stands where a message belongs")
    fields = dict(_fields(value))
    return fields.get(1, memoryview(b"")), fields.get(2, memoryview(b""))


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise ModelError("a number stands where a text belongs")
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise ModelError("a text in it is not UTF-8") from error


def _fields(data: memoryview) -> Fields:
    """Fields of a protobuf message as (number, value): a number, or the bytes of what has a length."""
    position = 0
    while position < len(data):
        number, value, position = _field(data, position)
        yield number, value


def _field(data: memoryview, position: int) -> tuple[int, int | memoryview, int]:
    """Number and value of the field at `position`, and where the next one begins."""
    key, position = _varint(data, position)
    number, wire = key >> 3, key & 7
    if wire == 0:
        value, position = _varint(data, position)
        return number, value, position
    if wire == 2:
        length, position = _varint(data, position)
    elif wire in (1, 5):
        length = 8 if wire == 1 else 4
    else:
        raise ModelError(f"wire type {wire} at byte {position}")
    if position + length > len(data):
        raise ModelError(f"a field of {length} bytes at byte {position} runs past the end")
    return number, data[position : position + length], position + length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data):
            raise ModelError(f"it ends inside a number at byte {position}")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ModelError(f"a number too long at byte {position}")
