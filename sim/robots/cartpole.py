"""The cart-pole of pybullet_data: a cart on a rail, pushed by a force, with a passive pole."""

from sim.robots.base import Joint, Robot

CARTPOLE = Robot(
    name="cartpole",
    urdf="cartpole.urdf",
    fixed_base=True,
    joints=(
        Joint("slider_to_cart", low=-15.0, high=15.0, max_velocity=5.0, max_effort=10.0),
        Joint("cart_to_pole", low=-3.1416, high=3.1416, max_velocity=20.0, max_effort=0.0),
    ),
    payload_link="pole",
)
