"""The Unitree A1 keeps standing while it is pushed."""

from __future__ import annotations

import numpy as np

from runtime.contract import Action
from sim.randomisation import Draw
from sim.robots.a1 import A1, ACCELEROMETER, ENCODERS, FEET, IMU, STANCE_HEIGHT
from sim.simulation import Simulation
from sim.tasks.base import Outcome, Task

_N = len(A1.joints)
_HOME = np.array(A1.home)
FALLEN_HEIGHT = 0.16
"""Of the base, m."""
FALLEN_UP = float(np.cos(np.deg2rad(45.0)))
"""Cosine of the tilt at which the robot counts as fallen."""


def joint_targets(scale: tuple[float, float, float]) -> Action:
    """Positions of all joints around the home pose; `scale` of hip, thigh and knee, rad."""
    return Action(
        kind="position", mode="absolute", topic="command", joints=A1.joint_names, unit="rad", scale=scale * 4,
        offset=A1.home, low=tuple(j.low for j in A1.joints), high=tuple(j.high for j in A1.joints),
        max_rate=tuple(j.max_velocity for j in A1.joints), safe="hold",
    )  # fmt: skip


class A1Stand(Task):
    """10 s of standing still, pushed every few seconds.

    Solved if the robot has not fallen (base above 0.16 m, tilt below 45°) and ends upright and still.
    """

    name = "a1_stand"
    summary = "keep balance and recover from pushes"
    robot = A1
    substeps = 5
    episode_steps = 1000
    sensors = (*ENCODERS, *IMU, ACCELEROMETER, FEET)
    action = joint_targets((0.4, 0.6, 0.6))
    randomisation = (
        Draw("friction", 0.4, 1.2),
        Draw("payload", 0.0, 3.0),
        Draw("motor_strength", 0.8, 1.1),
        Draw("push", 5.0, 15.0),
    )

    def __init__(self) -> None:
        self._previous = np.zeros(_N)

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        sim.reset(_HOME + rng.uniform(-0.1, 0.1, _N), heading=rng.uniform(-np.pi, np.pi))
        self._previous[:] = 0.0

    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Nothing is commanded."""

    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        base = sim.base_state()
        up, height = base.rotation[2], float(base.position[2])
        speed = float(np.linalg.norm(base.velocity))
        fallen = bool(height < FALLEN_HEIGHT or up[2] < FALLEN_UP)
        posture = sim.joint_states()[0] - _HOME
        change = action - self._previous
        reward = (
            np.exp(-((speed / 0.3) ** 2)) + 0.5 * np.exp(-((height - STANCE_HEIGHT) ** 2) / 0.05**2)
            - 2.0 * up[:2] @ up[:2] - 0.05 * posture @ posture - 0.02 * change @ change
        )  # fmt: skip
        self._previous = action.copy()
        tilt = float(np.arccos(np.clip(up[2], -1.0, 1.0)))
        still = tilt < 0.2 and speed < 0.3 and height > 0.8 * STANCE_HEIGHT
        metrics = {"tilt_rad": tilt, "speed_m_s": speed, "height_m": height}
        return Outcome(0.0 if fallen else float(reward), fallen, success=still and not fallen, metrics=metrics)
