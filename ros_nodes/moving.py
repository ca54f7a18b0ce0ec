"""One small motion of every joint, to see which encoder answers and in which direction; see `runtime.wiring`."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from rclpy.node import Node

from ros_nodes.commands import COMMAND_TYPES, CommandFormat, CommandMessage, command_qos
from ros_nodes.guarding import Guarding
from ros_nodes.observer import UNNAMED, Observer
from ros_nodes.sensors import Sensors
from ros_nodes.topics import Topics, overriding
from runtime.contract import Contract
from runtime.errors import ContractError
from runtime.findings import Finding
from runtime.limits import Limits
from runtime.loop import Pacer, sleep_until
from runtime.wiring import Wiring, diagnose, left_pose, right, strokes, suspects

_MEASURE_S = 0.2
_GO_S = 0.3
_STAY_S = 0.5
_REST_S = 0.3
_HOLD_S = 0.4
_BRAKE_S = 0.15
_PATIENCE_S = 1.0
_READY_S = 5.0
_LOOK_TICKS = 20
_MOST_UNNAMED_LOOKS = 5
_SMOOTH_TICKS = 3
_FAR = 4.0  # strokes
_GUARD_MS = 300.0


class _Stopped(Exception):
    """The motion had to end."""


class Mover:
    """Commands a robot that the static checks found to fit."""

    def __init__(self, node: Node, contract: Contract, form: CommandFormat, observer: Observer) -> None:
        """Commands are of the `form`.

        Raises ContractError if the contract does not observe what would have to be seen.
        """
        self._contract, self._observer = contract, observer
        self._action, layout = contract.action, contract.layout
        self._by_position = self._action.kind == "position"
        wanted = "joint_position" if self._by_position else "joint_velocity"
        self._channels = np.array(_channels(contract, wanted), dtype=np.int64)
        self._max_age_ns = layout.max_age_ns[self._channels]
        self._limits = Limits(self._action, contract.rate_hz)
        self._node = node
        topics = Topics(node)
        self._sensors = Sensors(topics, contract, node.get_clock())
        self._publisher = node.create_publisher(
            COMMAND_TYPES[form.message_type], topics.named(self._action.topic), command_qos(),
            qos_overriding_options=overriding(),
        )  # fmt: skip
        self._form, self._message = form, CommandMessage(form, node.get_clock())
        self._pacer = Pacer(contract.rate_hz)
        self._ticks = 0
        self._unnamed_looks = 0
        self._sent = np.zeros(layout.joints)
        self._around: np.ndarray | None = None
        """Readings (A,) from which none may go far; None while that is not known."""

    def run(self, progress: Callable[[int, int], None]) -> list[Finding]:
        """Move every joint and come back; ends with the contract's safe action, also when interrupted.

        Raises GanglionError if the guard, which commands it if this process is killed, does not start.
        """
        joints = self._action.joints
        self._guard = Guarding(self._node, self._publisher.topic_name, self._form, _GUARD_MS)
        commanded = False
        try:
            self._wait(self._ready)
            start = self._watch(_MEASURE_S)
            commanded = True
            if self._by_position:
                wiring = self._find_wiring()
                if isinstance(wiring, Finding):
                    return [wiring]
                base = wiring.command(start)
                self._go(base)
            else:
                base = np.zeros(len(joints))
            stroke = strokes(self._action, base)
            rows = []
            for j in range(len(joints)):
                rows.append(self._stroke(base, j, stroke[j]))
                progress(j + 1, len(joints))
            response, noise = np.array([r for r, _ in rows]), np.max([n for _, n in rows], axis=0)
            return diagnose(self._action, stroke, response, noise)
        except _Stopped as stop:
            remedy = "Put it right, then try again; the joints that had not moved yet are not judged."
            return [Finding("error", "motion", f"stopped: {stop}", "a motion of every joint", remedy)]
        finally:
            if commanded:
                self._make_safe()
            self._guard.close()

    def _fresh(self) -> bool:
        self._sensors.poll()
        age_ns = time.monotonic_ns() - self._sensors.sample.stamp_ns[self._channels]
        return bool((age_ns <= self._max_age_ns).all())

    def _ready(self) -> bool:
        # The guard, too, is nobody that is known until its node is discovered.
        listens = self._publisher.get_subscription_count() > 0
        return self._fresh() and listens and not self._observer.commanders()

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _READY_S
        while not condition():
            if time.monotonic() > end:
                raise _Stopped("the robot's readings do not come, it does not listen, or somebody else commands it")
            time.sleep(0.005)
        self._pacer.restart()

    def _watch(self, seconds: float) -> np.ndarray:
        """Mean readings (A,) of the next while, in which nothing is commanded."""
        return np.mean([self._tick(None) for _ in range(self._count(seconds))], axis=0)

    def _count(self, seconds: float) -> int:
        return max(1, round(seconds * self._contract.rate_hz))

    def _look(self) -> None:
        """Raises _Stopped if somebody else can command the robot.

        Who has no name counts when seen a few times in a row: DDS forgets names, that of our guard too, for a moment.
        """
        others = self._observer.commanders()
        named = [o.node for o in others if not o.node.endswith(UNNAMED)]
        self._unnamed_looks = self._unnamed_looks + 1 if others and not named else 0
        if named or self._unnamed_looks > _MOST_UNNAMED_LOOKS:
            raise _Stopped(f"{(named or [o.node for o in others])[0]} can command the robot too")

    def _tick(self, command: np.ndarray | None) -> np.ndarray:
        """One period, at the end of which the readings are (A,). Raises _Stopped if it is not safe to go on.

        As long as readings are late, the command stands still: it may be this machine that is busy.
        """
        if command is not None:
            self._sent = self._limits.limit(command, self._sent)
        end = time.monotonic() + _PATIENCE_S
        self._period(command is not None)
        while not self._fresh():
            if time.monotonic() > end:
                raise _Stopped("the readings of the commanded joints do not come any more")
            self._period(command is not None)
        self._ticks += 1
        if self._ticks % _LOOK_TICKS == 0:
            self._look()
        readings = self._sensors.sample.values[self._channels].copy()
        if not np.isfinite(readings).all():
            broken = [self._action.joints[i] for i in np.flatnonzero(~np.isfinite(readings))]
            raise _Stopped(f"no finite reading of {', '.join(broken)}")
        if self._guard.took_over() and not np.array_equal(self._safe(), self._sent):
            raise _Stopped("this machine was too busy to command in time, so the guard did")
        if self._around is not None:
            self._check_near(readings - self._around)
        return readings

    def _check_near(self, away: np.ndarray) -> None:
        share = np.abs(away) / np.abs(strokes(self._action, self._sent))
        if share.max() > _FAR:
            raise _Stopped(f"{self._action.joints[int(np.argmax(share))]} moves much farther than it is commanded to")

    def _period(self, commands: bool) -> None:
        if commands:
            self._publisher.publish(self._message.fill(self._sent))
            self._guard.beat(self._safe())
        sleep_until(self._pacer.deadline_ns)
        self._pacer.begin()
        self._pacer.end()

    def _find_wiring(self) -> Wiring | Finding:
        """The wiring with which the robot stands still when it is commanded to, or that there is none."""
        tolerance = 2 * np.abs(strokes(self._action, np.zeros(len(self._sent))))
        movers = self._movers(right(len(self._sent)), tolerance, brake=False)
        if not movers.any():
            return right(len(self._sent))
        as_read = self._sent
        for wiring in suspects(movers):
            if not self._movers(wiring, tolerance, brake=True).any():
                return wiring
        self._sent = as_read
        return left_pose([self._action.joints[i] for i in np.flatnonzero(movers)])

    def _movers(self, wiring: Wiring, tolerance: np.ndarray, brake: bool) -> np.ndarray:
        """Which joints (A,) leave their place when the present readings are commanded by `wiring`.

        The command jumps: if the wiring is the robot's own, that is where the robot is.
        """
        self._sent = wiring.command(self._sensors.sample.values[self._channels])
        first = self._sensors.sample.values[self._channels].copy()
        recent: list[np.ndarray] = []
        for t in range(self._count(_HOLD_S)):
            recent = [*recent[1 - _SMOOTH_TICKS :], self._tick(self._sent)]
            if brake and t == self._count(_BRAKE_S):
                first = np.mean(recent, axis=0)
            braking = brake and t < self._count(_BRAKE_S)
            away = np.abs(np.mean(recent, axis=0) - first)
            if (away > tolerance * (2.0 if braking else 1.0)).any():
                return away > 0.4 * away.max()
        return np.zeros(len(first), dtype=bool)

    def _go(self, goal: np.ndarray, seconds: float = _GO_S) -> None:
        """The command goes to `goal` (A,) evenly, in `seconds` or as long as the limits need."""
        start, ticks = self._sent.copy(), self._count(seconds)
        for t in range(1, ticks + 1):
            share = t / ticks
            self._tick((1.0 - share) * start + share * goal)  # ends at the goal to the last bit
        while np.abs(self._sent - goal).max() > 1e-9:
            before = self._sent
            self._tick(goal)
            if np.array_equal(self._sent, before):
                return

    def _stroke(self, base: np.ndarray, joint: int, size: float) -> tuple[np.ndarray, np.ndarray]:
        """Change of the readings (A,) when one joint's command changes by `size`, and its noise (A,); then back."""
        there = base.copy()
        there[joint] += size
        before = self._stay(base, _REST_S)
        if self._action.kind != "effort":
            self._around = before.mean(axis=0)
        self._go(there)
        after = self._stay(there, _STAY_S)
        if not self._by_position:  # what was gained by speed or effort is taken back
            self._go(2 * base - there)
            self._stay(2 * base - there, _STAY_S)
        self._go(base)
        self._around = None
        measured = self._count(_MEASURE_S)
        noise = before[-measured:].std(axis=0) * np.sqrt(2 / measured)
        return after[-measured:].mean(axis=0) - before[-measured:].mean(axis=0), noise

    def _stay(self, command: np.ndarray, seconds: float) -> np.ndarray:
        """Readings (ticks, A) while `command` (A,) lasts."""
        return np.array([self._tick(command) for _ in range(self._count(seconds))])

    def _safe(self) -> np.ndarray:
        """The contract's safe action (A,) now; what moves by speed or effort stops, whatever the contract holds."""
        if self._by_position and self._action.safe == "hold":
            return self._sent
        return np.clip(np.zeros_like(self._sent), self._action.low, self._action.high)

    def _make_safe(self) -> None:
        """The safe action, a few times so that one of them arrives."""
        self._guard.disarm()
        for _ in range(_SMOOTH_TICKS):
            self._publisher.publish(self._message.fill(self._safe()))
            time.sleep(1 / self._contract.rate_hz)


def _channels(contract: Contract, kind: str) -> list[int]:
    """Index of the channel of `kind` of every commanded joint. Raises ContractError if one is not observed."""
    index = {
        c: contract.layout.slices[o.name].start + i
        for o in contract.observations
        if o.kind == kind
        for i, c in enumerate(o.channels)
    }
    missing = [j for j in contract.action.joints if j not in index]
    if missing:
        raise ContractError(
            f"the bundle observes no {kind} of {', '.join(missing)}, expected one of every commanded joint: its wiring "
            "cannot be seen; check it by hand, without --move"
        )
    return [index[j] for j in contract.action.joints]
