"""The Clearpath Husky of pybullet_data: four wheels, those of a side on one belt, that skid when it turns."""

from __future__ import annotations

from sim.instruments import imu_angular_velocity, joint_speeds
from sim.robots.base import Joint, Robot, View

WHEELS = ("front_left_wheel", "front_right_wheel", "rear_left_wheel", "rear_right_wheel")
SIDES = WHEELS[:2]
"""The wheels that are commanded."""
WHEEL_RADIUS = 0.1651  # m
MAX_SPEED = 1.0  # m/s
_TURNS = 1e6  # rad; wheels have no end

HUSKY = Robot(
    name="clearpath_husky",
    urdf="husky/husky.urdf",
    fixed_base=False,
    joints=tuple(
        Joint(name, low=-_TURNS, high=_TURNS, max_velocity=MAX_SPEED / WHEEL_RADIUS, max_effort=30.0) for name in WHEELS
    ),
    belts=(("rear_left_wheel", "front_left_wheel"), ("rear_right_wheel", "front_right_wheel")),
    height=0.01,
    feet=tuple(f"{name}_link" for name in WHEELS),
    sideways_grip=0.1,  # with more, PyBullet's friction lets it turn in some headings and not in others
    view=View(distance=3.0, pitch=-30.0, target=(0.0, 0.0, 0.2)),
)
SENSORS = (
    joint_speeds(HUSKY.joints, scale=(4.0,) * 4, noise=0.05, largest=(30.0,) * 4),
    imu_angular_velocity(noise=0.02, bias=0.005, bias_walk=0.001),
)
