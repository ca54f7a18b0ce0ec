"""The Husky drives to a goal that its localisation tells, and stops there."""

from __future__ import annotations

from collections import deque

import numpy as np

from runtime.contract import Action, Observation
from sim.randomisation import Draw
from sim.robots.husky import HUSKY, MAX_SPEED, SENSORS, SIDES, WHEEL_RADIUS
from sim.sensors import Sensor
from sim.simulation import Simulation
from sim.tasks.base import Outcome, Task

_NEAREST, _FARTHEST = 0.1, 4.0  # m
_CARROT_M = 1.0
_SUCCESS_M = 0.15
_MAX_WHEEL = MAX_SPEED / WHEEL_RADIUS  # rad/s
_LAST_TICKS = 50


def _goal_in_base(sim: Simulation, goal: np.ndarray) -> np.ndarray:
    base = sim.base_state()
    return (goal - base.position) @ base.rotation


def _carrot(away: np.ndarray) -> np.ndarray:
    """What a path follower is given for a goal at `away` (3,), m: the goal, or the point 1 m ahead on the way to it."""
    return away * min(1.0, _CARROT_M / max(float(np.hypot(away[0], away[1])), 1e-9))


def _aside(away: np.ndarray) -> float:
    """How far a goal at `away` (2,), m in the base's frame, lies to the side: 0 ahead or behind, 1 abeam."""
    return abs(float(away[1])) / max(float(np.hypot(*away)), 0.3)


class HuskyGoto(Task):
    """12 s to a goal at 0.1 to 4 m in any direction, near ones more often.

    The robot is told where the goal is, or where the next metre of the way to it ends. Solved if the mean distance to
    the goal over the last half second is under 15 cm.
    """

    name = "husky_goto"
    summary = "drive to a goal and stop"
    robot = HUSKY
    substeps = 4
    episode_steps = 1200
    sensors = (
        *SENSORS,
        Sensor(
            Observation(
                name="goal", kind="point", topic="goal", channels=("x", "y", "z"), unit="m", mean=(0.0,) * 3,
                scale=(0.3, 0.3, 0.2), low=(-2.0,) * 3, high=(2.0,) * 3, max_age_s=0.5, min_valid=3,
            ),
            lambda sim, task: _carrot(_goal_in_base(sim, task.goal)),
            noise=(0.01,) * 3,
            latency_s=0.02,
        ),
    )  # fmt: skip
    action = Action(
        kind="velocity", mode="absolute", topic="command", joints=SIDES, unit="rad/s", scale=(_MAX_WHEEL,) * 2,
        offset=(0.0,) * 2, low=(-_MAX_WHEEL,) * 2, high=(_MAX_WHEEL,) * 2, max_rate=(30.0,) * 2, safe="zero",
    )  # fmt: skip
    randomisation = (Draw("friction", 0.5, 1.2), Draw("payload", 0.0, 40.0), Draw("motor_strength", 0.7, 1.1))

    def __init__(self) -> None:
        self.goal = np.zeros(3)
        """In the world (3,), m, on the ground."""
        self._errors: deque[float] = deque(maxlen=_LAST_TICKS)
        self._previous = np.zeros(len(SIDES))
        self._aside = 0.0

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        sim.reset(np.zeros(4), heading=rng.uniform(-np.pi, np.pi))
        way, far = rng.uniform(-np.pi, np.pi), _NEAREST + (_FARTHEST - _NEAREST) * rng.uniform() ** 2
        self.goal = np.array((far * np.cos(way), far * np.sin(way), 0.0))
        self._aside = _aside(_goal_in_base(sim, self.goal)[:2])
        self._errors.clear()
        self._previous[:] = 0.0

    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Nothing moves but the robot."""

    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        base = sim.base_state()
        away = _goal_in_base(sim, self.goal)[:2]
        error = float(np.hypot(*away))
        self._errors.append(error)
        closing = float(base.velocity[:2] @ away) / max(error, 0.1)
        # It cannot go sideways, so to turn towards the goal is worth as much as to come nearer.
        aside = _aside(away)
        turned, self._aside = self._aside - aside, aside
        change = action - self._previous
        reward = (
            0.5 * np.clip(closing, -1.0, 1.0) + 30.0 * turned + np.exp(-error / 0.1) - 0.1 * error
            - 0.02 * float(change @ change) - 0.02 * float(base.angular_velocity[2]) ** 2
        )  # fmt: skip
        self._previous = action.copy()
        success = sum(self._errors) / len(self._errors) < _SUCCESS_M
        return Outcome(float(reward), terminated=False, success=success, metrics={"distance_m": error})
