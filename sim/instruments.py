"""The usual instruments of a robot, as sensors: encoders, an inertial measurement unit, feet, tracked points."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from runtime.contract import Observation
from sim.robots.base import Joint
from sim.sensors import Sensor
from sim.simulation import Simulation

_AXES = ("x", "y", "z")
_STALE_S = 0.05  # five ticks at 100 Hz


def encoders(
    joints: tuple[Joint, ...], scale: tuple[float, ...], noise: float, quantum: float = 0.0, margin: float = 0.1,
    min_valid: int = 0, unit: str = "rad",
) -> Sensor:  # fmt: skip
    """Positions of `joints`, all of the robot's, within `margin` of their limits; normalised by the home pose."""
    n = len(joints)
    observation = Observation(
        name="joint_position", kind="joint_position", topic="joint_states", channels=tuple(j.name for j in joints),
        unit=unit, mean=tuple(j.home for j in joints), scale=scale, low=tuple(j.low - margin for j in joints),
        high=tuple(j.high + margin for j in joints), max_age_s=_STALE_S, min_valid=min_valid,
    )  # fmt: skip
    return Sensor(observation, lambda sim, task: sim.joint_states()[0], noise=(noise,) * n, quantum=quantum)


def joint_speeds(
    joints: tuple[Joint, ...], scale: tuple[float, ...], noise: float, largest: tuple[float, ...], unit: str = "rad/s"
) -> Sensor:
    """Measured velocities of `joints`, all of the robot's."""
    n = len(joints)
    observation = Observation(
        name="joint_velocity", kind="joint_velocity", topic="joint_states", channels=tuple(j.name for j in joints),
        unit=unit, mean=(0.0,) * n, scale=scale, low=tuple(-v for v in largest), high=largest, max_age_s=_STALE_S,
        min_valid=0,
    )  # fmt: skip
    return Sensor(observation, lambda sim, task: sim.joint_states()[1], noise=(noise,) * n)


def imu_gravity(noise: float, scale: float = 0.2) -> Sensor:
    """Direction of gravity in the base's frame, which an IMU's orientation tells whatever the heading."""
    observation = Observation(
        name="gravity", kind="gravity", topic="imu", channels=_AXES, unit="1", mean=(0.0, 0.0, -1.0),
        scale=(scale,) * 3, low=(-1.01,) * 3, high=(1.01,) * 3, max_age_s=_STALE_S, min_valid=0,
    )  # fmt: skip
    return Sensor(observation, lambda sim, task: -sim.base_state().rotation[2], noise=(noise,) * 3, direction=True)


def imu_angular_velocity(noise: float, bias: float, bias_walk: float, scale: float = 1.0) -> Sensor:
    """Gyro, in the base's frame."""
    observation = Observation(
        name="angular_velocity", kind="angular_velocity", topic="imu", channels=_AXES, unit="rad/s", mean=(0.0,) * 3,
        scale=(scale,) * 3, low=(-35.0,) * 3, high=(35.0,) * 3, max_age_s=_STALE_S, min_valid=0,
    )  # fmt: skip
    return Sensor(
        observation, lambda sim, task: sim.base_state().angular_velocity, noise=(noise,) * 3, bias=bias,
        bias_walk=bias_walk,
    )  # fmt: skip


def imu_linear_acceleration(noise: float, bias: float, bias_walk: float, scale: float = 5.0) -> Sensor:
    """Accelerometer, in the base's frame; at rest it reads +9.81 upwards."""
    observation = Observation(
        name="linear_acceleration", kind="linear_acceleration", topic="imu", channels=_AXES, unit="m/s²",
        mean=(0.0, 0.0, 9.81), scale=(scale,) * 3, low=(-160.0,) * 3, high=(160.0,) * 3, max_age_s=_STALE_S,
        min_valid=0,
    )  # fmt: skip
    return Sensor(
        observation, lambda sim, task: sim.specific_force(), noise=(noise,) * 3, bias=bias, bias_walk=bias_walk
    )


def foot_forces(feet: tuple[str, ...], noise: float, scale: float) -> Sensor:
    """Normal force of the ground on every foot."""
    n = len(feet)
    observation = Observation(
        name="foot_force", kind="joint_effort", topic="foot_forces", channels=feet, unit="N", mean=(0.0,) * n,
        scale=(scale,) * n, low=(-100.0,) * n, high=(2000.0,) * n, max_age_s=_STALE_S, min_valid=0,
    )  # fmt: skip
    return Sensor(observation, lambda sim, task: sim.foot_forces(), noise=(noise,) * n, quantum=1.0)


def tracked_point(
    name: str, read: Callable[[Simulation, object], np.ndarray], centre: tuple[float, float, float], scale: float,
    noise: float, max_age_s: float = _STALE_S, required: bool = False,
) -> Sensor:  # fmt: skip
    """A point that a camera or a planner tells, on a topic of its own name."""
    observation = Observation(
        name=name, kind="point", topic=name, channels=_AXES, unit="m", mean=centre, scale=(scale,) * 3,
        low=(-2.0, -2.0, -1.0), high=(2.0, 2.0, 2.0), max_age_s=max_age_s, min_valid=3 if required else 0,
    )  # fmt: skip
    return Sensor(observation, read, noise=(noise,) * 3)


def planar_command(read: Callable[[Simulation, object], np.ndarray], scale: float) -> Sensor:
    """Commanded vx, vy in m/s and yaw rate in rad/s."""
    observation = Observation(
        name="command", kind="planar_twist", topic="cmd_vel", channels=("vx", "vy", "wz"), unit="m/s, rad/s",
        mean=(0.0,) * 3, scale=(scale,) * 3, low=(-math.pi,) * 3, high=(math.pi,) * 3, max_age_s=0.5, min_valid=3,
    )  # fmt: skip
    return Sensor(observation, read)
