"""The Unitree A1 tracks a commanded planar velocity and yaw rate."""

from __future__ import annotations

import numpy as np

from sim.instruments import planar_command
from sim.randomisation import Draw
from sim.robots.a1 import A1, ENCODERS, IMU, STANCE_HEIGHT
from sim.simulation import Simulation
from sim.tasks.a1_stand import FALLEN_HEIGHT, FALLEN_UP, joint_targets
from sim.tasks.base import Outcome, Task

_N = len(A1.joints)
_HOME = np.array(A1.home)
_MAX_SPEED, _MAX_YAW_RATE = 0.6, 0.6  # m/s, rad/s
_SLEW = np.array((1.5, 1.5, 2.0))  # m/s², rad/s²: how fast the command changes
_COMMAND_TICKS = 500
_CYCLE_TICKS = 33  # of a gait of 3 Hz


class A1Walk(Task):
    """10 s at commands up to 0.6 m/s in any direction and 0.6 rad/s; a new one after 5 s, reached at 1.5 m/s².

    Solved if the robot has not fallen: base above 0.16 m, tilt below 45°.
    """

    name = "a1_walk"
    summary = "walk at a commanded planar velocity and yaw rate"
    robot = A1
    substeps = 5
    episode_steps = 1000
    sensors = (*ENCODERS, *IMU, planar_command(lambda sim, task: task.command, scale=0.5))  # type: ignore[attr-defined]
    action = joint_targets((0.6, 1.0, 1.0))
    judged = slice(100, None)
    randomisation = (
        Draw("friction", 0.4, 1.2),
        Draw("payload", 0.0, 3.0),
        Draw("motor_strength", 0.8, 1.1),
        Draw("sensor_noise", 0.5, 1.5),
        Draw("push", 10.0, 10.0),
    )
    hard = (
        Draw("friction", 0.25, 1.2),
        Draw("payload", 0.0, 5.0),
        Draw("motor_strength", 0.7, 1.1),
        Draw("command_delay", 0.01, 0.01),
        Draw("sensor_noise", 0.5, 1.5),
        Draw("push", 20.0, 20.0),
    )

    def __init__(self) -> None:
        self.command = np.zeros(3)
        """Commanded vx, vy in m/s and yaw rate in rad/s, in the base's frame, turned about the vertical."""
        self._goal = np.zeros(3)
        self._tick = 0
        self._previous = np.zeros(_N)
        self._velocities = np.zeros((_CYCLE_TICKS, 3))
        self._commands = np.zeros((_CYCLE_TICKS, 3))

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        sim.reset(_HOME + rng.uniform(-0.05, 0.05, _N), heading=rng.uniform(-np.pi, np.pi))
        self._tick = 0
        self.command = np.zeros(3)
        self._goal = self._draw(rng)
        self._previous[:] = 0.0
        self._velocities[:] = self._commands[:] = 0.0

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        speed, way = rng.uniform(0.0, _MAX_SPEED), rng.uniform(0.0, 2 * np.pi)
        return np.array((speed * np.cos(way), speed * np.sin(way), rng.uniform(-_MAX_YAW_RATE, _MAX_YAW_RATE)))

    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        self._tick += 1
        if self._tick % _COMMAND_TICKS == 0:
            self._goal = self._draw(rng)
        most = _SLEW / self.rate_hz
        self.command = self.command + np.clip(self._goal - self.command, -most, most)

    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        base = sim.base_state()
        up = base.rotation[2]  # the vertical, in the base's frame
        heading = np.arctan2(base.rotation[1, 0], base.rotation[0, 0])
        world = base.rotation @ base.velocity
        turn = np.array(((np.cos(heading), np.sin(heading)), (-np.sin(heading), np.cos(heading))))
        planar = np.array((*(turn @ world[:2]), (base.rotation @ base.angular_velocity)[2]))
        row = self._tick % _CYCLE_TICKS
        self._velocities[row], self._commands[row] = planar, self.command
        error = planar - self.command
        cycle = (self._velocities - self._commands).mean(0)
        speed_error, yaw_error = float(np.hypot(*error[:2])), float(abs(error[2]))
        fallen = bool(base.position[2] < FALLEN_HEIGHT or up[2] < FALLEN_UP)
        roll_rate = base.angular_velocity[:2]
        reward = (
            0.4 * np.exp(-((speed_error / 0.3) ** 2))
            + 0.6 * np.exp(-((speed_error / 0.1) ** 2))
            + 0.4 * np.exp(-((np.hypot(*cycle[:2]) / 0.06) ** 2))
            + 0.2 * np.exp(-((yaw_error / 0.4) ** 2))
            + 0.3 * np.exp(-((yaw_error / 0.1) ** 2))
            + 0.2 * np.exp(-((cycle[2] / 0.1) ** 2))
            - 1.0 * up[:2] @ up[:2]
            - 0.4 * world[2] ** 2
            - 0.02 * roll_rate @ roll_rate
            - 5.0 * (base.position[2] - STANCE_HEIGHT) ** 2
            - 0.02 * float(np.square(action - self._previous).sum())
        )
        self._previous = action.copy()
        metrics = {
            "velocity_error_m_s": speed_error,
            "velocity_error_cycle_m_s": float(np.hypot(*cycle[:2])),
            "yaw_rate_error_rad_s": yaw_error,
            "yaw_rate_error_cycle_rad_s": float(abs(cycle[2])),
        }
        return Outcome(float(reward), fallen, success=not fallen, metrics=metrics)
