"""Several ROS nodes as processes of their own, started, asked and always ended by one program."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from ros_nodes.domains import own_domain
from runtime.errors import GanglionError

_ROOT = Path(__file__).resolve().parents[1]
_GRACE_S = 5.0
_TAIL = 15
# Fast DDS repeats a lost announcement after 3 s by default, which would be most of the time that a session needs.
_FASTDDS_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <participant profile_name="session" is_default_profile="true"><rtps><builtin><discovery_config>
    <leaseAnnouncement><sec>0</sec><nanosec>200000000</nanosec></leaseAnnouncement>
  </discovery_config></builtin></rtps></participant>
</profiles>
"""
_FASTDDS_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
DEACTIVATE = Transition.TRANSITION_DEACTIVATE


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Runs in a new child: the kernel interrupts it when its parent is gone, even by SIGKILL."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class Child:
    """A module as a process; its output goes to a log file."""

    def __init__(self, module: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.module, self.log_path = module, log
        paths = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children in order
                preexec_fn=_die_with_parent,
            )

    @property
    def log(self) -> str:
        """Everything it has written."""
        return self.log_path.read_text(errors="replace")

    def check(self) -> None:
        """Raises GanglionError with its last lines if it has ended."""
        status = self.process.poll()
        if status is not None:
            lines = "\n".join(self.log.splitlines()[-_TAIL:])
            raise GanglionError(f"{self.module} ended early with status {status}; its last lines were:\n{lines}")

    def interrupt(self) -> None:
        """Ask it to end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Until it has ended, five seconds at most."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_GRACE_S)

    def kill(self) -> None:
        """End it now if it still runs, and with it whatever it started and left behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def arguments(parameters: dict[str, Any], remaps: dict[str, str] | None = None) -> list[str]:
    """Command line arguments that give a node its parameters and remapped names."""
    result = ["--ros-args"]
    for name, value in parameters.items():
        result += ["-p", f"{name}:={json.dumps(value)}"]
    for old, new in (remaps or {}).items():
        result += ["-r", f"{old}:={new}"]
    return result


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Session:
    """A node of this process and its children in a ROS domain of their own on this host; a context manager.

    While it waits it calls every function in `idle` some 200 times a second.
    """

    def __init__(self, log_dir: Path) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        domain = self._held.enter_context(own_domain())
        self.children: list[Child] = []
        self.idle: list[Callable[[], None]] = []
        self._log_dir = log_dir
        ros = self._ros_variables(domain)
        self.environment = dict(os.environ) | ros
        """Of the children."""
        self._context = Context()
        with _environment(ros):
            rclpy.init(args=[], context=self._context, domain_id=domain)
            self.node = Node("session", context=self._context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Any] = {}

    def _ros_variables(self, domain: int) -> dict[str, str]:
        result = {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(self._log_dir.absolute()),
        }
        if not any(name in os.environ for name in _FASTDDS_VARIABLES):
            profile = self._log_dir.absolute() / "fastdds.xml"
            profile.write_text(_FASTDDS_PROFILE)
            result |= dict.fromkeys(_FASTDDS_VARIABLES, str(profile))
        return result

    def start(self, module: str, parameters: dict[str, Any], remaps: dict[str, str] | None = None) -> Child:
        """Run a module of nodes as a process."""
        log = self._log_dir / f"{module.rpartition('.')[2]}.{len(self.children)}.log"
        child = Child(module, arguments(parameters, remaps), self.environment, log)
        self.children.append(child)
        return child

    def spin(self, seconds: float) -> None:
        """Let time pass. Raises GanglionError if a child ends meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._step()

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
        """Raises GanglionError if `condition` does not come true in time, or a child ends."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                tails = "\n".join(line for c in self.children for line in c.log.splitlines()[-_TAIL:])
                raise GanglionError(
                    f"waited {timeout_s:g} s in vain for {what}; the last lines of the nodes were:\n{tails}"
                )
            self._step()

    def _step(self) -> None:
        self._executor.spin_once(timeout_sec=0.005)
        for function in self.idle:
            function()
        for child in self.children:
            child.check()

    def call(self, service_type: Any, name: str, request: Any, timeout_s: float = 15.0) -> Any:
        """Call a service and return its response. Raises GanglionError if there is none in time."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service_type, name)
        client = self._clients[name]
        self.wait(client.service_is_ready, f"the service {name}")
        future = client.call_async(request)
        self.wait(future.done, f"an answer of {name}", timeout_s)
        return future.result()

    def set_parameter(self, node: str, name: str, value: Any) -> None:
        """Raises GanglionError with the node's reason if it refuses."""
        kind = Parameter.Type.STRING_ARRAY if isinstance(value, list) else None
        request = SetParametersAtomically.Request(parameters=[Parameter(name, kind, value).to_parameter_msg()])
        result = self.call(SetParametersAtomically, f"/{node}/set_parameters_atomically", request).result
        if not result.successful:
            raise GanglionError(f"{node} refuses {name} = {value}: {result.reason}")

    def state(self, node: str) -> str:
        """Label of the lifecycle state of `node`.

        Asked twice, since DDS loses an answer that is given before it knows the whole way back.
        """
        name = f"/{node}/get_state"
        try:
            response = self.call(GetState, name, GetState.Request(), timeout_s=5.0)
        except GanglionError:
            response = self.call(GetState, name, GetState.Request())
        return str(response.current_state.label)

    def change_state(self, node: str, transition: int) -> bool:
        """Ask for a lifecycle transition; returns whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, f"/{node}/change_state", request).success)

    def close(self) -> None:
        """End every child, also if this is interrupted, then leave ROS."""
        try:
            for child in self.children:
                child.interrupt()
            for child in self.children:
                child.wait()
        finally:
            for child in self.children:
                child.kill()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
        self._held.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
