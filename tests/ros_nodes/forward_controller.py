"""What a forward command controller of ros2_control shows of itself: a subscription, and its joints as a parameter.

It also offers to publish a `Point`, on a topic that a test may call as one that the contract has of another type.
"""

from __future__ import annotations

import sys

from geometry_msgs.msg import Point
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray

from ros_nodes.spinning import Spinner, run
from runtime.loop import Pacer


class ForwardController(Node):
    """Obeys nothing."""

    def __init__(self) -> None:
        super().__init__("forward_controller")
        self.declare_parameter("joints", Parameter.Type.STRING_ARRAY)
        self.declare_parameter("interface_name", Parameter.Type.STRING)
        self.create_subscription(Float64MultiArray, "command", lambda message: None, 1)
        self.create_publisher(Point, "tool", 1)
        self._pacer = Pacer(50.0)

    def cycle(self, spinner: Spinner) -> None:
        spinner.until(self._pacer.deadline_ns)
        self._pacer.end()

    def close(self) -> None:
        """Nothing is held."""


if __name__ == "__main__":
    sys.exit(run(ForwardController))
