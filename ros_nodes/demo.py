"""The demo: a simulated robot and the controller as two processes over DDS, a recorder beside them, and a verdict."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.qos import QoSProfile
from rclpy.utilities import get_rmw_implementation_identifier
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from ros_nodes.polling import PolledSubscription
from ros_nodes.recorder import Recorder
from ros_nodes.session import ACTIVATE, CONFIGURE, DEACTIVATE, Session
from ros_nodes.spinning import interruptible
from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.errors import BundleError, GanglionError
from runtime.files import write_json
from runtime.messages import topics
from runtime.safety import Status
from runtime.telemetry import Tick, unpack
from sim.tasks import TASKS

SEED = 0
_ERROR_METRIC = "tracking_error_m"
_ERROR_TOPIC = f"/metrics/{_ERROR_METRIC}"
_SHORTEST_S = 2.0

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction of the whole, from 0 to 1."""


@dataclass(frozen=True)
class Phase:
    """One activation of the controller; they follow each other in this order."""

    name: str
    faulted: bool
    refine: int

    @property
    def key(self) -> str:
        """`nominal` or `faulted`."""
        return "faulted" if self.faulted else "nominal"


def phases(contract: Contract) -> tuple[Phase, ...]:
    """Nominal and faulted, each with the default number of refinement steps and with none."""
    default = contract.refinement.default_steps
    return tuple(
        Phase(f"{'two encoders lost' if faulted else 'nominal'}, K = {steps}", faulted, steps)
        for faulted in (False, True)
        for steps in (default, 0)
    )


def settle_s(phase_s: float) -> float:
    """How much of the beginning of a phase is not judged; half of it passes before the fault."""
    return min(1.0, phase_s / 4)


