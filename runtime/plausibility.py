"""Whether readings can be what the contract says that they are: ranges, units, signs, gravity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runtime.contract import Contract, Observation
from runtime.findings import Finding, listed

_FROZEN_MESSAGES = 10
_GRAVITY = 9.81
_MOVED_RAD = 0.02
_MOVED_NOISES = 20.0
_TURN = math.pi / 180
_FACTORS = {
    "rad": {"degrees": _TURN},
    "rad/s": {"degrees per second": _TURN, "turns per minute": 2 * math.pi / 60},
    "m": {"millimetres": 1e-3},
}
"""Per unit of the contract: what one may get instead, and what makes the contract's unit of it."""


@dataclass(frozen=True)
class Series:
    """The readings of one observation with n channels in K messages."""

    seconds: np.ndarray
    """(K,) since the first, when they were measured or else received."""
    values: np.ndarray
    """(K, n), SI as the contract has it; NaN where nothing came."""
    present: np.ndarray
    """(K, n): whether the message held a reading."""
    quaternions: np.ndarray | None = None
    """(K, 4), x y z w, where the message has an orientation."""

    @property
    def valid(self) -> np.ndarray:
        """(K, n): whether the reading is a finite number."""
        return self.present & np.isfinite(self.values)

    @property
    def median(self) -> np.ndarray:
        """(n,) of the valid readings; NaN if there is none."""
        columns = zip(self.values.T, self.valid.T)
        return np.array([np.median(values[valid]) if valid.any() else np.nan for values, valid in columns])


def check_values(contract: Contract, series: dict[str, Series]) -> list[Finding]:
    """Everything that readings, by the name of their observation, contradict."""
    found = []
    for o in contract.observations:
        if o.name in series:
            s = series[o.name]
            found += _check_finite(o, s) + _check_range(o, s) + _check_frozen(o, s) + _check_quaternion(o, s)
    return found + _check_gravity(contract, series) + _check_velocities(contract, series)


def _names(o: Observation, which: np.ndarray) -> str:
    return (
        o.name if which.all() and len(which) > 1 else listed(f"{o.name}.{o.channels[i]}" for i in np.flatnonzero(which))
    )


def _check_finite(o: Observation, s: Series) -> list[Finding]:
    bad = s.present & ~np.isfinite(s.values)
    if not bad.any():
        return []
    lost = bad.any(axis=0) & ~s.valid.any(axis=0)
    left = int(s.valid.any(axis=0).sum())
    always = "always" if lost.any() else "now and then"
    which = lost if lost.any() else bad.any(axis=0)
    level = "error" if left < o.min_valid else "warning"
    remedy = "See whether the sensor is plugged in and the driver reads it."
    expected = "finite numbers" + (f", in {o.min_valid} channels at least" if o.min_valid else "")
    return [Finding(level, _names(o, which), f"{always} no finite number", expected, remedy, passing=True)]


def _check_range(o: Observation, s: Series) -> list[Finding]:
    low, high = np.array(o.low), np.array(o.high)
    outside = s.valid & ((s.values < low) | (s.values > high))
    share = outside.sum(axis=0) / np.maximum(s.valid.sum(axis=0), 1)
    if not outside.any():
        return []
    mostly = share > 0.5
    which = mostly if mostly.any() else share > 0
    beyond = np.where(outside & which, np.maximum(s.values - high, low - s.values) / (high - low), 0.0)
    row, worst = np.unravel_index(int(np.argmax(beyond)), beyond.shape)
    got = f"{s.values[row, worst]:.4g} {o.unit}"
    remedy = "Look at the sensor and its unit; a reading outside is not believed."
    if mostly.any():
        guess = _guess(o, s)
        got += f", which looks like {guess}" if guess else ""
        remedy = f"Let the driver report {o.unit}." if guess else remedy
    expected = f"{low[worst]:.4g} to {high[worst]:.4g} {o.unit}"
    return [Finding("error" if mostly.any() else "warning", _names(o, which), got, expected, remedy)]


def _guess(o: Observation, s: Series) -> str:
    """The units in which every reading would be in range."""
    low, high, values = np.array(o.low), np.array(o.high), np.where(s.valid, s.values, np.nan)
    units = _FACTORS.get(o.unit, {}).items()
    return " or ".join(unit for unit, f in units if not ((values * f < low) | (values * f > high)).any())


def _check_frozen(o: Observation, s: Series) -> list[Finding]:
    measured = o.kind.startswith("joint_") or o.kind in ("angular_velocity", "linear_acceleration")
    if not measured or len(s.values) < _FROZEN_MESSAGES:
        return []
    frozen = s.valid.all(axis=0) & (s.values == s.values[0]).all(axis=0)
    if not frozen.any():
        return []
    remedy = "A simulator that waits does that, or a coarse sensor at rest; otherwise the driver repeats itself."
    got = f"{len(s.values)} readings are exactly the same"
    return [Finding("warning", _names(o, frozen), got, "the noise of a sensor", remedy)]


def _check_quaternion(o: Observation, s: Series) -> list[Finding]:
    if o.kind not in ("orientation", "gravity") or s.quaternions is None:
        return []
    length = float(np.median(np.linalg.norm(s.quaternions, axis=1)))
    if abs(length - 1.0) <= 0.05 or math.isnan(length):
        return []
    remedy = "Let the driver fill 'orientation' with a unit quaternion, x y z w."
    if length < 1e-6:
        level = "error" if o.min_valid > 0 else "warning"
        return [Finding(level, o.name, "no orientation: the quaternion is zero", "length 1", remedy)]
    return [Finding("error", o.name, f"a quaternion of length {length:.3g}", "length 1", remedy)]


