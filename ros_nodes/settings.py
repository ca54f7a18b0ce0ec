"""The controller's parameters in one table: name, default, meaning, and when they count."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from runtime.errors import ContractError


def _parameter(default: Any, description: str, live: bool = False, read_only: bool = False) -> Any:
    when = "may change at any time" if live else "read at the start" if read_only else "read when configuring"
    descriptor = ParameterDescriptor(description=f"{description}; {when}", read_only=read_only)
    return field(default=default, metadata={"descriptor": descriptor, "live": live})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


@dataclass(frozen=True)
class Settings:
    """Every field is a parameter of the node; -1 leaves it to the bundle.

    Raises ContractError for a value that no bundle allows.
    """

    bundle: str = _parameter("", "path of the bundle (ONNX file with its contract)")
    refine: int = _parameter(-1, "refinement steps per tick; -1 is the bundle's default", live=True)
    rate_hz: float = _parameter(0.0, "ticks per second; 0 is the contract's rate")
    autostart: bool = _parameter(False, "configure and activate without a lifecycle manager", read_only=True)
    engage_s: float = _parameter(-1.0, "seconds of engaging; -1 is 1 where positions are commanded, otherwise 0")
    most_late_ticks: int = _parameter(50, "late ticks in a row that stop the controller; 0 is never")
    guard_ms: float = _parameter(
        -1.0, "time without a tick after which the guard commands; 0 is no guard, -1 is 100 ms or five periods"
    )

    def __post_init__(self) -> None:
        _require(0 <= self.rate_hz < math.inf, f"rate_hz is {self.rate_hz:g}, expected 0 (the contract's rate) or more")
        _require(
            self.engage_s == -1 or 0 <= self.engage_s < math.inf,
            f"engage_s is {self.engage_s:g}, expected 0 (at once) or more seconds, or -1 for the default",
        )
        _require(
            self.most_late_ticks >= 0,
            f"most_late_ticks is {self.most_late_ticks}, expected 0 (never stop for them) or more",
        )

    @staticmethod
    def declare(node: Node) -> None:
        """Declare every parameter."""
        for f in fields(Settings):
            node.declare_parameter(f.name, f.default, f.metadata["descriptor"])

    @staticmethod
    def read(node: Node, **changes: Any) -> Settings:
        """The parameters' values, with some `changes` that are still to be judged."""
        return Settings(**({f.name: node.get_parameter(f.name).value for f in fields(Settings)} | changes))
