"""MCAP files from the beginning, without their index: what a recorder had written when it was interrupted.

The format is https://mcap.dev/spec. Only what messages need is read: schemas, channels, messages and chunks of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 3, 4, 5, 6, 15
_RECORD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQI")
_LARGEST_CHUNK = 2**30  # bytes, unpacked


@dataclass
class _Known:
    types: dict[int, str] = field(default_factory=dict)
    channels: dict[int, tuple[str, str]] = field(default_factory=dict)


def read_mcap(path: Path) -> Iterator[tuple[str, str, int, bytes]]:
    """Topic, type, receive time in ns and content of every message, each chunk in order.

    Raises ValueError or what the decompressor raises where the file breaks, after all that is before the break.
    """
    known = _Known()
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it does not begin as an MCAP file does")
        for kind, content, missing in _records(file, path.stat().st_size - len(_MAGIC)):
            if kind == _DATA_END:
                return
            if kind == _CHUNK:
                yield from _chunk(content, known)
            elif not missing:
                yield from _take(kind, content, known)
            if missing:
                raise ValueError(f"the file ends {missing} bytes too early")
        raise ValueError("the end of its data is missing")


def _records(file: BinaryIO, left: int) -> Iterator[tuple[int, bytes, int]]:
    """Kind and content of every record in `left` bytes, and how many bytes the last one lacks."""
    while left >= _RECORD.size:
        kind, size = _RECORD.unpack(file.read(_RECORD.size))
        left -= _RECORD.size
        yield kind, file.read(min(size, left)), max(size - left, 0)
        left -= size


def _take(kind: int, content: bytes, known: _Known) -> Iterator[tuple[str, str, int, bytes]]:
    """The message of a record, if it is one; otherwise what the record says is remembered."""
    if kind == _MESSAGE:
        channel, _, receive_ns, _ = _MESSAGE_HEAD.unpack_from(content)
        if channel in known.channels:
            yield *known.channels[channel], receive_ns, content[_MESSAGE_HEAD.size :]
    elif kind == _SCHEMA:
        known.types[int.from_bytes(content[:2], "little")] = _string(content, 2)[0]
    elif kind == _CHANNEL:
        topic, at = _string(content, 4)
        if _string(content, at)[0] == "cdr":
            schema = int.from_bytes(content[2:4], "little")
            known.channels[int.from_bytes(content[:2], "little")] = topic, known.types.get(schema, "")


def _string(content: bytes, at: int) -> tuple[str, int]:
    """The text whose length stands at `at`, and where it ends."""
    end = at + 4 + int.from_bytes(content[at : at + 4], "little")
    if len(content) < max(end, at + 4):
        raise ValueError("a text is longer than what holds it")
    return content[at + 4 : end].decode(), end


def _chunk(content: bytes, known: _Known) -> Iterator[tuple[str, str, int, bytes]]:
    """Messages of a chunk in order, of one that is cut short as many as there are."""
    _, _, size, checksum = _CHUNK_HEAD.unpack_from(content)
    packing, at = _string(content, _CHUNK_HEAD.size)
    stored = int.from_bytes(content[at : at + 8], "little")
    packed = content[at + 8 : at + 8 + stored]
    data = _unpack(packed, packing, size)
    whole = len(packed) == stored and len(data) == size
    if whole and checksum and crc32(data) != checksum:
        raise ValueError("the checksum of a chunk does not fit")
    found = [
        message
        for kind, inner, missing in _records(BytesIO(data), len(data))
        if not missing
        for message in _take(kind, inner, known)
    ]
    yield from sorted(found, key=lambda m: m[2])
    if not whole:
        raise ValueError(f"a chunk of {size} bytes holds {len(data)}")


def _unpack(packed: bytes, packing: str, size: int) -> bytes:
    """As much as can be unpacked, `size` bytes at most."""
    if size > _LARGEST_CHUNK:
        raise ValueError(f"a chunk of {size} bytes is beyond all reason")
    if packing == "zstd":
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            return reader.read(size)
    if packing == "lz4":
        from lz4.frame import LZ4FrameDecompressor

        unpacked: bytes = LZ4FrameDecompressor().decompress(packed, size)
        return unpacked
    if packing:
        raise ValueError(f"its chunks are packed with '{packing}', expected zstd or lz4")
    return packed[:size]
