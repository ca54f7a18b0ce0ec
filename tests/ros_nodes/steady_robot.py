"""Publishes the mean readings of a task at a rate of its own, run as a process by a test."""

from __future__ import annotations

import sys

import numpy as np
from rclpy.node import Node

from ros_nodes.conversion import MESSAGE_TYPES, sensor_message
from ros_nodes.scheduling import declare_realtime, go_realtime
from ros_nodes.spinning import Spinner, run
from runtime.loop import Pacer, sleep_until
from runtime.messages import topics
from sim.tasks import task_class

STALL_NS = 4_000_000


class SteadyRobot(Node):
    """As steady as the system permits, but for the stalls that it is asked for."""

    def __init__(self) -> None:
        super().__init__("robot")
        task = task_class(str(self.declare_parameter("task", "kuka_reach").value))
        declare_realtime(self, 35)
        self._topics = topics(task.observations)
        self._robot_publishers = {
            n: self.create_publisher(MESSAGE_TYPES[k], n, 10) for n, (k, _) in self._topics.items()
        }
        self._pacer = Pacer(float(self.declare_parameter("rate_hz", 100.0).value))
        self._stall_every = int(self.declare_parameter("stall_every", 0).value)
        go_realtime(self)

    def cycle(self, spinner: Spinner) -> None:
        sleep_until(self._pacer.deadline_ns)
        self._pacer.begin()
        if self._stall_every and self._pacer.ticks % self._stall_every == 0:
            sleep_until(self._pacer.deadline_ns + STALL_NS)
        stamp = self.get_clock().now()
        for topic, (kind, observations) in self._topics.items():
            message = sensor_message(kind, [(o, np.array(o.mean)) for o in observations], stamp)
            self._robot_publishers[topic].publish(message)
        self._pacer.end()

    def close(self) -> None:
        """Nothing to leave."""


if __name__ == "__main__":
    sys.exit(run(SteadyRobot))
