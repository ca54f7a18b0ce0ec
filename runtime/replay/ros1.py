"""Bags of ROS 1 (format 2.0), chunk by chunk from the beginning: neither their index nor their end is needed."""

from __future__ import annotations

import bz2
import struct
from collections.abc import Iterator
from pathlib import Path

_MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _CHUNK, _CONNECTION = 2, 5, 7
_LARGEST_CHUNK = 2**30  # bytes, unpacked
_U32 = struct.Struct("<I")
_TIME = struct.Struct("<II")


def read_ros1(path: Path) -> Iterator[tuple[str, str, int, bytes]]:
    """Topic, type, receive time in ns and content of every message, each chunk in order.

    Raises ValueError where the bag breaks.
    """
    connections: dict[int, tuple[str, str]] = {}
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it does not begin as a ROS 1 bag of format 2.0 does")
        left = path.stat().st_size - len(_MAGIC)

        def block() -> bytes:
            nonlocal left
            size = _U32.unpack(file.read(4))[0] if left >= 4 else 4
            left -= 4 + size
            if left < 0:
                raise ValueError(f"the file ends {-left} bytes too early")
            return file.read(size)

        while left:
            header, data = _fields(block()), block()
            kind = _number(header, b"op", 1)
            if kind == _CHUNK:
                inner = list(_records(_unpack(data, header)))
                for h, d in inner:
                    _connect(connections, h, d)
                found = [(_time(h), *_connection(connections, h), d) for h, d in inner if _is_message(h)]
                for receive_ns, topic, message_type, content in sorted(found, key=lambda m: m[0]):
                    yield topic, message_type, receive_ns, content
            elif kind == _MESSAGE:
                yield *_connection(connections, header), _time(header), data
            else:
                _connect(connections, header, data)


def _records(chunk: bytes) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
    at = 0
    while at < len(chunk):
        header, at = _sized(chunk, at)
        data, at = _sized(chunk, at)
        yield _fields(header), data


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """The block whose length stands at `at`, and where it ends."""
    if at + 4 > len(data):
        raise ValueError("a record ends within its length")
    end = at + 4 + _U32.unpack_from(data, at)[0]
    if end > len(data):
        raise ValueError("a record is longer than what holds it")
    return data[at + 4 : end], end


def _fields(header: bytes) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    at = 0
    while at < len(header):
        field, at = _sized(header, at)
        name, _, value = field.partition(b"=")
        fields[name] = value
    return fields


def _number(header: dict[bytes, bytes], name: bytes, size: int) -> int:
    value = header.get(name, b"")
    if len(value) != size:
        raise ValueError(f"a record has no field '{name.decode()}' of {size} bytes")
    return int.from_bytes(value, "little")


def _is_message(header: dict[bytes, bytes]) -> bool:
    return header.get(b"op") == bytes((_MESSAGE,))


def _time(header: dict[bytes, bytes]) -> int:
    value = header.get(b"time", b"")
    if len(value) != _TIME.size:
        raise ValueError("a message has no time")
    seconds, nanoseconds = _TIME.unpack(value)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _connect(connections: dict[int, tuple[str, str]], header: dict[bytes, bytes], data: bytes) -> None:
    """Remember what a record says of a connection, if it does."""
    if header.get(b"op") != bytes((_CONNECTION,)):
        return
    package, _, name = _fields(data).get(b"type", b"").decode().rpartition("/")
    topic = header.get(b"topic", b"").decode()
    connections[_number(header, b"conn", 4)] = (topic, f"{package}/msg/{name}")


def _connection(connections: dict[int, tuple[str, str]], header: dict[bytes, bytes]) -> tuple[str, str]:
    known = connections.get(_number(header, b"conn", 4))
    if known is None:
        raise ValueError("a message belongs to no connection")
    return known


def _unpack(data: bytes, header: dict[bytes, bytes]) -> bytes:
    packing, size = header.get(b"compression", b""), _number(header, b"size", 4)
    if size > _LARGEST_CHUNK:
        raise ValueError(f"a chunk of {size} bytes is beyond all reason")
    if packing == b"none":
        return data
    if packing == b"bz2":
        unpacked = bz2.BZ2Decompressor().decompress(data, size)
    elif packing == b"lz4":
        from lz4.frame import LZ4FrameDecompressor

        unpacked = LZ4FrameDecompressor().decompress(data, size)
    else:
        raise ValueError(f"its chunks are packed with '{packing.decode(errors='replace')}', expected none, bz2 or lz4")
    if len(unpacked) != size:
        raise ValueError(f"a chunk unpacks to {len(unpacked)} bytes, expected {size}")
    return unpacked
