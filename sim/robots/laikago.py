"""The Unitree Laikago of pybullet_data, the A1's elder and heavier sister. Its URDF has no limits; these are ours."""

from __future__ import annotations

from sim.instruments import encoders, foot_forces, imu_angular_velocity, imu_gravity, joint_speeds
from sim.robots.base import Joint, PDDrive, Robot, View

LEGS = ("FR", "FL", "RR", "RL")
_JOINTS = (
    # name in the URDF, low, high, home, rad
    ("hip_motor_2_chassis_joint", -0.8, 0.8, 0.0),
    ("upper_leg_2_hip_motor_joint", -1.0, 1.2, 0.07),
    ("lower_leg_2_upper_leg_joint", -1.8, 0.1, -0.59),
)
LAIKAGO = Robot(
    name="unitree_laikago",
    urdf="laikago/laikago_toes_zup.urdf",
    fixed_base=False,
    joints=tuple(
        Joint(f"{leg}_{name}", low, high, max_velocity=20.0, max_effort=40.0, home=home)
        for leg in LEGS
        for name, low, high, home in _JOINTS
    ),
    drive=PDDrive(stiffness=150.0, damping=3.0, no_load_speed=20.0),
    height=0.5,
    feet=tuple(f"{leg}_lower_leg" for leg in LEGS),
    view=View(distance=1.8, target=(0.0, 0.0, 0.35)),
)
SENSORS = (
    encoders(LAIKAGO.joints, scale=(0.3,) * 12, noise=0.01, quantum=0.001, margin=0.2, min_valid=6),
    joint_speeds(LAIKAGO.joints, scale=(4.0,) * 12, noise=0.3, largest=(50.0,) * 12),
    imu_gravity(noise=0.01),
    imu_angular_velocity(noise=0.05, bias=0.01, bias_walk=0.002),
    foot_forces(LAIKAGO.feet, noise=2.0, scale=80.0),
)