def run_demo(bundle: Path, seconds: float, output: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run the four phases, `seconds / 4` each, and judge them from the recorded bag.

    Writes `demo.json`, `demo.png`, `bag` and `log` into `output`, and returns what is in `demo.json`. Raises
    GanglionError, with the last lines of the nodes' logs, if a node ends early or does not answer.
    """
    from ros_nodes.demo_results import evaluate, plot, read_bag

    tell = progress or (lambda text, fraction: None)
    loaded = _checked(bundle, seconds)
    bag = output / "bag"
    _clear(output)
    with interruptible(), Session(output / "log") as session:
        demo = _Run(session, loaded, seconds / 4)
        demo.record(bag, tell)
        realtime = demo.is_realtime
        transport = (
            f"{get_rmw_implementation_identifier()}, controller and simulated robot as two processes on this host "
            "(DDS, localhost only)"
        )
    tell("replaying the bag", 0.9)
    recording = read_bag(bag, loaded.contract, _ERROR_TOPIC)
    result = evaluate(recording, loaded, bag, phases(loaded.contract), settle_s(seconds / 4))
    result |= {
        "transport": transport,
        "realtime_priority": realtime,
        "seconds": seconds,
        "seed": SEED,
        "fault": fault(loaded.contract),
    }
    tell("drawing", 0.95)
    plot(recording, loaded.contract, phases(loaded.contract), output / "demo.png")
    write_json(output / "demo.json", result)
    tell("done", 1.0)
    return result


def fault(contract: Contract) -> str:
    """The demo's sensor fault: the encoders of the second and the fourth commanded joint."""
    joints = contract.action.joints
    return f"lost:{joints[1]}+{joints[3]}"


def _checked(path: Path, seconds: float) -> Bundle:
    bundle = Bundle.load(path)
    task = TASKS.get(bundle.contract.provenance.task)
    if task is None:
        raise BundleError(
            f"{path} was trained on '{bundle.contract.provenance.task}', which is not a task of this simulator; "
            f"the demo needs one of {', '.join(TASKS)}"
        )
    if len(bundle.contract.action.joints) < 4:
        raise BundleError(f"{path} is for {bundle.contract.robot}; the demo needs an arm: a bundle of kuka_reach")
    if not seconds >= _SHORTEST_S:
        raise GanglionError(f"the demo lasts {seconds:g} s, expected at least {_SHORTEST_S:g} s")
    return bundle


def _clear(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        for old in ("bag", "log"):
            shutil.rmtree(output / old, ignore_errors=True)
    except OSError as error:
        raise GanglionError(f"cannot write into {output}: {error.strerror}") from error


class _Run:
    """The live part."""

    def __init__(self, session: Session, bundle: Bundle, phase_s: float) -> None:
        self._session, self._bundle, self._phase_s = session, bundle, phase_s
        self._last: Tick | None = None
        session.start("ros_nodes.sim_node", {"task": bundle.contract.provenance.task, "seed": SEED})
        self._controller = session.start("ros_nodes.controller_node", {"bundle": str(bundle.path)})
        self._telemetry = PolledSubscription(
            session.node, Float64MultiArray, "/controller/telemetry", QoSProfile(depth=100)
        )
        session.idle.append(self._monitor)

    @property
    def is_realtime(self) -> bool:
        """Whether the controller was permitted to run at real-time priority."""
        return os.sched_getscheduler(self._controller.process.pid) == os.SCHED_FIFO

    def _monitor(self) -> None:
        for message, _ in self._telemetry.take():
            self._last = unpack(self._bundle.contract, np.array(message.data))

    def record(self, bag: Path, tell: Progress) -> None:
        """All phases, into the bag."""
        session, contract = self._session, self._bundle.contract
        tell("starting the nodes", 0.0)
        if not session.change_state("controller", CONFIGURE):
            lines = [line for line in self._controller.log.splitlines() if "[ERROR]" in line]
            raise GanglionError(f"the controller could not be configured: {lines[-1] if lines else 'no reason given'}")
        recorded = self._topics()
        session.wait(
            lambda: all(session.node.count_publishers(t) for t in recorded) and self._telemetry.publishers > 0,
            "the nodes' topics",
        )
        with Recorder(session.node, bag) as recorder:
            for topic, message_type in recorded.items():
                recorder.add(topic, message_type)
            session.idle.append(recorder.poll)
            session.spin(0.5)  # until every subscription is matched
            plan = phases(contract)
            for index, phase in enumerate(plan):
                tell(phase.name, 0.05 + 0.85 * index / len(plan))
                self._phase(index + 1, phase)
            session.idle.remove(recorder.poll)

    def _topics(self) -> dict[str, str]:
        contract = self._bundle.contract
        result = {f"/{topic}": message_type for topic, (message_type, _) in topics(contract.observations).items()}
        array = "std_msgs/msg/Float64MultiArray"
        return result | {
            f"/{contract.action.topic}": array,
            "/controller/telemetry": array,
            "/controller/state": array,
            "/controller/contract": "std_msgs/msg/String",
            _ERROR_TOPIC: "std_msgs/msg/Float64",
            "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
        }

    def _phase(self, activation: int, phase: Phase) -> None:
        session = self._session
        session.set_parameter("sim", "faults", [])
        session.call(Trigger, "/sim/reset", Trigger.Request())
        session.set_parameter("controller", "refine", phase.refine)
        if not session.change_state("controller", ACTIVATE):
            raise GanglionError(f"the controller could not be activated for the phase '{phase.name}'")
        session.wait(lambda: self._acts(activation), f"the controller to act in the phase '{phase.name}'")
        end = time.monotonic() + self._phase_s
        session.spin(settle_s(self._phase_s) / 2)
        if phase.faulted:
            session.set_parameter("sim", "faults", [fault(self._bundle.contract)])
        session.spin(end - time.monotonic())
        session.change_state("controller", DEACTIVATE)

    def _acts(self, activation: int) -> bool:
        last = self._last
        return last is not None and last.activation == activation and last.status == Status.ACTIVE
