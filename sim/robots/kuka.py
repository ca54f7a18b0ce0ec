"""The KUKA LBR iiwa of pybullet_data: seven joints, limits from its URDF, speeds from the data sheet's order."""

from sim.instruments import encoders, joint_speeds
from sim.robots.base import Joint, Robot, View

_LIMITS = (2.967, 2.094, 2.967, 2.094, 2.967, 2.094, 3.054)
_HOME = (0.0, 0.4, 0.0, -1.3, 0.0, 1.0, 0.0)

END_EFFECTOR = "lbr_iiwa_link_7"
KUKA = Robot(
    name="kuka_iiwa",
    urdf="kuka_iiwa/model.urdf",
    fixed_base=True,
    joints=tuple(
        Joint(f"lbr_iiwa_joint_{i + 1}", low=-limit, high=limit, max_velocity=1.5, max_effort=300.0, home=home)
        for i, (limit, home) in enumerate(zip(_LIMITS, _HOME))
    ),
    payload_link=END_EFFECTOR,
    view=View(distance=2.0, yaw=50.0, pitch=-20.0, target=(0.3, 0.0, 0.5)),
)

SENSORS = (
    encoders(KUKA.joints, scale=(0.5,) * 7, noise=0.002, min_valid=3),
    joint_speeds(KUKA.joints, scale=(0.5,) * 7, noise=0.01, largest=(20.0,) * 7),
)
