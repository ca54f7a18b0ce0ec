"""The Franka Emika Panda of pybullet_data: seven joints and a gripper that stays as it is."""

from sim.instruments import encoders, joint_speeds
from sim.robots.base import Joint, Robot, View

END_EFFECTOR = "panda_grasptarget"
_JOINTS = (
    # low, high rad, speed rad/s, effort N·m, home rad
    (-2.897, 2.897, 2.175, 87.0, 0.0),
    (-1.763, 1.763, 2.175, 87.0, -0.2),
    (-2.897, 2.897, 2.175, 87.0, 0.0),
    (-3.072, -0.070, 2.175, 87.0, -2.2),
    (-2.897, 2.897, 2.61, 12.0, 0.0),
    (-0.018, 3.752, 2.61, 12.0, 2.0),
    (-2.897, 2.897, 2.61, 12.0, 0.785),
)
PANDA = Robot(
    name="franka_panda",
    urdf="franka_panda/panda.urdf",
    fixed_base=True,
    joints=tuple(
        Joint(f"panda_joint{i + 1}", low=low, high=high, max_velocity=speed, max_effort=effort, home=home)
        for i, (low, high, speed, effort, home) in enumerate(_JOINTS)
    ),
    payload_link="panda_hand",
    view=View(distance=1.5, yaw=50.0, pitch=-25.0, target=(0.35, 0.0, 0.3)),
)
SENSORS = (
    encoders(PANDA.joints, scale=(0.5,) * 7, noise=0.001, min_valid=3),
    joint_speeds(PANDA.joints, scale=(0.5,) * 7, noise=0.01, largest=(20.0,) * 7),
)
