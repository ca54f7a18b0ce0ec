"""The Unitree A1 tracks a commanded planar velocity and yaw rate."""

from __future__ import annotations

import math

import numpy as np

from runtime.limits import within
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


def _near(error: float, width: float) -> float:
    """1 without error, 1/e at `width`."""
    return math.exp(-((error / width) ** 2))


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
    rough = (
        Draw("friction", 0.25, 1.2),
        Draw("payload", 0.0, 5.0),
        Draw("motor_strength", 0.7, 1.1),
        Draw("command_delay", 0.0, 0.01),
        Draw("sensor_noise", 0.5, 1.5),
        Draw("push", 5.0, 22.0),
        Draw("push_pause", 1.75, 1.75),
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
        self._errors = np.zeros((_CYCLE_TICKS, 3))

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        sim.reset(_HOME + rng.uniform(-0.05, 0.05, _N), heading=rng.uniform(-np.pi, np.pi))
        self._tick = 0
        self.command = np.zeros(3)
        self._goal = self._draw(rng)
        self._previous[:] = 0.0
        self._errors[:] = 0.0

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        speed, way = rng.uniform(0.0, _MAX_SPEED), rng.uniform(0.0, 2 * np.pi)
        return np.array((speed * np.cos(way), speed * np.sin(way), rng.uniform(-_MAX_YAW_RATE, _MAX_YAW_RATE)))

    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        self._tick += 1
        if self._tick % _COMMAND_TICKS == 0:
            self._goal = self._draw(rng)
        most = _SLEW / self.rate_hz
        self.command = self.command + within(self._goal - self.command, -most, most)

    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        base = sim.base_state()
        up = base.rotation[2]  # the vertical, in the base's frame
        x, y, z = base.rotation @ base.velocity
        ahead = math.hypot(base.rotation[0, 0], base.rotation[1, 0])
        cosine, sine = base.rotation[0, 0] / ahead, base.rotation[1, 0] / ahead  # of the heading
        turning = (base.rotation @ base.angular_velocity)[2]
        error = np.array((cosine * x + sine * y, cosine * y - sine * x, turning)) - self.command
        self._errors[self._tick % _CYCLE_TICKS] = error
        cycle = self._errors.mean(0)
        speed, speed_cycle = math.hypot(error[0], error[1]), math.hypot(cycle[0], cycle[1])
        yaw, yaw_cycle = abs(float(error[2])), abs(float(cycle[2]))
        height = float(base.position[2])
        fallen = bool(height < FALLEN_HEIGHT or up[2] < FALLEN_UP)
        rolling, change = base.angular_velocity[:2], action - self._previous
        reward = (
            0.4 * _near(speed, 0.3)
            + 0.6 * _near(speed, 0.1)
            + 0.8 * 0.06 / (0.06 + speed_cycle)
            + 0.2 * _near(yaw, 0.4)
            + 0.6 * _near(yaw, 0.08)
            + 0.2 * _near(yaw_cycle, 0.1)
            - 1.0 * up[:2] @ up[:2]
            - 0.4 * z**2
            - 0.02 * rolling @ rolling
            - 5.0 * (height - STANCE_HEIGHT) ** 2
            - 0.02 * change @ change
        )
        self._previous = action.copy()
        metrics = {
            "velocity_error_m_s": speed,
            "velocity_error_cycle_m_s": speed_cycle,
            "yaw_rate_error_rad_s": yaw,
            "yaw_rate_error_cycle_rad_s": yaw_cycle,
        }
        return Outcome(float(reward), fallen, success=not fallen, metrics=metrics)
