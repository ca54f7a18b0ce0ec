"""Which files make a bag, and which bags lie in a folder."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path, PurePath

from runtime.errors import BagError

SUFFIXES = (".mcap", ".db3", ".bag")
"""MCAP and SQLite files of ROS 2, and bags of ROS 1."""
_PACKED, _ACTIVE = ".zstd", ".active"  # compressed as a file; what ROS 1 had not finished to write
_METADATA = "metadata.yaml"
_FILES = re.compile(r"relative_file_paths:[ \t]*(\[(?P<flow>[^\]]*)\]|(?P<block>(\r?\n[ \t]*-[^\n]*)+))")
_PAGES = (1, *(2**n for n in range(9, 16)))  # sizes as SQLite writes them


def kind(path: Path) -> str:
    """One of `SUFFIXES`; empty if the file is no part of a bag."""
    name = path.name.removesuffix(_PACKED).removesuffix(_ACTIVE)
    return next((s for s in SUFFIXES if name.endswith(s)), "")


def list_files(path: Path) -> tuple[list[Path], list[str]]:
    """The files of one bag in their order, and notices about those that are not there.

    Raises BagError if there is none.
    """
    if not path.exists():
        raise BagError(f"there is no bag at {path}; check the path")
    if path.is_file():
        if not kind(path):
            raise BagError(
                f"{path} is not a bag: expected a bag directory, or a file that ends with "
                f"{', '.join(SUFFIXES)} (or these and {_PACKED})"
            )
        return [path], []
    present = sorted((p for p in path.iterdir() if p.is_file() and kind(p)), key=_number)
    if not (path / _METADATA).exists():
        if not present:
            raise BagError(f"{path} is a directory without metadata.yaml and without a bag's files, so not a bag")
        return present, [
            f"{path} has no metadata.yaml, as when a recording is interrupted; its files are read in order"
        ]
    named = _named_in_metadata(path / _METADATA)
    if named is None and not present:
        raise BagError(
            f"{path} cannot be read as a bag: neither its metadata.yaml nor any of its files is there in full"
        )
    if named is None:
        return present, [f"{path / _METADATA} cannot be read; the files beside it are read in order"]
    files = [path / name for name in named if (path / name).is_file() and kind(path / name)]
    missing = [name for name in named if not (path / name).is_file()]
    if not files:
        raise BagError(f"{path} lacks its files {', '.join(missing) or '(none is named)'}; copy the bag again")
    return files, [f"{path} lacks its file {name}, which is skipped" for name in missing]


def find_bags(path: Path) -> list[Path]:
    """`path` itself if it is a bag, or else the bags below it. Raises BagError if there is none.

    A directory is one bag if it has a metadata.yaml, or if its files are the parts of one recording (NAME_0, NAME_1 …);
    otherwise every file in it is a bag.
    """
    if not path.is_dir():
        list_files(path)
        return [path]
    found = list(_below(path))
    if not found:
        raise BagError(
            f"there is no bag in {path}; expected bag directories, or files that end with {', '.join(SUFFIXES)}"
        )
    return found


def _below(folder: Path) -> Iterator[Path]:
    entries = sorted(folder.iterdir())
    if any(p.name == _METADATA for p in entries):
        yield folder
        return
    files = sorted((p for p in entries if p.is_file() and kind(p)), key=_number)
    if len(files) > 1 and len({_stem(p) for p in files}) == 1 and all(kind(p) != ".bag" for p in files):
        yield folder
    else:
        yield from files
    for inner in (p for p in entries if p.is_dir() and not p.name.startswith(".")):
        yield from _below(inner)


def _stem(path: Path) -> str:
    return re.sub(r"(_\d+)?\.[^/]*$", "", path.name)


def _number(path: Path) -> tuple[str, int, str]:
    found = re.search(r"_(\d+)\.", path.name)
    return _stem(path), int(found[1]) if found else -1, path.name


def _named_in_metadata(path: Path) -> list[str] | None:
    """Names of the files, None if they cannot be read. It is a page of YAML that takes longer to parse than to scan."""
    try:
        found = _FILES.search(path.read_text())
    except (OSError, UnicodeDecodeError):
        return None
    if found is None:
        return None
    names = re.split(r"\n\s*-|,", found["block"] or found["flow"])
    return [PurePath(name.strip(" \t\r\n'\"-")).name for name in names if name.strip(" \t\r\n'\"-")]


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """The file as storage libraries take it: `path`, or a temporary copy where they would not read it as it is.

    That is unpacked, holds what SQLite had still to move from its write-ahead log, and no page that is not whole.
    """
    log = path.with_name(f"{path.name}-wal")
    packed = path.name.endswith(_PACKED)
    logged = log.is_file() and log.stat().st_size > 0
    if not packed and not logged and not _broken_page(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ganglion-bag-") as folder:
        copy = Path(folder) / path.name.removesuffix(_PACKED)
        if packed:
            _unpack(path, copy)
        else:
            shutil.copyfile(path, copy)
        if logged:
            shutil.copyfile(log, Path(folder) / log.name)
            with suppress(sqlite3.Error), closing(sqlite3.connect(copy)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if broken := _broken_page(copy):
            with copy.open("r+b") as file:
                file.truncate(copy.stat().st_size - broken)
        yield copy


def _broken_page(path: Path) -> int:
    """Bytes of the last page of a SQLite file that is not whole, which SQLite would fill up with zeros; else 0."""
    if kind(path) != ".db3" or path.name.endswith(_PACKED):
        return 0
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
    return path.stat().st_size % (65536 if size == 1 else size) if size in _PAGES else 0


def _unpack(path: Path, copy: Path) -> None:
    """As much as can be unpacked."""
    import zstandard

    with path.open("rb") as source, copy.open("wb") as target, suppress(zstandard.ZstdError):
        zstandard.ZstdDecompressor().copy_stream(source, target)
