"""Any task of `sim` as a robot on ROS topics.

    python -m ros_nodes.sim_node --ros-args -p task:=kuka_reach -p seed:=0

The robot holds its pose, and the episode waits, until the first command comes; so the same seed and the same commands
give the same episode.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from rcl_interfaces.msg import IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

from ros_nodes.commands import COMMAND_TYPES, check_type, command_qos
from ros_nodes.conversion import MESSAGE_TYPES, sensor_message
from ros_nodes.scheduling import declare_realtime, go_realtime
from ros_nodes.spinning import Spinner, run
from ros_nodes.topics import subscribe
from runtime.commands import ARRAY, read_command
from runtime.errors import GanglionError
from runtime.loop import Pacer, sleep_until
from runtime.messages import topics
from runtime.realtime import quieten_memory
from sim.env import make_env
from sim.tasks import TASKS

_SPIN_MARGIN_NS = 1_000_000
_PRIORITY = 35  # below the controller's, which a real robot would not slow down


class SimNode(Node):
    """Publishes the task's observations at its rate and obeys `command`."""

    def __init__(self) -> None:
        """Raises GanglionError for an unknown task or fault."""
        super().__init__("sim")
        task_names = ParameterDescriptor(description=f"one of {', '.join(sorted(TASKS))}", read_only=True)
        self.declare_parameter("task", "kuka_reach", task_names)
        seed = ParameterDescriptor(
            description="seed of the episode; read when an episode starts (service ~/reset)",
            integer_range=[IntegerRange(from_value=0, to_value=2**31 - 1)],
        )
        self.declare_parameter("seed", 0, seed)
        declare_realtime(self, _PRIORITY)
        faults = ParameterDescriptor(
            description="faults of sensors and body, e.g. 'lost:TARGET' or 'payload=3'; may change at any time",
            dynamic_typing=True,  # ROS gives an empty list the type of a byte array
        )
        self.declare_parameter("faults", Parameter("faults", Parameter.Type.STRING_ARRAY, []).value, faults)
        kinds = ParameterDescriptor(description=f"of the commands, one of {', '.join(COMMAND_TYPES)}", read_only=True)
        self._command_type = str(self.declare_parameter("command_type", ARRAY, kinds).value)
        check_type(self._command_type)
        self.env = make_env(str(self.get_parameter("task").value))
        task = self.env.task
        self._layout = self.env.layout
        self._set_faults(self.get_parameter("faults").value)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._topics = topics(task.observations)
        sensors = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._sensor_publishers = {
            name: self.create_publisher(MESSAGE_TYPES[message_type], name, sensors)
            for name, (message_type, _) in self._topics.items()
        }
        self._metric_publishers = {
            name: self.create_publisher(Float64, f"metrics/{name}", 10) for name in self._metric_names()
        }
        self._commands = subscribe(self, COMMAND_TYPES[self._command_type], task.action.topic, command_qos())
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._episode = 0
        go_realtime(self)
        quieten_memory()
        self._pacer = Pacer(task.rate_hz)
        self._reset()
        self.get_logger().info(f"{task.name}: {task.summary}, {task.rate_hz:g} Hz, commands on {self._commands.topic}")

    def _set_faults(self, texts: Any) -> None:
        if isinstance(texts, str):
            raise GanglionError(f"faults is '{texts}', expected a list of texts, e.g. ['lost:joint_velocity']")
        self.env.set_faults(tuple(str(text) for text in texts))

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        values = {p.name: p.value for p in parameters}
        if "faults" in values:
            try:
                self._set_faults(values["faults"])
            except GanglionError as error:
                return SetParametersResult(successful=False, reason=str(error))
            self.get_logger().info(f"faults: {', '.join(values['faults']) or 'none'}")
        return SetParametersResult(successful=True)

    def _metric_names(self) -> list[str]:
        self.env.reset(seed=0)
        return list(self.env.advance(self.env.pose())[1].metrics)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        seed = self._reset()
        response.success, response.message = True, f"episode {self._episode} with seed {seed}"
        return response

    def _reset(self) -> int:
        seed = int(self.get_parameter("seed").value)
        self.env.reset(seed=seed)
        self._commands.discard()
        self._command: np.ndarray | None = None
        self._terminated = False
        self._episode += 1
        return seed

    def _receive(self) -> None:
        action = self.env.task.action
        for message, _ in self._commands.take():
            command = read_command(message, self._command_type, action)
            if command is not None:
                self._command = command
            else:
                self.get_logger().warning(
                    f"ignored a message on {self._commands.topic}, expected {len(action.joints)} finite numbers by "
                    f"{action.kind}: {', '.join(action.joints)}",
                    throttle_duration_sec=1.0,
                )

    def _step(self) -> None:
        if self._command is None:
            return
        _, outcome = self.env.advance(self._command)
        for name, value in outcome.metrics.items():
            self._metric_publishers[name].publish(Float64(data=float(value)))
        if outcome.terminated and not self._terminated:
            self._terminated = True
            self.get_logger().warning("the episode has failed; it goes on until ~/reset")

    def _publish(self) -> None:
        values = self.env.sense()
        stamp = self.get_clock().now()
        for topic, (message_type, observations) in self._topics.items():
            readings = [(o, values[self._layout.slices[o.name]]) for o in observations]
            self._sensor_publishers[topic].publish(sensor_message(message_type, readings, stamp))

    def cycle(self, spinner: Spinner) -> None:
        """Execute services up to the next deadline, then step the physics and publish the sensors."""
        spinner.until(self._pacer.deadline_ns - _SPIN_MARGIN_NS)
        sleep_until(self._pacer.deadline_ns)
        self._pacer.begin()
        self._receive()
        self._step()
        self._publish()
        self._pacer.end()

    def close(self) -> None:
        """Disconnect from the physics."""
        self.env.close()


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run(SimNode, args)


if __name__ == "__main__":
    sys.exit(main())
