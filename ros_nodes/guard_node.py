"""The guard of a controller: it commands the safe action when the controller is stuck, paused or gone.

A process of its own, which the controller starts. It ends with the controller; if the controller has died while it
commanded, it goes on in its place until another controller publishes on the topic or it is told to end (SIGTERM).
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import fields
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from ros_nodes.commands import COMMAND_TYPES, CommandFormat, CommandMessage, command_qos
from ros_nodes.scheduling import declare_realtime, go_realtime
from ros_nodes.topics import overriding
from runtime.guard import Guard, Heartbeat

_SUCCESSOR_NS = 500_000_000


class GuardNode(Node):
    """Watches the heartbeat in the memory `fd` that its parent, the controller, has left it."""

    def __init__(self) -> None:
        super().__init__("guard")
        declare_realtime(self, 0)
        fd, controller, topic, timeout_ms = (self._given(n) for n in ("fd", "controller", "topic", "timeout_ms"))
        form = CommandFormat(**{f.name: self._given(f.name) for f in fields(CommandFormat)})
        self.heartbeat = Heartbeat(len(form.joints), fd)
        self.guard = Guard(self.heartbeat, round(timeout_ms * 1e6))
        self._command = CommandMessage(form, self.get_clock())
        self._publisher = self.create_publisher(
            COMMAND_TYPES[form.message_type], topic, command_qos(), qos_overriding_options=overriding()
        )
        self._simulated = self.get_parameter("use_sim_time").value
        self._controller = os.pidfd_open(controller)
        self._known: set[bytes] = set()
        self._next_ns = 0
        self.ended = False
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's, which ends its guard
        go_realtime(self)
        self.heartbeat.ready = True

    def _given(self, name: str) -> Any:
        return self.declare_parameter(name, descriptor=ParameterDescriptor(dynamic_typing=True)).value

    def _end(self, *_: object) -> None:
        self.ended = True

    def run(self) -> None:
        """Until there is nothing left to guard."""
        lives, was_tripped = True, False
        while not self.ended:
            now_ns = time.monotonic_ns()
            safe = self.guard.look(now_ns, lives)
            if safe is not None:
                if self._simulated:
                    rclpy.spin_once(self, timeout_sec=0)  # the newest time on /clock, for the stamp
                self._publisher.publish(self._command.fill(safe))
            if self.guard.tripped != was_tripped:
                was_tripped = self.guard.tripped
                self._tell(now_ns, lives)
            if lives:
                lives = not select.select([self._controller], [], [], self.guard.rest_s(now_ns))[0]
                continue
            if safe is None or self._succeeded(now_ns):
                return
            time.sleep(self.guard.rest_s(now_ns))

    def _tell(self, now_ns: int, lives: bool) -> None:
        if not self.guard.tripped:
            self.get_logger().warning("the controller ticks again and commands itself")
            return
        what = "has not ticked" if lives else "is gone and did not tick"
        silent_ms = (now_ns - self.heartbeat.last_ns) * 1e-6
        self.get_logger().error(f"the controller {what} for {silent_ms:.0f} ms: the guard commands the safe action")

    def _succeeded(self, now_ns: int) -> bool:
        """Whether somebody has begun to publish commands since the controller was gone."""
        if now_ns < self._next_ns:
            return False
        self._next_ns = now_ns + _SUCCESSOR_NS
        found = {bytes(p.endpoint_gid) for p in self.get_publishers_info_by_topic(self._publisher.topic_name)}
        new = found - self._known if self._known else set()
        self._known |= found  # that of the dead controller among them: DDS takes a while to miss it
        return bool(new)


def main() -> None:
    """Run the node; its parent is the controller."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = GuardNode()
    node.run()
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
