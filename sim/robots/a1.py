"""The Unitree A1 of pybullet_data: four legs of three joints, motors of 33.5 N·m that turn a command into effort."""

from __future__ import annotations

import math

from sim.instruments import (
    encoders,
    foot_forces,
    imu_angular_velocity,
    imu_gravity,
    imu_linear_acceleration,
    joint_speeds,
)
from sim.robots.base import Joint, PDDrive, Robot, View

LEGS = ("FR", "FL", "RR", "RL")
THIGH = SHANK = 0.2
"""Length of both links of a leg, m."""
HIP_OFFSET = 0.085
"""From the axis of the hip to the plane of the leg, m, outwards."""
HIPS = {"FR": (0.183, -0.047), "FL": (0.183, 0.047), "RR": (-0.183, -0.047), "RL": (-0.183, 0.047)}
"""Where the axes of the hips cross the base's frame, x and y, m."""
FOOT_RADIUS = 0.02
STANCE_HEIGHT = 0.28
"""Of the base's frame above the ground, m."""

_BEND = math.acos((STANCE_HEIGHT - FOOT_RADIUS) / (THIGH + SHANK))
_JOINTS = (
    # name, low, high, largest speed rad/s, home
    ("hip", -0.80, 0.80, 21.0, 0.0),
    ("upper", -1.04, 4.18, 21.0, _BEND),
    ("lower", -2.69, -0.92, 21.0, -2 * _BEND),
)

DRIVE = PDDrive(stiffness=80.0, damping=2.0, no_load_speed=21.0)

A1 = Robot(
    name="unitree_a1",
    urdf="a1/a1.urdf",
    fixed_base=False,
    joints=tuple(
        Joint(f"{leg}_{name}_joint", low, high, max_velocity=speed, max_effort=33.5, home=home)
        for leg in LEGS
        for name, low, high, speed, home in _JOINTS
    ),
    drive=DRIVE,
    height=STANCE_HEIGHT + 0.005,
    feet=tuple(f"{leg}_lower" for leg in LEGS),
    view=View(distance=1.3, yaw=35.0, pitch=-18.0, target=(0.0, 0.0, 0.2)),
)

ACROSS = tuple(A1.joint_names.index(j[0] + ("L" if j[1] == "R" else "R") + j[2:]) for j in A1.joint_names)
"""Index of the joint on the other side of each joint; hips turn the other way there."""

ENCODERS = (
    encoders(A1.joints, scale=(0.3,) * 12, noise=0.01, quantum=0.001, margin=0.2, min_valid=6),
    joint_speeds(A1.joints, scale=(4.0,) * 12, noise=0.3, largest=(50.0,) * 12),
)
IMU = (imu_gravity(noise=0.01), imu_angular_velocity(noise=0.05, bias=0.01, bias_walk=0.002))
ACCELEROMETER = imu_linear_acceleration(noise=0.2, bias=0.05, bias_walk=0.01)
FEET = foot_forces(A1.feet, noise=2.0, scale=50.0)