def _of_kind(contract: Contract, series: dict[str, Series], kind: str) -> tuple[Observation, Series] | None:
    return next(((o, series[o.name]) for o in contract.observations if o.kind == kind and o.name in series), None)


def _check_gravity(contract: Contract, series: dict[str, Series]) -> list[Finding]:
    """The accelerometer at rest, the direction of gravity, and both together."""
    found: list[Finding] = []
    upward: dict[str, np.ndarray] = {}
    acceleration, gravity = (_of_kind(contract, series, k) for k in ("linear_acceleration", "gravity"))
    if acceleration is not None:
        o, s = acceleration
        typical, length = s.median, float(np.linalg.norm(s.median))
        spread = float(np.median(np.linalg.norm(np.where(s.valid, s.values - typical, 0.0), axis=1)))
        feels_gravity = abs(np.linalg.norm(o.mean) - _GRAVITY) < 1.5
        if feels_gravity and math.isfinite(length) and spread < 1.0:
            upward[o.name] = typical
            if abs(length - _GRAVITY) > 1.5:
                found.append(_acceleration_finding(o, length))
    if gravity is not None:
        o, s = gravity
        if np.isfinite(s.median).all():
            upward[o.name] = -s.median
    for o in contract.observations:
        if o.name in upward:
            usual = np.array(o.mean) if o.kind == "linear_acceleration" else -np.array(o.mean)
            away = -0.5 * float(np.linalg.norm(usual) * np.linalg.norm(upward[o.name]))
            if np.linalg.norm(usual) > 0.5 and usual @ upward[o.name] < away:
                remedy = (
                    "Look at how the sensor is mounted and at its axes (x forward, y left, z up); or turn the robot."
                )
                found.append(Finding("error", o.name, "the robot is upside down", "an upright robot", remedy))
    if len(upward) == 2:
        a, b = (v / max(float(np.linalg.norm(v)), 1e-12) for v in upward.values())
        if np.linalg.norm(a) > 0.1 and a @ b < math.cos(math.radians(30)):
            degrees = math.degrees(math.acos(float(np.clip(a @ b, -1, 1))))
            got = f"they see gravity {degrees:.0f}° apart"
            remedy = "Look at the frame of each: both must be the body's, x forward, y left, z up."
            found.append(Finding("error", " and ".join(upward), got, "one direction of gravity", remedy))
    return found


def _acceleration_finding(o: Observation, length: float) -> Finding:
    if abs(length - 1.0) < 0.2:
        guess, remedy = ", which looks like g", "Let the driver report m/s²."
    elif length < 1.0:
        guess, remedy = (
            ", as if gravity were taken off",
            "Let the driver report what the sensor feels, gravity included.",
        )
    else:
        guess, remedy = "", "Look at the sensor's scale."
    return Finding("error", o.name, f"{length:.3g} m/s² at rest{guess}", f"about {_GRAVITY} m/s²", remedy)


def _check_velocities(contract: Contract, series: dict[str, Series]) -> list[Finding]:
    """Velocities against the change of the positions, of joints that move."""
    position, velocity = (_of_kind(contract, series, k) for k in ("joint_position", "joint_velocity"))
    if position is None or velocity is None or position[0].topic != velocity[0].topic:
        return []
    (o, p), (w, v) = position, velocity
    odd: dict[str, np.ndarray] = {}
    for i, joint in enumerate(o.channels):
        if joint in w.channels:
            j = w.channels.index(joint)
            use = p.valid[:, i] & v.valid[:, j]
            kind = _relation(p.seconds[use], p.values[use, i], v.values[use, j])
            if kind:
                odd.setdefault(kind, np.zeros(len(w.channels), dtype=bool))[j] = True
    remedy = "Let the driver report the derivative of the position, in the same direction and in SI units."
    return [
        Finding("error", _names(w, which), kind, "the change of the position per second", remedy)
        for kind, which in odd.items()
    ]


def _relation(seconds: np.ndarray, position: np.ndarray, velocity: np.ndarray) -> str:
    """What is wrong with K velocities beside K positions; empty if nothing, or if the joint hardly moved."""
    if len(seconds) < 5:
        return ""
    noise = float(np.median(np.abs(np.diff(position, 2))))
    moved = float(np.ptp(position))
    if not moved > max(_MOVED_RAD, _MOVED_NOISES * noise):
        return ""
    steps = np.diff(seconds) * 0.5 * (velocity[1:] + velocity[:-1])
    way = np.concatenate(([0.0], np.cumsum(steps)))
    p, q = position - position.mean(), way - way.mean()
    ratio = float(p @ q / (p @ p))
    if not math.isfinite(ratio) or 0.5 <= ratio <= 2.0:
        return ""
    if abs(ratio) < 0.1 and abs(ratio * math.degrees(1.0) - 1.0) > 0.5:
        return "the joint moves, but the velocity does not tell"
    if -2.0 <= ratio <= -0.5:
        return "the velocity has the wrong sign"
    for factor, unit in ((180 / math.pi, "degrees per second"), (60 / (2 * math.pi), "turns per minute")):
        if 0.6 < abs(ratio) / factor < 1.6:
            sign = "" if ratio > 0 else ", in the wrong direction"
            return f"the velocity looks like {unit}{sign}"
    return f"the velocity is about {ratio:.1g} times the change of the position"
