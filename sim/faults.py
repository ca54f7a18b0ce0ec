"""Faults of a simulated robot by name: those of its sensors (`runtime.faults`), and those of its body.

NAME=VALUE[@START[-END]]      a parameter of `sim.randomisation`, e.g. payload=3@2 or friction=0.3
motor:JOINT=VALUE[@…]         share of the motor's effort that is left
lock:JOINT[@…]                the joint does not move
shove=VALUE[@START]           one horizontal push of the base, N·s, in a random direction
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.contract import Layout
from runtime.errors import ContractError
from runtime.faults import FORM, KINDS, Fault, RunningFault, Spec, parse_fault
from sim.randomisation import PARAMETERS, check_value

if TYPE_CHECKING:
    from sim.env import RobotEnv
    from sim.tasks.base import Task

BODY_KINDS = {
    "motor": "share of the motor's effort that is left, 0 to 2",
    "lock": "the joint does not move",
    "shove": "one push of the base, 0 to 100 N·s",
}
"""What the kinds of faults of the body do that are no parameter."""
_SHOVE_S = 0.1

Change = Callable[["RobotEnv", np.random.Generator], Callable[[], None]]
"""Makes the fault begin, and returns what makes it end."""


@dataclass(frozen=True)
class BodyFault:
    """One fault of the body."""

    spec: Spec
    change: Change

    @property
    def name(self) -> str:
        """As it was given."""
        return self.spec.text


class FaultSchedule:
    """Faults of one environment, episode by episode."""

    def __init__(self, faults: tuple[Fault | BodyFault, ...] = ()) -> None:
        self.faults = faults
        self._running: list[RunningFault] = []
        self._waiting: list[BodyFault] = []
        self._ending: list[tuple[float, Callable[[], None]]] = []
        self._rng = np.random.default_rng(0)

    def reset(self, rng: np.random.Generator) -> None:
        """A new episode, in which nothing has happened yet."""
        self.end()
        self._rng = rng
        self._running = [f.start(rng) for f in self.faults if isinstance(f, Fault)]
        self._waiting = [f for f in self.faults if isinstance(f, BodyFault)]

    def end(self) -> None:
        """Undo every fault of the body."""
        for _, undo in self._ending:
            undo()
        self._ending = []

    def strike(self, env: RobotEnv, time_s: float) -> None:
        """Begin and end the faults of the body whose time has come."""
        for fault in [f for f in self._waiting if f.spec.start_s <= time_s]:
            self._waiting.remove(fault)
            self._ending.append((fault.spec.end_s, fault.change(env, self._rng)))
        for end_s, undo in [e for e in self._ending if e[0] <= time_s]:
            undo()
            self._ending.remove((end_s, undo))

    def corrupt(self, values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        """Apply the faults of the sensors to readings (D,) and their receive times (D,) in place."""
        for fault in self._running:
            fault.apply(values, stamp_ns, time_s)


def parse_any_fault(text: str, task: Task, layout: Layout, start_s: float = 0.0) -> Fault | BodyFault:
    """A fault of the task's sensors or of its robot's body, which begins at `start_s` unless it says otherwise.

    Raises ContractError that states what is known.
    """
    spec = Spec.parse(text, start_s)
    if spec.kind in KINDS:
        return parse_fault(text, layout, start_s)
    if spec.kind not in BODY_KINDS and spec.kind not in PARAMETERS:
        known = ", ".join((*KINDS, *BODY_KINDS, *PARAMETERS))
        raise ContractError(f"fault '{text}' is not understood; expected {FORM}, KIND one of {known}")
    names_a_joint = spec.kind in ("motor", "lock")
    if names_a_joint and spec.target not in task.action.joints:
        raise ContractError(
            f"fault '{text}': '{spec.target}' is no joint; expected one of {', '.join(task.action.joints)}"
        )
    if not names_a_joint and spec.target:
        raise ContractError(f"fault '{text}': '{spec.kind}' has no target; expected '{spec.kind}=VALUE'")
    if (spec.value is None) != (spec.kind == "lock"):
        raise ContractError(f"fault '{text}': expected {'no' if spec.kind == 'lock' else 'a'} value after =")
    return BodyFault(spec, _change(spec, task))


def _change(spec: Spec, task: Task) -> Change:
    value, joint = spec.value or 0.0, spec.target
    if spec.kind == "lock":
        return lambda env, rng: _locked(env, joint)
    if spec.kind == "motor":
        _check_range(spec, 0.0, 2.0)
        return lambda env, rng: _weakened(env, joint, value)
    if spec.kind == "shove":
        _check_range(spec, 0.0, 100.0)
        if task.robot.fixed_base:
            raise ContractError(f"fault '{spec.text}': {task.robot.name} is bolted to the world and cannot be pushed")
        return lambda env, rng: _shoved(env, value, rng.uniform(0.0, 2 * np.pi))
    check_value(spec.kind, value, task)
    return lambda env, rng: _changed(env, spec.kind, value)


def _check_range(spec: Spec, low: float, high: float) -> None:
    if spec.value is None or not low <= spec.value <= high:
        raise ContractError(f"fault '{spec.text}': got {spec.value}, expected {low:g} to {high:g}")


def _locked(env: RobotEnv, joint: str) -> Callable[[], None]:
    env.sim.lock(joint)
    return lambda: env.sim.unlock(joint)


def _weakened(env: RobotEnv, joint: str, share: float) -> Callable[[], None]:
    strength, index = env.sim.motors.strength, env.task.action.joints.index(joint)
    before = strength[index]
    strength[index] = share

    def undo() -> None:
        strength[index] = before

    return undo


def _shoved(env: RobotEnv, impulse: float, angle: float) -> Callable[[], None]:
    env.sim.push(impulse * np.array([np.cos(angle), np.sin(angle), 0.0]), _SHOVE_S)
    return lambda: None


def _changed(env: RobotEnv, name: str, value: float) -> Callable[[], None]:
    before = env.randomiser.values[name]
    env.randomiser.set(name, value)
    return lambda: env.randomiser.set(name, before)
