"""A robot in a few lines of YAML, for learning from its bags: what it senses, what it is commanded, at which rate.

What is left out is found in the recording: normalisation, valid ranges, ages, limits. `docs/from_bags.md` has an
example.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from runtime.commands import READABLE, TWIST, TWIST_AXES
from runtime.contract import ACTION_KINDS, Action, Layout, Observation
from runtime.errors import ContractError, GanglionError
from runtime.messages import KINDS
from runtime.schema import from_plain
from sim.robots.base import Robot
from sim.tasks.base import TaskInfo

_UNITS = {
    "joint_position": "rad", "joint_velocity": "rad/s", "joint_effort": "N·m", "point": "m",
    "angular_velocity": "rad/s", "linear_acceleration": "m/s²", "planar_twist": "m/s, rad/s",
    "twist": "m/s, rad/s", "position": "rad", "velocity": "rad/s", "effort": "N·m",
}  # fmt: skip
_ANY = 1e6  # a bound that is yet to be found

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class SensorSpec:
    """One observation. Of what is None the recording tells."""

    kind: str
    """A key of `runtime.messages.KINDS`."""
    topic: str
    joints: tuple[str, ...] = ()
    """For the kinds that are matched by joint name; or the names of an array's numbers."""
    unit: str = ""
    mean: Numbers | None = None
    scale: Numbers | None = None
    low: Numbers | None = None
    high: Numbers | None = None
    max_age_s: float | None = None
    min_valid: int = 0


@dataclass(frozen=True)
class ActionSpec:
    """The command. Of what is None the recording tells."""

    kind: str
    """`position`, `velocity` or `effort`."""
    topic: str
    joints: tuple[str, ...]
    """Joints, or those of vx, vy, vz, wx, wy, wz that a Twist commands."""
    message: str = ""
    """Type of the recorded commands, if the topic has several."""
    unit: str = ""
    scale: Numbers | None = None
    offset: Numbers | None = None
    low: Numbers | None = None
    high: Numbers | None = None
    max_rate: Numbers | None = None
    safe: str = ""


@dataclass(frozen=True)
class RobotSpec:
    """What the YAML file says."""

    robot: str
    rate_hz: float
    observations: dict[str, SensorSpec]
    action: ActionSpec


@dataclass(frozen=True)
class RecordedRobot:
    """A robot as a contract needs it."""

    name: str
    rate_hz: float
    observations: tuple[Observation, ...]
    action: Action

    @cached_property
    def layout(self) -> Layout:
        """Where each observation lies in the flat vectors of one tick."""
        return Layout(self.observations, self.action)

    def info(self) -> type[TaskInfo]:
        """In the place of a task, for what describes and builds agents. There is nothing to simulate."""
        known = {
            "name": f"bags:{self.name}",
            "summary": "a recorded robot",
            "robot": Robot(self.name, "", False, ()),
            "rate_hz": self.rate_hz,
            "observations": self.observations,
            "action": self.action,
        }
        return type("RecordedTask", (TaskInfo,), known)


def load_robot(path: Path) -> RobotSpec:
    """Read a robot's YAML file. Raises GanglionError that names the field, what was got and what was expected."""
    try:
        plain = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise GanglionError(f"{path} cannot be read as YAML ({reason}); docs/from_bags.md has an example") from error
    try:
        spec = from_plain(RobotSpec, plain, str(path))
        _check(spec)
        drafted(spec)
    except ContractError as error:
        raise GanglionError(f"{error}; docs/from_bags.md has an example") from error
    return spec


def _check(spec: RobotSpec) -> None:
    """What a contract would not find. Raises ContractError."""
    for name, sensor in spec.observations.items():
        if sensor.kind not in KINDS:
            raise ContractError(f"observation '{name}' has kind '{sensor.kind}', expected one of {', '.join(KINDS)}")
        fixed = KINDS[sensor.kind].channels
        if (fixed is None) != bool(sensor.joints):
            wanted = "the names of its joints" if fixed is None else f"no joints, its channels are {', '.join(fixed)}"
            raise ContractError(f"observation '{name}' of kind '{sensor.kind}' needs {wanted}")
    action = spec.action
    if action.kind not in ACTION_KINDS:
        raise ContractError(f"action kind '{action.kind}' is unknown; expected one of {', '.join(ACTION_KINDS)}")
    if action.message not in ("", *READABLE):
        raise ContractError(f"action message '{action.message}' is unknown; expected one of {', '.join(READABLE)}")
    if action.message == TWIST and not set(action.joints) <= {*TWIST_AXES}:
        raise ContractError(f"a Twist commands {', '.join(TWIST_AXES)}, got the joints {', '.join(action.joints)}")


