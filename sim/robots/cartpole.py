"""The cart-pole of pybullet_data: a cart on a rail, pushed by a force, with a passive pole."""

from sim.instruments import encoders, joint_speeds
from sim.robots.base import Joint, Robot, View

CARTPOLE = Robot(
    name="cartpole",
    urdf="cartpole.urdf",
    fixed_base=True,
    joints=(
        Joint("slider_to_cart", low=-15.0, high=15.0, max_velocity=5.0, max_effort=10.0),
        Joint("cart_to_pole", low=-3.1416, high=3.1416, max_velocity=20.0, max_effort=0.0),
    ),
    payload_link="pole",
    view=View(distance=2.5, yaw=0.0, pitch=-10.0, target=(0.0, 0.0, 0.4)),
)

SENSORS = (
    encoders(CARTPOLE.joints, scale=(1.0, 0.2), noise=0.002, margin=0.0, min_valid=1, unit="m, rad"),
    joint_speeds(CARTPOLE.joints, scale=(1.0, 1.0), noise=0.02, largest=(20.0, 40.0), unit="m/s, rad/s"),
)
