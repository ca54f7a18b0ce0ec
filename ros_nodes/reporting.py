"""What the controller tells people: log lines on changes, and diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.time import Time

from runtime.contract import Contract
from runtime.controller import Command, Controller
from runtime.latency import LatencyHistogram
from runtime.safety import Status
from runtime.sensing import Reason

_ACTING = {Status.ENGAGING: "on the way to what the agent wants", Status.ACTIVE: "the agent acts"}
_PERCENTILES = {"p50": "p50", "p99": "p99", "p99_9": "p99.9", "max": "max"}
_BURST, _REFILL_NS = 5, 1_000_000_000


def masked_channels(contract: Contract, reasons: np.ndarray) -> dict[str, list[str]]:
    """Masked channels by reason, from `reasons` (D,); an observation that is masked as a whole is named once."""
    result: dict[str, list[str]] = {}
    for o in contract.observations:
        codes = reasons[contract.layout.slices[o.name]]
        if len(o.channels) > 1 and codes[0] and (codes == codes[0]).all():
            result.setdefault(Reason(int(codes[0])).text, []).append(o.name)
            continue
        for channel, code in zip(o.channels, codes):
            if code:
                result.setdefault(Reason(int(code)).text, []).append(f"{o.name}.{channel}")
    return result


def _listed(contract: Contract, reasons: np.ndarray) -> str:
    return "; ".join(f"{text}: {', '.join(names)}" for text, names in masked_channels(contract, reasons).items())


class _Throttle:
    """Lets five lines through at once and then one per second: a flickering sensor must not flood the log."""

    def __init__(self) -> None:
        self._credit, self._last_ns = float(_BURST), 0

    def allow(self, now_ns: int) -> bool:
        self._credit = min(_BURST, self._credit + (now_ns - self._last_ns) / _REFILL_NS)
        self._last_ns = now_ns
        if self._credit < 1:
            return False
        self._credit -= 1
        return True


class ChangeLog:
    """Logs a change of status or of the masked channels once, with its reason."""

    def __init__(self, logger: Any, contract: Contract) -> None:
        self._logger, self._contract = logger, contract
        self._status: Status | None = None
        self._reasons = np.zeros(contract.layout.size, np.uint8)
        self._status_throttle, self._mask_throttle = _Throttle(), _Throttle()

    def observe(self, command: Command, now_ns: int) -> None:
        """Compare with what was logged last."""
        if command.status != self._status and self._status_throttle.allow(now_ns):
            self._status = command.status
            if command.status in _ACTING:
                self._logger.info(f"{command.status.name.lower()}: {_ACTING[command.status]}")
            else:
                self._logger.warning(f"{command.status.name.lower()}: {command.cause}")
        if not np.array_equal(command.reasons, self._reasons) and self._mask_throttle.allow(now_ns):
            self._log_masks(command.reasons)

    def _log_masks(self, reasons: np.ndarray) -> None:
        believed = np.where((self._reasons != 0) & (reasons == 0), self._reasons, 0)
        changed = np.where(reasons != self._reasons, reasons, 0)
        self._reasons = reasons
        if changed.any():
            self._logger.warning(f"masked, {_listed(self._contract, changed)}")
        if believed.any():
            names = [name for names in masked_channels(self._contract, believed).values() for name in names]
            self._logger.info(f"believed again: {', '.join(names)}")


STAGES = ("sense", "tick", "publish", "record", "latency")
"""Of a period: to take the readings in, Controller.tick, to publish the command, to publish the telemetry; and from the
stamp of the newest reading to the published command, in which the first three are contained."""


class Statistics:
    """What one activation has measured so far."""

    def __init__(self) -> None:
        self.stages = {name: LatencyHistogram() for name in STAGES}
        self.ticks = self.late_ticks = self.hurried_ticks = 0
        self.last: Command | None = None

    def record(self, command: Command, stages_us: Sequence[float], late: bool, hurried: bool) -> None:
        """Count one tick and how long its STAGES took; a hurried one had no time for all refinement steps."""
        for histogram, duration_us in zip(self.stages.values(), stages_us):
            histogram.record(duration_us)
        self.ticks += 1
        self.late_ticks += late
        self.hurried_ticks += hurried
        self.last = command


def _level(command: Command) -> bytes:
    if command.status in (Status.HOLDING, Status.STOPPED):
        return DiagnosticStatus.ERROR
    if command.status == Status.WAITING or command.reasons.any():
        return DiagnosticStatus.WARN
    return DiagnosticStatus.OK


def active_status(name: str, controller: Controller, refine: int, statistics: Statistics) -> DiagnosticStatus:
    """Diagnostics of an active controller that may make `refine` refinement steps per tick."""
    contract, command = controller.contract, statistics.last
    if command is None:
        text = "checking the robot's joints: no complete joint states yet"
        return DiagnosticStatus(level=DiagnosticStatus.WARN, name=name, hardware_id=contract.robot, message=text)
    masked, state = _listed(contract, command.reasons), command.status.name.lower()
    values = {
        "status": state,
        "cause": command.cause,
        "masked channels": masked,
        "free energy [nat]": f"{command.free_energy:.4g}",
        "refinement steps": f"{command.steps} of {refine}",
        "provider": controller.inference.provider,
        "ticks": str(statistics.ticks),
        "late ticks": str(statistics.late_ticks),
        "ticks short of time to refine": str(statistics.hurried_ticks),
    }
    for stage, histogram in statistics.stages.items():
        summary = histogram.summary()
        values |= {f"{stage} {name} [us]": f"{summary[q]:.0f}" for q, name in _PERCENTILES.items()}
    message = command.cause or (f"{state}, masked: {masked}" if masked else state)
    return DiagnosticStatus(
        level=_level(command),
        name=name,
        hardware_id=contract.robot,
        message=message,
        values=[KeyValue(key=k, value=v) for k, v in values.items()],
    )


def idle_status(name: str, state: str) -> DiagnosticStatus:
    """Diagnostics of a controller that is not active."""
    return DiagnosticStatus(level=DiagnosticStatus.OK, name=name, message=state)


def diagnostics(status: DiagnosticStatus, now: Time) -> DiagnosticArray:
    """The message of one status."""
    message = DiagnosticArray(status=[status])
    message.header.stamp = now.to_msg()
    return message
