"""The Franka Panda pushes a box over the floor to a goal."""

from __future__ import annotations

from collections import deque

import numpy as np

from sim.instruments import tracked_point
from sim.randomisation import Draw
from sim.robots.panda import END_EFFECTOR, PANDA, SENSORS
from sim.simulation import Box, Simulation
from sim.tasks.base import Outcome, Task
from sim.tasks.reach import joint_increments

_HALF = 0.03  # of the box's edge, m
_MIDDLE = np.array((0.5, 0.0, _HALF))
_BOX_ROOM, _GOAL_ROOM = np.array((0.06, 0.12)), np.array((0.1, 0.2))  # m either way
_SUCCESS_M = 0.04
_FLOOR_CLEARANCE = 0.03  # m, of the fingers' end
_CENTRE = (0.5, 0.0, 0.1)


class PandaPush(Task):
    """6 s to bring the box to a goal up to 20 cm away. Solved if it is within 4 cm of it in the last half second."""

    name = "panda_push"
    summary = "push a box to a goal"
    robot = PANDA
    substeps = 4
    episode_steps = 600
    boxes = (Box("box", (_HALF,) * 3, mass=0.2),)
    sensors = (
        *SENSORS,
        tracked_point("end_effector", lambda sim, task: sim.link_position(END_EFFECTOR), _CENTRE, 0.2, 0.001),
        tracked_point("box", lambda sim, task: sim.box_position("box"), _CENTRE, 0.2, 0.002),
        tracked_point("goal", lambda sim, task: task.goal, _CENTRE, 0.2, 0.0, 0.25, required=True),  # type: ignore[attr-defined]
    )
    action = joint_increments(PANDA)
    randomisation = (Draw("friction", 0.3, 1.0), Draw("sensor_noise", 0.5, 2.0))

    def __init__(self) -> None:
        self.goal = _MIDDLE.copy()
        self._home = np.array(PANDA.home)
        self._errors: deque[float] = deque(maxlen=50)

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        sim.reset(self._home + rng.uniform(-0.1, 0.1, len(self._home)))
        start = _MIDDLE.copy()
        start[:2] += _BOX_ROOM * rng.uniform(-1, 1, 2)
        sim.place_box("box", start, rng.uniform(-np.pi, np.pi))
        self.goal = _MIDDLE.copy()
        self.goal[:2] += _GOAL_ROOM * rng.uniform(-1, 1, 2)
        self._errors.clear()

    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Nothing moves but the robot and the box."""

    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        box, hand = sim.box_position("box"), sim.link_position(END_EFFECTOR)
        error = float(np.linalg.norm((box - self.goal)[:2]))
        self._errors.append(error)
        behind = box + (_HALF + 0.03) * (box - self.goal) / max(error, 1e-3) * (1.0, 1.0, 0.0)
        behind[2] = _FLOOR_CLEARANCE
        gap = float(np.linalg.norm(hand - behind))
        reward = (
            np.exp(-error / 0.05) - 2.0 * error - 0.5 * gap * (error > _SUCCESS_M / 2) - 0.02 * float(action @ action)
        )
        success = max(self._errors) < _SUCCESS_M
        return Outcome(float(reward), terminated=False, success=success, metrics={"box_error_m": error})
