"""The paced loop of the controller node: poll the sensors, tick, publish, record."""

from __future__ import annotations

import math
import time

import numpy as np
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Float64MultiArray, String

from ros_nodes.commands import COMMAND_TYPES, CommandFormat, CommandMessage, command_qos
from ros_nodes.conversion import fill, named_vector
from ros_nodes.guarding import Guarding
from ros_nodes.reporting import ChangeLog, Statistics
from ros_nodes.sensors import Sensors
from ros_nodes.settings import Settings
from ros_nodes.topics import Topics
from runtime.anytime import measured
from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import ContractError
from runtime.loop import Follower, Pacer, sleep_until
from runtime.safety import Request, Status
from runtime.telemetry import labels, pack, pack_state

SPIN_MARGIN_NS = 1_000_000
"""Callbacks are executed until this long before the next tick may begin."""
STATE_PERIOD = 100
"""Ticks between two records of the carried state."""
_PATIENCE, _PATIENCE_NS = 0.2, 2_000_000  # from when the last sensor is expected to the deadline: a share of a period
_EARLY = 0.25  # of that: a tick begins this long before the last sensor is expected at the earliest
_ENGAGE_S = 1.0
_GUARD_MS = 100.0
_SILENCE_NS = 1_000_000_000
_DELIVERY = Duration(seconds=0.2)


