"""Contracts of older versions, as plain JSON values: which are refused, what to do then, and how they become newer."""

from __future__ import annotations

from typing import Any

from runtime.errors import ContractError

OLD = {
    1: "its graph carries no covariance and does not check its sensors; export the run again with 'ganglion export RUN "
    "-o FILE', or install the ganglion that wrote it",
    2: "its graph takes no tolerance and does not tell the steps that it made; make a bundle of this version of it "
    "with 'ganglion export FILE -o NEW.onnx', or export the run again",
}
"""Why a bundle of this version has to become another file first, since its graph has another interface; and how."""


def check_version(plain: Any, version: int) -> None:
    """Raises ContractError with the way out if `plain`, a contract, is not of `version`; any other value passes."""
    had = plain.get("version") if isinstance(plain, dict) else version
    if type(had) is int and had in OLD:
        raise ContractError(
            f"contract version {had} is too old for this runtime, which reads version {version}: {OLD[had]}"
        )
    if type(had) is not int or had != version:
        raise ContractError(
            f"contract version {had!r} is not supported; this runtime reads version {version}: export the agent again, "
            "or install the ganglion that wrote it"
        )


def to_version_3(plain: dict[str, Any]) -> dict[str, Any]:
    """A contract of version 2 as one of version 3. Its health knows no surprise, so it has to be calibrated again."""
    return plain | {"version": 3, "health": {"levels": [], "ticks": 0, "refine": {}}}
