"""The least that a rclpy node can do with joint states: every message's first positions come back as a command.

    python -m benchmarks.ros_echo --ros-args -p joints:=12 -p polled:=false

Either in the callback of an executor, as rclpy nodes are written, or `polled` from a wait set of its own. It has the
scheduling of the controller node, and stands beside it in `benchmarks.ros_latency`.
"""

from __future__ import annotations

import sys
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from ros_nodes.polling import PolledSubscription, Waiter
from ros_nodes.scheduling import declare_realtime, go_realtime
from ros_nodes.sensors import sensor_qos
from ros_nodes.spinning import StopRequest
from runtime.realtime import quieten_memory

_PRIORITY = 40
_LOOK_NS = 100_000_000


def main() -> int:
    """Echo until SIGINT or SIGTERM."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = StopRequest()
    node = Node("echo")
    declare_realtime(node, _PRIORITY)
    joints = int(node.declare_parameter("joints", 1).value)
    polled = bool(node.declare_parameter("polled", False).value)
    publisher = node.create_publisher(Float64MultiArray, "command", 1)

    def answer(message: JointState) -> None:
        publisher.publish(Float64MultiArray(data=message.position[:joints]))

    if polled:
        topic = PolledSubscription(node, JointState, "joint_states", sensor_qos())
        waiter = Waiter(node, [topic])
        go_realtime(node)
        quieten_memory()
        while not stop.requested:
            waiter.until(time.monotonic_ns() + _LOOK_NS)
            for message, _ in topic.take():
                answer(message)
    else:
        node.create_subscription(JointState, "joint_states", answer, sensor_qos())
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        go_realtime(node)
        quieten_memory()
        while not stop.requested:
            executor.spin_once(timeout_sec=_LOOK_NS * 1e-9)
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