class ControlLoop:
    """A configured bundle with its topics; `start` begins an activation, `run` does one period, `stop` ends it."""

    def __init__(self, node: LifecycleNode, bundle: Bundle, settings: Settings) -> None:
        """Raises BundleError or ContractError if the bundle cannot run, or a setting is out of range, and GanglionError
        if the guard does not start.
        """
        self.contract = bundle.contract
        self.rate_hz = settings.rate_hz or self.contract.rate_hz
        guard_ms = self._guard_ms(settings.guard_ms)
        engage_s = self._engage_s(settings.engage_s)
        self.controller = Controller(bundle, engage_s=engage_s, most_surprise=settings.most_surprise)
        self.refine_as(settings)
        self._most_late_ticks = settings.most_late_ticks
        self._planner = measured(self.controller)  # which also warms it up
        self.activation = 0
        self.statistics = Statistics()
        self._logger = node.get_logger()
        form = CommandFormat.of(self.contract, settings.command_type, settings.command_joints, self.rate_hz)
        self._command = CommandMessage(form, node.get_clock())
        self._telemetry = named_vector(labels(self.contract))
        state = self.controller.state()
        self._state = named_vector(
            ["activation", "tick", *(f"{n}.{i}" for n, v in state.items() for i in range(v.size))]
        )
        self._topics = Topics(node)
        try:
            self._open(node, form, guard_ms)
        except BaseException:
            self._topics.close()
            raise

    def _open(self, node: LifecycleNode, form: CommandFormat, guard_ms: float) -> None:
        topics = self._topics
        self.sensors = Sensors(topics, self.contract, node.get_clock())
        command_topic = topics.named(self.contract.action.topic)
        self._command_publisher = topics.publisher(COMMAND_TYPES[form.message_type], command_topic, command_qos())
        self._telemetry_publisher = topics.publisher(Float64MultiArray, "~/telemetry", QoSProfile(depth=100))
        self._state_publisher = topics.publisher(Float64MultiArray, "~/state", QoSProfile(depth=10))
        self._guard: Guarding | None = None
        if guard_ms:
            self._guard = Guarding(node, self._command_publisher.topic_name, form, guard_ms)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._contract_publisher = node.create_publisher(String, "~/contract", latched)
        self._contract_publisher.publish(String(data=self.contract.to_json()))

    def refine_as(self, settings: Settings) -> None:
        """From the next tick on. Raises ContractError if the bundle does not allow it."""
        default = self.contract.refinement.default_steps
        self.controller.refine = default if settings.refine == -1 else settings.refine
        self.controller.tolerance = settings.tolerance
        self.refine = self.controller.refine
        """Largest number of refinement steps; a tick makes fewer if it is short of time."""
        budget_ms = 0.5e3 / self.rate_hz if settings.budget_ms == -1 else settings.budget_ms or math.inf
        self._budget_ns = budget_ms * 1e6

    def _engage_s(self, asked: float) -> float:
        """A robot may be far away from positions that are commanded; an effort that is held back can make it fall."""
        action = self.contract.action
        default = _ENGAGE_S if (action.kind, action.mode) == ("position", "absolute") else 0.0
        return default if asked == -1 else asked

    def _guard_ms(self, asked: float) -> float:
        period_ms = 1e3 / self.rate_hz
        if asked == -1:
            return max(_GUARD_MS, 5 * period_ms)
        if asked and asked < 2 * period_ms:
            raise ContractError(
                f"guard_ms is {asked:g}, expected two periods ({2 * period_ms:g} ms) or more, or 0 for no guard"
            )
        return asked

    def start(self) -> None:
        """Begin an activation: nothing is carried over from the one before."""
        self.activation += 1
        self.controller.reset()
        self.statistics = Statistics()
        self._changes = ChangeLog(self._logger, self.contract)
        self._pacer = Pacer(self.rate_hz)
        self._patience_ns = min(round(_PATIENCE * self._pacer.period_ns), _PATIENCE_NS)
        self.sensors.restart(self._pacer.period_ns)
        self._follower = Follower(self._pacer.period_ns, self._patience_ns)
        self._tick = self._late_in_a_row = 0
        self._engaged = self._complained = False
        self._started_ns = time.monotonic_ns()
        self._sent: np.ndarray | None = None

    @property
    def earliest_ns(self) -> int:
        """When the next tick begins if its readings are in by then, on the steady clock."""
        return self._expected_ns - round(_EARLY * self._patience_ns)

    def run(self) -> None:
        """One period. Raises ContractError, once the joint states show that this is not the contract's robot.

        The tick begins as soon as the readings of its period are in, and at its deadline at the latest.
        """
        expected_ns = self._expected_ns
        self.sensors.await_period(expected_ns, self._pacer.deadline_ns)
        sleep_until(self.earliest_ns)
        begin_ns = self._pacer.begin()
        self.sensors.poll()
        if self._engaged:
            self._run_tick(begin_ns)
            self._pacer.deadline_ns += self._follower.shift_ns(expected_ns, self.sensors.end_period())
        else:
            self._check_robot()

    @property
    def _expected_ns(self) -> int:
        """When the last sensor of this period is expected."""
        return self._pacer.deadline_ns - self._patience_ns

    def _check_robot(self) -> None:
        """Wait for the names of all commanded joints; then tick 0 is due, in step with the robot's joint states."""
        robot, now_ns = self.sensors.robot, time.monotonic_ns()
        refusal = robot.refusal(now_ns)
        if refusal:
            raise ContractError(refusal)
        self._pacer.restart()
        if not robot.missing:
            self._engaged = True
            self._publish_state()
            if robot.topics:
                first = robot.last_ns + self._patience_ns
                periods = max(0, -(-(time.monotonic_ns() - first) // self._pacer.period_ns))
                self._pacer.deadline_ns = first + periods * self._pacer.period_ns
        elif not self._complained and now_ns - self._started_ns > _SILENCE_NS:
            self._complained = True
            self._logger.warning(
                f"no joint states on {', '.join(robot.topics)} yet; nothing is commanded until they come"
            )

    def _run_tick(self, begin_ns: int) -> None:
        """The period's work after the readings, which were taken in from `begin_ns` on."""
        if self._guard is not None and self._guard.took_over():
            self.controller.request(Request.STOP, "the guard had to command: the controller did not tick in time")
        now_ns = time.monotonic_ns()
        late_ns = max(0, now_ns - self._pacer.deadline_ns)
        self.controller.refine = self._planner.steps(self._budget_ns - late_ns, self.refine)
        command = self.controller.tick(self.sensors.sample, now_ns)
        ticked_ns = time.monotonic_ns()
        tick_us, latency_us = (ticked_ns - now_ns) * 1e-3, math.nan
        if command.status != Status.WAITING:
            self._planner.observe(command.steps, round(tick_us * 1e3))
            self._sent = command.values
            self._command_publisher.publish(self._command.fill(command.values))
            if self._guard is not None:
                self._guard.beat(self._safe(command.values))
            latency_us = self.sensors.latency_us(command.reasons == 0)
        published_ns = time.monotonic_ns()
        late = self._pacer.end()
        self._late_in_a_row = (self._late_in_a_row + 1) * late
        if 0 < self._most_late_ticks == self._late_in_a_row:
            self.controller.request(Request.STOP, f"{self._late_in_a_row} ticks in a row were late")
        vector = pack(
            self.contract, self.sensors.sample, now_ns, command,
            activation=self.activation, tick=self._tick, late=late, tick_us=tick_us, latency_us=latency_us,
        )  # fmt: skip
        self._telemetry_publisher.publish(fill(self._telemetry, vector))
        sense_us, publish_us = (now_ns - begin_ns) * 1e-3, (published_ns - ticked_ns) * 1e-3
        stages_us = (sense_us, tick_us, publish_us, (time.monotonic_ns() - published_ns) * 1e-3, latency_us)
        self.statistics.record(command, stages_us, late, hurried=command.refine < self.refine)
        self._changes.observe(command, now_ns)
        self._tick += 1
        if self._tick % STATE_PERIOD == 0:
            self._publish_state()

    def _publish_state(self) -> None:
        """The carried state before tick `self._tick`, from which a replay can start."""
        vector = pack_state(self.controller.state(), self.activation, self._tick)
        self._state_publisher.publish(fill(self._state, vector))

    def stop(self) -> None:
        """Publish the contract's safe action once, unless nothing was commanded."""
        if self._sent is None:
            return
        if self._guard is not None:
            self._guard.disarm()
        safe, self._sent = self._safe(self._sent), None
        self._command_publisher.publish(self._command.fill(safe))
        self._command_publisher.wait_for_all_acked(_DELIVERY)  # the process may end right after

    def _safe(self, command: np.ndarray) -> np.ndarray:
        """The contract's safe action (A,) after `command` (A,)."""
        action = self.contract.action
        return command if action.safe == "hold" else np.clip(np.zeros_like(command), action.low, action.high)

    @property
    def guarded(self) -> bool:
        """False if the guard has gone."""
        return self._guard is None or self._guard.alive

    def destroy(self, node: LifecycleNode) -> None:
        """Leave all topics and end the guard."""
        if self._guard is not None:
            self._guard.close()
        self._topics.close()
        node.destroy_publisher(self._contract_publisher)
