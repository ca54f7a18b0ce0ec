"""A task as a gymnasium environment, and as a robot that takes SI commands."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from runtime.contract import Layout
from runtime.errors import GanglionError
from runtime.limits import Limits
from sim.faults import FaultSchedule, parse_any_fault
from sim.randomisation import Draw, Pushes, Randomiser
from sim.sensors import SensorSuite
from sim.simulation import Simulation
from sim.tasks import TASKS, Outcome, Task, task_class


class RobotEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observations are SI readings (D,) in the contract's order; actions are normalised to [-1, 1] (A,).

    `step` maps the action to a command exactly as the Controller does, limits included. A node or an evaluation that
    already has SI commands calls `advance` instead. One tick lasts 1 / rate_hz seconds.
    """

    def __init__(self, task: str, randomisation: tuple[Draw, ...] = (), faults: tuple[str, ...] = ()) -> None:
        """Every episode draws the parameters in `randomisation`; the others are nominal. `faults` strike in each.

        Raises GanglionError for an unknown task or fault, or a randomisation that does not fit the robot.
        """
        self.task: Task = task_class(task)()
        own = self.task
        self.sim: Simulation = Simulation(own.robot, own.rate_hz, own.substeps, own.action.joints, own.boxes)
        self.limits = Limits(own.action, own.rate_hz)
        self._period_s = 1 / own.rate_hz
        self.suite: SensorSuite = SensorSuite(own.sensors, self._period_s)
        self.pushes = Pushes()
        self.randomiser = Randomiser(self, randomisation)
        self._previous = np.zeros(len(self.task.action.joints))
        self._joint_order = [self.task.robot.joint_names.index(j) for j in self.task.action.joints]
        self.executed = np.zeros_like(self._previous)
        """Normalised action (A,) of the last tick, after limits."""
        self._steps = 0
        self.layout = Layout(self.task.observations, self.task.action)
        size = self.layout.size
        self.stamp_ns = np.zeros(size, dtype=np.int64)
        """When each reading (D,) arrived, ns since the episode began."""
        self._faults = FaultSchedule()
        self.set_faults(faults)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self._previous.shape, np.float32)

    def set_faults(self, names: tuple[str, ...], start_s: float = 0.0) -> None:
        """Faults of this and every coming episode, at `start_s` unless they say otherwise.

        Raises GanglionError for one that is not known, and lists the known ones.
        """
        found = tuple(parse_any_fault(name, self.task, self.layout, start_s) for name in names)
        self._faults.end()
        self._faults = FaultSchedule(found)
        self._faults.reset(self.np_random.spawn(1)[0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; the same seed gives the same bytes, whatever came before."""
        super().reset(seed=seed)
        self._faults.end()
        self.randomiser.reset(self.np_random)
        self.pushes.reset(self.np_random)
        self.task.reset(self.sim, self.np_random)
        self._steps = 0
        self._previous[:] = 0.0
        if self.task.action.kind == "position":
            self._previous[:] = self.sim.joint_states()[0][self._joint_order]
        self._faults.reset(self.np_random.spawn(1)[0])
        self._faults.strike(self, 0.0)
        self.suite.reset(self.task.observe(self.sim), self.np_random)
        return self.sense(), {}

    @property
    def time_s(self) -> float:
        """Since the episode began."""
        return self._steps * self._period_s

    def sense(self) -> np.ndarray:
        """What the sensors show (D,) in this tick; `stamp_ns` tells when it arrived."""
        values = self.suite.values.copy()
        self.stamp_ns[:] = np.rint(self.suite.received_s * 1e9)
        self._faults.corrupt(values, self.stamp_ns, self.time_s)
        return values

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One tick with a normalised action (A,). Raises GanglionError if it is not finite or of another size."""
        action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        if action.shape != self._previous.shape or not np.isfinite(action).all():
            raise GanglionError(f"the action must be {self._previous.shape} finite numbers, got {action}")
        observation, outcome = self.advance(self.limits.command(action, self._previous))
        truncated = self._steps >= self.task.episode_steps
        info = {"success": outcome.success, **outcome.metrics}
        return observation, outcome.reward, outcome.terminated, truncated, info

    def advance(self, command: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """One tick with an SI command (A,), limited as on the robot; returns the observation (D,) and the outcome."""
        limited = self.limits.limit(command, self._previous)
        action = self.limits.normalised(limited, self._previous)
        self.executed = action
        self._previous = limited
        self._faults.strike(self, self.time_s)
        self.randomiser.step(self.np_random)
        self.pushes.step(self, self.time_s, self.np_random)
        self.sim.step(self.task.action.kind, limited)
        self.task.advance(self.sim, self.np_random)
        self._steps += 1
        self.suite.advance(self.task.observe(self.sim), self.np_random)
        return self.sense(), self.task.outcome(self.sim, action)

    def close(self) -> None:
        """Disconnect from PyBullet."""
        self.sim.close()


def register() -> None:
    """Make every task known to `gymnasium.make` as `ganglion/NAME-v0`."""
    for name, task in TASKS.items():
        gymnasium.register(
            f"ganglion/{name}-v0", "sim.env:RobotEnv", max_episode_steps=task.episode_steps, kwargs={"task": name}
        )


register()
