"""The end effector of a KUKA iiwa follows a target that jumps and drifts."""

from __future__ import annotations

from collections import deque

import numpy as np

from runtime.contract import Action, Observation
from sim.robots.kuka import END_EFFECTOR, KUKA
from sim.sensors import Sensor, joint_positions, joint_velocities
from sim.simulation import Simulation
from sim.tasks.base import Outcome, Task

_AXES = ("x", "y", "z")
_CENTRE = np.array([0.55, 0.0, 0.5])  # m
_HALF = np.array([0.15, 0.35, 0.2])  # m
_DRIFT = 0.05  # m/s, largest speed of the drift per axis
_JUMP_STEPS = 200
_SUCCESS_M = 0.02
_LOW, _HIGH = tuple(j.low for j in KUKA.joints), tuple(j.high for j in KUKA.joints)
_RATE = tuple(j.max_velocity for j in KUKA.joints)
_STEP = tuple(r / 100.0 for r in _RATE)
_HOME = np.array(KUKA.home)


class KukaReach(Task):
    """400 ticks: a jump and drift for two seconds, then a jump to a target that is held.

    Solved if the mean distance to the held target over the last half second is under 2 cm.
    """

    name = "kuka_reach"
    summary = "end effector follows a target that jumps and drifts"
    robot = KUKA
    substeps = 2
    episode_steps = 400
    sensors = (
        Sensor(
            Observation(
                name="joint_position", kind="joint_position", topic="joint_states", channels=KUKA.joint_names,
                unit="rad", mean=KUKA.home, scale=(0.5,) * 7, low=tuple(v - 0.1 for v in _LOW),
                high=tuple(v + 0.1 for v in _HIGH), max_age_s=0.05, min_valid=3,
            ),
            joint_positions,
            noise=(0.002,) * 7,
        ),
        Sensor(
            Observation(
                name="joint_velocity", kind="joint_velocity", topic="joint_states", channels=KUKA.joint_names,
                unit="rad/s", mean=(0.0,) * 7, scale=(0.5,) * 7, low=(-20.0,) * 7, high=(20.0,) * 7, max_age_s=0.05,
                min_valid=0,
            ),
            joint_velocities,
            noise=(0.01,) * 7,
        ),
        Sensor(
            Observation(
                name="end_effector", kind="point", topic="end_effector", channels=_AXES, unit="m", mean=tuple(_CENTRE),
                scale=(0.2, 0.2, 0.2), low=(-2.0, -2.0, -1.0), high=(2.0, 2.0, 2.0), max_age_s=0.05, min_valid=0,
            ),
            lambda sim, task: sim.link_position(END_EFFECTOR),
            noise=(0.002,) * 3,
        ),
        Sensor(
            Observation(
                name="target", kind="point", topic="target", channels=_AXES, unit="m", mean=tuple(_CENTRE),
                scale=(0.2, 0.2, 0.2), low=(-2.0, -2.0, -1.0), high=(2.0, 2.0, 2.0), max_age_s=0.25, min_valid=3,
            ),
            lambda sim, task: task.target,
            noise=(0.0,) * 3,
        ),
    )  # fmt: skip
    action = Action(
        kind="position", mode="increment", topic="command", joints=KUKA.joint_names, unit="rad", scale=_STEP,
        offset=(0.0,) * 7, low=_LOW, high=_HIGH, max_rate=_RATE, safe="hold",
    )  # fmt: skip

    def __init__(self) -> None:
        self.target = _CENTRE.copy()
        self._drift = np.zeros(3)
        self._tick = 0
        self._errors: deque[float] = deque(maxlen=50)

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        sim.reset(_HOME + rng.uniform(-0.3, 0.3, 7))
        self._tick = 0
        self._errors.clear()
        self._jump(rng, held=False)

    def _jump(self, rng: np.random.Generator, held: bool) -> None:
        self.target = _CENTRE + _HALF * rng.uniform(-1, 1, 3)
        self._drift = np.zeros(3) if held else rng.uniform(-_DRIFT, _DRIFT, 3)

    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        if self._tick > 0 and self._tick % _JUMP_STEPS == 0:
            self._jump(rng, held=(self._tick // _JUMP_STEPS) % 2 == 1)
            self._errors.clear()
        self._tick += 1
        moved = self.target + self._drift / self.rate_hz
        outside = np.abs(moved - _CENTRE) > _HALF
        self._drift = np.where(outside, -self._drift, self._drift)
        self.target = np.where(outside, self.target, moved)

    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        error = float(np.linalg.norm(sim.link_position(END_EFFECTOR) - self.target))
        self._errors.append(error)
        close = np.exp(-((error / 0.05) ** 2)) + np.exp(-error / 0.01)  # the second rewards the last millimetre too
        posture = sim.joint_states()[0] - _HOME  # seven joints for three coordinates: the rest should stay near home
        reward = float(0.5 * close - 2.0 * error - 0.02 * posture @ posture - 0.05 * action @ action)
        success = sum(self._errors) / len(self._errors) < _SUCCESS_M
        return Outcome(reward, terminated=False, success=success, metrics={"tracking_error_m": error})
