"""The controller's parameters in one table: name, default, meaning, and when they count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from ros_nodes.commands import COMMAND_TYPES, check_type
from ros_nodes.topics import NAMES
from runtime.commands import ARRAY
from runtime.contract import HIGHEST_RATE_HZ, LOWEST_RATE_HZ
from runtime.controller import MOST_SURPRISE
from runtime.errors import ContractError
from runtime.providers import AUTO
from runtime.providers import NAMES as PROVIDERS
from runtime.safety import LONGEST_ENGAGE_S

_MOST_GUARD_MS = 1e7
LENIENT = "lenient"
MODES = ("skip", LENIENT, "strict")
"""Of the check when a controller is configured."""


def _parameter(default: Any, description: str, live: bool = False, **descriptor_fields: bool) -> Any:
    read_only = descriptor_fields.get("read_only", False)
    when = "may change at any time" if live else "read at the start" if read_only else "read when configuring"
    if isinstance(default, float):  # -p engage_s:=1 is an integer to ROS
        descriptor_fields["dynamic_typing"] = True
    descriptor = ParameterDescriptor(description=f"{description}; {when}", **descriptor_fields)
    return field(default=default, metadata={"descriptor": descriptor, "live": live})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


def _require_texts(name: str, values: Any, expected: str) -> None:
    fits = not isinstance(values, str) and isinstance(values, Sequence) and all(isinstance(v, str) for v in values)
    _require(fits, f"{name} is {values!r}, expected {expected}")


@dataclass(frozen=True)
class Settings:
    """Every field is a parameter of the node; -1 leaves it to the bundle.

    Raises ContractError for a value that no bundle allows.
    """

    bundle: str = _parameter("", "path of the bundle (ONNX file with its contract)")
    refine: int = _parameter(-1, "largest number of refinement steps; -1 is the bundle's default", live=True)
    tolerance: float = _parameter(
        0.0, "refinement ends with the step that is expected to lower the free energy by no more, nats", live=True
    )
    budget_ms: float = _parameter(
        -1.0, "time that a tick may take, less if it begins late; 0 is no bound, -1 is half a period", live=True
    )
    most_surprise: float = _parameter(
        MOST_SURPRISE, "times the calibration's largest surprise, beyond which the robot holds; 0 is no bound"
    )
    provider: str = _parameter(AUTO, f"what computes: {', '.join((AUTO, *PROVIDERS))}")
    rate_hz: float = _parameter(0.0, "ticks per second; 0 is the contract's rate")
    autostart: bool = _parameter(False, "configure and activate without a lifecycle manager", read_only=True)
    engage_s: float = _parameter(-1.0, "seconds of engaging; -1 is 1 where positions are commanded, otherwise 0")
    most_late_ticks: int = _parameter(50, "late ticks in a row that stop the controller; 0 is never")
    guard_ms: float = _parameter(
        -1.0, "time without a tick after which the guard commands; 0 is no guard, -1 is 100 ms or five periods"
    )
    preflight: str = _parameter(
        LENIENT, f"check of the robot, one of {', '.join(MODES)}; lenient forgives what may pass, or come yet"
    )
    command_type: str = _parameter(ARRAY, f"message type of the commands, one of {', '.join(COMMAND_TYPES)}")
    command_joints: Sequence[str] = _parameter(
        (), "the joints in the order in which the driver takes them; empty is the contract's order", dynamic_typing=True
    )
    trusted_keys: Sequence[str] = _parameter(
        (),
        "files of public keys, one of which must have signed the bundle; empty runs any bundle",
        dynamic_typing=True,
        read_only=True,  # or whoever reaches the node could take the keys away
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            _require(
                not isinstance(f.default, float) or isinstance(value, float),
                f"{f.name} is {value!r}, expected a number",
            )
        _require(self.refine >= -1, f"refine is {self.refine}, expected -1 (the bundle's default) or more")
        _require(
            self.rate_hz == 0 or LOWEST_RATE_HZ <= self.rate_hz <= HIGHEST_RATE_HZ,
            f"rate_hz is {self.rate_hz:g}, expected 0 (the contract's rate), or {LOWEST_RATE_HZ:g} to "
            f"{HIGHEST_RATE_HZ:g}",
        )
        _require(
            0 <= self.tolerance < math.inf,
            f"tolerance is {self.tolerance:g}, expected 0 (until the free energy falls no more) or more nats",
        )
        _require(
            self.budget_ms == -1 or 0 <= self.budget_ms < math.inf,
            f"budget_ms is {self.budget_ms:g}, expected more than 0, 0 for no bound, or -1 for half a period",
        )
        _require(
            self.most_surprise == 0 or 1 <= self.most_surprise < math.inf,
            f"most_surprise is {self.most_surprise:g}, expected 0 (no bound) or 1 and more",
        )
        _require(
            self.engage_s == -1 or 0 <= self.engage_s <= LONGEST_ENGAGE_S,
            f"engage_s is {self.engage_s:g}, expected 0 (at once) or more seconds, {LONGEST_ENGAGE_S:g} at most, or -1 "
            "for the default",
        )
        _require(
            self.guard_ms == -1 or 0 <= self.guard_ms <= _MOST_GUARD_MS,
            f"guard_ms is {self.guard_ms:g}, expected two periods or more, 0 for no guard, or -1 for the default; "
            f"{_MOST_GUARD_MS:g} at most",
        )
        _require(
            self.most_late_ticks >= 0,
            f"most_late_ticks is {self.most_late_ticks}, expected 0 (never stop for them) or more",
        )
        _require(self.preflight in MODES, f"preflight is '{self.preflight}', expected one of {', '.join(MODES)}")
        check_type(self.command_type)
        _require_texts("command_joints", self.command_joints, "a list of joints, e.g. ['shoulder', 'elbow']")
        _require_texts("trusted_keys", self.trusted_keys, "a list of files, e.g. ['/etc/ganglion/fleet.pub']")

    @staticmethod
    def declare(node: Node) -> None:
        """Declare every parameter."""
        for f in fields(Settings):
            node.declare_parameter(f.name, f.default, f.metadata["descriptor"])

    @staticmethod
    def read(node: Node) -> Settings:
        """The parameters' values."""
        return Settings(**Settings.known({f.name: node.get_parameter(f.name).value for f in fields(Settings)}))

    @staticmethod
    def known(values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `values` whose names are fields; whole numbers become what the field is."""
        return {
            f.name: float(values[f.name])
            if isinstance(f.default, float) and type(values[f.name]) is int
            else values[f.name]
            for f in fields(Settings)
            if f.name in values
        }

    @staticmethod
    def check(node: Node, changes: Mapping[str, Any], configured: bool) -> None:
        """Raises ContractError if a parameter of `changes` is out of range, or would have no effect."""
        known = {f.name: f for f in fields(Settings)}
        Settings(**Settings.known(changes))
        for name, value in changes.items():
            fixed = name.startswith(NAMES) or (name in known and not known[name].metadata["live"])
            if configured and fixed and value != node.get_parameter(name).value:
                whole = node.get_fully_qualified_name()
                raise ContractError(
                    f"{name} is read when configuring, so it would have no effect now; clean up first "
                    f"(ros2 lifecycle set {whole} cleanup), then set it and configure again"
                )
