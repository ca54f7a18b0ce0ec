"""What small motions of one joint after the other tell of the order, sign and scale of encoders and motors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runtime.contract import Action
from runtime.findings import Finding, listed

_POSITION_STROKE = 0.05
_SHARE = {"position": 0.05, "velocity": 0.1, "effort": 0.1}
_MOVED = 0.3
_ALONG = 0.5
_NOISES = 5.0
_REMEDY = "Correct the joint's sign, order or scale in the robot's hardware interface, not in the bundle."


def strokes(action: Action, base: np.ndarray) -> np.ndarray:
    """By how much to change the command of each joint (A,) from `base` (A,): towards the side with more room.

    Positions change by 0.05 rad or m, or 5 % of the range where that is less; velocities and efforts by 10 % of the
    larger limit.
    """
    low, high = np.array(action.low), np.array(action.high)
    if action.kind == "position":
        size = np.minimum(_POSITION_STROKE, _SHARE[action.kind] * (high - low))
    else:
        size = _SHARE[action.kind] * np.maximum(np.abs(low), np.abs(high))
    return np.where(high - base >= base - low, size, -size)


@dataclass(frozen=True)
class Wiring:
    """How commands are made of readings: `sign * readings[order]`, both (A,)."""

    order: np.ndarray
    sign: np.ndarray

    def command(self, readings: np.ndarray) -> np.ndarray:
        """The command (A,) that keeps a robot with these positions (A,) where it is."""
        return self.sign * readings[self.order]


def right(joints: int) -> Wiring:
    """The one that a robot should have."""
    return Wiring(np.arange(joints), np.ones(joints))


def suspects(movers: np.ndarray) -> list[Wiring]:
    """Wirings that explain why the joints `movers` (A,) bool, and no others, leave a pose that is commanded as read."""
    which, n = np.flatnonzero(movers), len(movers)
    result = []
    if len(which) == 2:
        exchanged = np.arange(n)
        exchanged[which] = which[::-1]
        result.append(Wiring(exchanged, np.ones(n)))
    if len(which):
        result.append(Wiring(np.arange(n), np.where(movers, -1.0, 1.0)))
    return result


def left_pose(joints: list[str]) -> Finding:
    """The finding that neither order nor sign explains why `joints` move when the pose as read is commanded."""
    got = "they move when the pose that they report is commanded, and neither sign nor order explains it"
    return Finding("error", listed(joints), got, "no motion", f"Compare zeros and units. {_REMEDY}")


def diagnose(action: Action, stroke: np.ndarray, response: np.ndarray, noise: np.ndarray) -> list[Finding]:
    """What is wrong, from the change `response[j, i]` of the reading of i when the command of j changed by `stroke[j]`.

    `response` is (A, A), `stroke` and the standard deviations `noise` of the responses (A,). Of efforts, the reading is
    the velocity, and its scale is not judged.
    """
    joints, scaled = action.joints, action.kind != "effort"
    found: list[Finding] = []
    least = np.maximum(_NOISES * noise, _MOVED * np.abs(stroke)[:, None] if scaled else 0.0)
    moved = np.abs(response) > least
    answers = np.argmax(np.abs(response), axis=1)
    backwards = np.take_along_axis(response, answers[:, None], axis=1)[:, 0] * stroke < 0
    for j, name in enumerate(joints):
        expected = f"it to move by {stroke[j]:.2g} {action.unit}" if scaled else "it to move"
        i = int(answers[j])
        if not moved[j].any():
            remedy = "See whether its motor is on, its brake off, and its encoder plugged in."
            found.append(Finding("error", name, "nothing moves when it is commanded", expected, remedy))
            continue
        if i != j:
            swapped = bool(moved[i].any()) and answers[i] == j
            if not swapped or j < i:
                found.append(_order(name, joints[i], swapped, int(backwards[j]) + int(swapped and backwards[i])))
        elif backwards[j]:
            found.append(Finding("error", name, "it moves the wrong way", expected, _REMEDY))
        if i == j and scaled:
            found += _scale(name, abs(float(response[j, j] / stroke[j])), expected)
        others = [joints[k] for k in range(len(joints)) if k != i and _along(response[j], i, k, moved[j, k])]
        if others:
            remedy = "Fine where joints are coupled; otherwise look at the mixing of motors and at loose mounts."
            found.append(Finding("warning", name, f"{listed(others)} moves along", "no other joint to move", remedy))
    return found


def _order(name: str, other: str, swapped: bool, backwards: int) -> Finding:
    where, got = (f"{name} and {other}", "they are swapped") if swapped else (name, f"{other} moves in its place")
    got += f", {'both' if backwards == 2 else 'one'} backwards" if backwards else ""
    return Finding("error", where, got, "each encoder to answer its own joint's command", _REMEDY)


def _along(response: np.ndarray, main: int, other: int, moved: bool) -> bool:
    return moved and bool(abs(response[other]) > _ALONG * abs(response[main]))


def _scale(name: str, gain: float, expected: str) -> list[Finding]:
    if 0.6 <= gain <= 1.6:
        return []
    degrees = any(0.6 < gain / factor < 1.6 for factor in (math.degrees(1.0), math.radians(1.0)))
    guess = ", which looks like degrees on one side and radians on the other" if degrees else ""
    return [Finding("error", name, f"it moves {gain:.2g} times as far{guess}", expected, _REMEDY)]