def drafted(spec: RobotSpec) -> RecordedRobot:
    """The robot with what the YAML file says, and ranges, ages and scales that fit anything for the rest.

    Raises ContractError for what no contract allows.
    """
    observations = []
    for name, sensor in spec.observations.items():
        channels = KINDS[sensor.kind].channels or sensor.joints
        n = len(channels)
        observations.append(
            Observation(
                name=name, kind=sensor.kind, topic=sensor.topic, channels=channels,
                unit=sensor.unit or _UNITS.get(sensor.kind, "1"), mean=_or(sensor.mean, 0.0, n),
                scale=_or(sensor.scale, 1.0, n), low=_or(sensor.low, -_ANY, n), high=_or(sensor.high, _ANY, n),
                max_age_s=1.0 if sensor.max_age_s is None else sensor.max_age_s, min_valid=sensor.min_valid,
            )
        )  # fmt: skip
    a, n = spec.action, len(spec.action.joints)
    action = Action(
        kind=a.kind, mode="absolute", topic=a.topic, joints=a.joints, unit=a.unit or _UNITS[a.kind],
        scale=_or(a.scale, 1.0, n), offset=_or(a.offset, 0.0, n), low=_or(a.low, -_ANY, n), high=_or(a.high, _ANY, n),
        max_rate=_or(a.max_rate, _ANY, n), safe=a.safe or ("hold" if a.kind == "position" else "zero"),
    )  # fmt: skip
    return RecordedRobot(spec.robot, spec.rate_hz, tuple(observations), action)


def _or(given: Numbers | None, otherwise: float, count: int) -> Numbers:
    return (otherwise,) * count if given is None else given


def completed(spec: RobotSpec, values: np.ndarray, intervals_s: np.ndarray, command: np.ndarray) -> RecordedRobot:
    """The robot with what the YAML file leaves out, found in a recording.

    From readings (N, D), NaN where none was new, and commands (N, A), NaN where there was none: mean and standard
    deviation; a valid range twice as wide as the recorded one on either side; limits, scale and offset of the command
    that reach as far as the recorded ones, and any rate. Three times the usual interval (D,), s, between the readings
    is the age up to which they are believed.

    Raises GanglionError for a channel that was never read and a command that never changed and has no limits.
    """
    draft = drafted(spec)
    layout = draft.layout
    unread = [c for c, column in zip(layout.channels, values.T) if np.isnan(column).all()]
    if unread:
        raise GanglionError(
            f"the recording never holds {', '.join(unread)}; correct the names in the robot's file, or leave them out"
        )
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    span = np.maximum(high - low, 1e-3)
    found = {"mean": np.nanmean(values, axis=0), "low": low - 2 * span, "high": high + 2 * span}
    found["scale"] = np.maximum(np.nanstd(values, axis=0), np.maximum(1e-3 * np.abs(found["mean"]), 1e-6))
    observations = []
    for o, sensor in zip(draft.observations, spec.observations.values()):
        where = layout.slices[o.name]
        missing: dict[str, Any] = {n: _numbers(v[where]) for n, v in found.items() if getattr(sensor, n) is None}
        if sensor.max_age_s is None:
            missing["max_age_s"] = round(max(3 * float(intervals_s[where].max()), 1.5 / spec.rate_hz), 4)
        observations.append(replace(o, **missing))
    return replace(draft, observations=tuple(observations), action=_completed_action(spec.action, draft, command))


def _completed_action(spec: ActionSpec, draft: RecordedRobot, command: np.ndarray) -> Action:
    low, high = (np.array(_or(given, np.nan, len(spec.joints))) for given in (spec.low, spec.high))
    low, high = (
        np.where(np.isnan(low), np.nanmin(command, 0), low),
        np.where(np.isnan(high), np.nanmax(command, 0), high),
    )
    still = [j for j, a, b in zip(spec.joints, low, high) if not a < b]
    if still:
        raise GanglionError(
            f"the recorded commands of {', '.join(still)} never change; give low and high in the robot's file, or "
            "leave them out"
        )
    scale = np.array(_numbers(0.5 * (high - low)) if spec.scale is None else spec.scale)
    return replace(
        draft.action,
        low=_numbers(low),
        high=_numbers(high),
        scale=_numbers(scale),
        offset=_numbers(0.5 * (low + high)) if spec.offset is None else spec.offset,
        max_rate=_numbers((high - low) * draft.rate_hz) if spec.max_rate is None else spec.max_rate,
    )


def _numbers(values: np.ndarray) -> Numbers:
    return tuple(float(f"{v:.6g}") for v in values)
