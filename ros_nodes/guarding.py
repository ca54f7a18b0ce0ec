"""The controller's side of its guard: the process, and the heartbeat."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rclpy.node import Node

from ros_nodes.commands import CommandFormat
from ros_nodes.scheduling import CORES
from ros_nodes.session import arguments
from runtime.errors import GanglionError
from runtime.guard import Heartbeat

_ROOT = Path(__file__).resolve().parents[1]
_START_S = 10.0
_END_S = 2.0


class Guarding:
    """A guard process; see `ros_nodes.guard_node`."""

    def __init__(self, node: Node, topic: str, form: CommandFormat, timeout_ms: float) -> None:
        """Of `node`, which sends commands of the `form` on the whole name `topic`, as its QoS parameters tell.

        Its priority is one above ours and every core is open to it, so that it comes in when we keep ours busy. Raises
        GanglionError if the process does not start.
        """
        priority = 0
        if os.sched_getscheduler(0) == os.SCHED_FIFO:
            priority = min(os.sched_getparam(0).sched_priority + 1, 99)
        self._heartbeat = Heartbeat(len(form.joints))
        fd = self._heartbeat.fd
        parameters = {
            "fd": fd, "controller": os.getpid(), "topic": topic, "timeout_ms": timeout_ms,
            "realtime_priority": priority, "cpus": list(CORES), "lock_memory": False,
        }  # fmt: skip
        parameters["use_sim_time"] = node.get_parameter("use_sim_time").value
        qos = f"qos_overrides.{topic}.publisher"
        parameters |= {f"{qos}.{name}": p.value for name, p in node.get_parameters_by_prefix(qos).items()}
        remaps = {"__node": f"{node.get_name()}_guard", "__ns": node.get_namespace()}
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ros_nodes.guard_node", *arguments(parameters | asdict(form), remaps)],
            pass_fds=[fd], stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        end = time.monotonic() + _START_S
        while not self._heartbeat.ready:
            if time.monotonic() > end or not self.alive:
                self.close()
                raise GanglionError(f"the guard did not start within {_START_S:g} s; its own message is above")
            time.sleep(0.01)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def took_over(self) -> bool:
        """Whether the guard has commanded since the last time that this was asked."""
        if not self._heartbeat.tripped:
            return False
        self._heartbeat.tripped = False
        return True

    def beat(self, safe: np.ndarray) -> None:
        """A tick is done, after which `safe` (A,) would be the safe action."""
        self._heartbeat.beat(time.monotonic_ns(), safe)

    def disarm(self) -> None:
        """Nothing is commanded any more."""
        self._heartbeat.disarm()

    def close(self) -> None:
        """End the process."""
        self._heartbeat.disarm()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._process.kill()
        self._process.wait()
        self._heartbeat.close()
