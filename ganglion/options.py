"""What subcommands are made of: types of their options, and how arguments become one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import tyro

T = TypeVar("T")


def comma_separated(kind: type, metavar: str, expected: str) -> Any:
    """How tyro reads `a,b,c` as a tuple."""

    def parse(texts: list[str]) -> tuple[Any, ...]:
        try:
            return tuple(kind(text.strip()) for text in texts[0].split(","))
        except ValueError as error:
            raise ValueError(f"got '{texts[0]}', expected {expected} separated by commas") from error

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(str(v) for v in value)],
    )


Steps = Annotated[tuple[int, ...], comma_separated(int, "K,…", "whole numbers")]
Names = Annotated[tuple[str, ...], comma_separated(str, "NAME,…", "names")]
BundlePath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
TrustedKeys = Annotated[tuple[Path, ...], comma_separated(Path, "FILE,…", "files")]
Provider = Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda,tensorrt}")]
JsonPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


class Command(Protocol):
    """A parsed subcommand."""

    def run(self) -> int | None:
        """Do it; returns the exit code, zero if None. Raises GanglionError for what the user can put right."""


def cli(kind: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    """Parse the arguments of the subcommand `name`; whoever is wrong ends the program with a message."""
    known: dict[str, Any] = {} if default is None else {"default": default}
    result: T = tyro.cli(kind, prog=f"ganglion {name}", args=arguments, config=(tyro.conf.FlagCreatePairsOff,), **known)
    return result
