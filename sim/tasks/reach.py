"""An arm's end effector follows a target that jumps and drifts: what the reach tasks have in common."""

from __future__ import annotations

import math
from collections import deque
from typing import ClassVar

import numpy as np

from runtime.contract import Action
from sim.instruments import tracked_point
from sim.robots.base import Robot
from sim.sensors import Sensor
from sim.simulation import Simulation
from sim.tasks.base import Outcome, Task

_DRIFT = 0.05  # m/s, largest speed of the drift per axis
_JUMP_STEPS = 200
_SUCCESS_M = 0.02


def joint_increments(robot: Robot, rate_hz: float = 100.0) -> Action:
    """Positions of every joint, changed by at most its speed in every tick."""
    rate = tuple(j.max_velocity for j in robot.joints)
    return Action(
        kind="position", mode="increment", topic="command", joints=robot.joint_names, unit="rad",
        scale=tuple(r / rate_hz for r in rate), offset=(0.0,) * len(rate), low=tuple(j.low for j in robot.joints),
        high=tuple(j.high for j in robot.joints), max_rate=rate, safe="hold",
    )  # fmt: skip


def reach_sensors(end_effector: str, centre: np.ndarray) -> tuple[Sensor, Sensor]:
    """The tracked end effector and the target."""
    middle = (float(centre[0]), float(centre[1]), float(centre[2]))
    return (
        tracked_point("end_effector", lambda sim, task: sim.link_position(end_effector), middle, 0.2, 0.002),
        tracked_point("target", lambda sim, task: task.target, middle, 0.2, 0.0, 0.25, required=True),  # type: ignore[attr-defined]
    )


class Reach(Task):
    """400 ticks: a jump and drift for two seconds, then a jump to a target that is held.

    Solved if the mean distance to the held target over the last half second is under 2 cm.
    """

    summary = "end effector follows a target that jumps and drifts"
    substeps = 2
    episode_steps = 400
    end_effector: ClassVar[str]
    centre: ClassVar[np.ndarray]
    """Of the targets (3,), m."""
    half: ClassVar[np.ndarray]
    """Half of the width of the box of targets (3,), m."""

    def __init__(self) -> None:
        self.target = self.centre.copy()
        self._home = np.array(self.robot.home)
        self._drift = np.zeros(3)
        self._tick = 0
        self._errors: deque[float] = deque(maxlen=50)

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        sim.reset(self._home + rng.uniform(-0.3, 0.3, len(self._home)))
        self._tick = 0
        self._errors.clear()
        self._jump(rng, held=False)

    def _jump(self, rng: np.random.Generator, held: bool) -> None:
        self.target = self.centre + self.half * rng.uniform(-1, 1, 3)
        self._drift = np.zeros(3) if held else rng.uniform(-_DRIFT, _DRIFT, 3)

    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        if self._tick > 0 and self._tick % _JUMP_STEPS == 0:
            self._jump(rng, held=(self._tick // _JUMP_STEPS) % 2 == 1)
            self._errors.clear()
        self._tick += 1
        moved = self.target + self._drift / self.rate_hz
        outside = np.abs(moved - self.centre) > self.half
        if outside.any():
            self._drift = np.where(outside, -self._drift, self._drift)
            moved = np.where(outside, self.target, moved)
        self.target = moved

    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        away = sim.link_position(self.end_effector) - self.target
        error = math.sqrt(away @ away)
        self._errors.append(error)
        close = math.exp(-((error / 0.05) ** 2)) + math.exp(-error / 0.01)  # the second rewards the last millimetre too
        posture = sim.joint_states()[0] - self._home  # more joints than coordinates: the rest should stay near home
        reward = float(0.5 * close - 2.0 * error - 0.02 * posture @ posture - 0.05 * action @ action)
        success = sum(self._errors) / len(self._errors) < _SUCCESS_M
        return Outcome(reward, terminated=False, success=success, metrics={"tracking_error_m": error})
