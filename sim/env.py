"""A task as a gymnasium environment, and as a robot that takes SI commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np

from runtime.contract import Layout
from runtime.errors import GanglionError
from runtime.faults import Fault, parse_fault
from runtime.limits import Limits, within
from sim.faults import BodyFault, FaultSchedule, parse_any_fault
from sim.randomisation import Draw, Pushes, Randomiser
from sim.sensors import SensorSuite
from sim.simulation import Simulation
from sim.tasks import TASKS, Outcome, Task, TaskInfo, is_external, own_task

_PICTURE = (640, 360)  # width and height


class TaskEnv(gymnasium.Env[np.ndarray, np.ndarray], ABC):
    """Observations are SI readings (D,) in the contract's order; actions are normalised to [-1, 1] (A,).

    `step` maps the action to a command exactly as the Controller does, limits included. A node or an evaluation that
    already has SI commands calls `advance` instead. One tick lasts 1 / rate_hz seconds.
    """

    def __init__(self, task: TaskInfo) -> None:
        self.task = task
        self.limits = Limits(task.action, task.rate_hz)
        self.layout = Layout(task.observations, task.action)
        self._previous = np.zeros(self.layout.joints)
        self.executed = np.zeros(self.layout.joints)
        """Normalised action (A,) of the last tick, after limits."""
        self.stamp_ns = np.zeros(self.layout.size, dtype=np.int64)
        """When each reading (D,) arrived, ns since the episode began."""
        self._faults = FaultSchedule()
        self._steps, self._last_step = 0, task.episode_steps
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.layout.size,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.layout.joints,), np.float32)

    @property
    def time_s(self) -> float:
        """Since the episode began."""
        return self._steps / self.task.rate_hz

    def set_faults(self, names: tuple[str, ...], start_s: float = 0.0) -> None:
        """Faults of this and every coming episode, at `start_s` unless they say otherwise.

        Raises GanglionError for one that is not known, and lists the known ones.
        """
        found = tuple(self._parse_fault(name, start_s) for name in names)
        self._faults.end()
        self._faults = FaultSchedule(found)
        self._faults.reset(self.np_random.spawn(1)[0])

    def _parse_fault(self, name: str, start_s: float) -> Fault | BodyFault:
        return parse_fault(name, self.layout, start_s)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; the same seed gives the same bytes, whatever came before.

        `options["ticks"]` is a time limit other than the task's, for this episode.
        """
        super().reset(seed=seed)
        self._faults.end()
        self._steps, self._last_step = 0, (options or {}).get("ticks", self.task.episode_steps)
        self._begin(seed)
        self._previous[:] = self.pose() if self.task.action.kind == "position" else 0.0
        self._faults.reset(self.np_random.spawn(1)[0])
        return self.sense(), {}

    def sense(self) -> np.ndarray:
        """What the sensors show (D,) in this tick; `stamp_ns` tells when it arrived."""
        values, received_s = self._read()
        self.stamp_ns[:] = np.rint(received_s * 1e9)
        self._faults.corrupt(values, self.stamp_ns, self.time_s)
        return values

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One tick with a normalised action (A,). Raises GanglionError if it is not finite or of another size."""
        action = within(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        if action.shape != self._previous.shape or not np.isfinite(action).all():
            raise GanglionError(f"the action must be {self._previous.shape} finite numbers, got {action}")
        observation, outcome = self.advance(self.limits.command(action, self._previous))
        truncated = self._steps >= self._last_step
        info = {"success": outcome.success, **outcome.metrics}
        return observation, outcome.reward, outcome.terminated, truncated, info

    def advance(self, command: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """One tick with an SI command (A,), limited as on the robot; returns the observation (D,) and the outcome."""
        limited = self.limits.limit(command, self._previous)
        self.executed = self.limits.normalised(limited, self._previous)
        self._previous = limited
        outcome = self._move(limited)
        return self.sense(), outcome

    @abstractmethod
    def set_randomisation(self, table: tuple[Draw, ...]) -> None:
        """Parameters that every coming episode draws. Raises GanglionError for one that the world does not have."""

    @abstractmethod
    def set_difficulty(self, difficulty: float) -> None:
        """How far from nominal the worlds of coming episodes are drawn, 0 to 1."""

    @abstractmethod
    def pose(self) -> np.ndarray:
        """Where the commanded joints are (A,): what a robot holds before the first command."""

    @abstractmethod
    def _begin(self, seed: int | None) -> None:
        """Start an episode from `np_random`."""

    @abstractmethod
    def _move(self, command: np.ndarray) -> Outcome:
        """One tick with an SI command (A,) within its limits; counts it."""

    @abstractmethod
    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """Readings without faults (D,), in an array of their own, and when they arrived (D,), s."""


class RobotEnv(TaskEnv):
    """A robot of this package in PyBullet."""

    metadata = {"render_modes": ["rgb_array", "human"]}  # noqa: RUF012  gymnasium's own attribute

    def __init__(
        self,
        task: str,
        randomisation: tuple[Draw, ...] = (),
        faults: tuple[str, ...] = (),
        render_mode: str | None = None,
    ) -> None:
        """Every episode draws the parameters in `randomisation`; the others are nominal. `faults` strike in each.

        Raises GanglionError for an unknown task or fault, or a randomisation that does not fit the robot.
        """
        own: Task = own_task(task)()
        super().__init__(own)
        self.own = own
        """The task, with what lasts for the episode."""
        self.sim: Simulation = Simulation(
            own.robot, own.rate_hz, own.substeps, own.action.joints, own.boxes, render_mode
        )
        self.suite: SensorSuite = SensorSuite(own.sensors, 1 / own.rate_hz)
        self.pushes = Pushes()
        self.randomiser = Randomiser(self, randomisation)
        self.render_mode = render_mode
        self._joint_order = [own.robot.joint_names.index(j) for j in own.action.joints]
        self.set_faults(faults)

    def _parse_fault(self, name: str, start_s: float) -> Fault | BodyFault:
        return parse_any_fault(name, self.own, self.layout, start_s)

    def set_randomisation(self, table: tuple[Draw, ...]) -> None:
        self.randomiser.use(table)

    def set_difficulty(self, difficulty: float) -> None:
        self.randomiser.difficulty = difficulty

    def pose(self) -> np.ndarray:
        return self.sim.joint_states()[0][self._joint_order]

    def _begin(self, seed: int | None) -> None:
        self.randomiser.reset(self.np_random)
        self.pushes.reset(self.np_random)
        self.own.reset(self.sim, self.np_random)
        self.suite.reset(self.own.observe(self.sim), self.np_random)

    def _move(self, command: np.ndarray) -> Outcome:
        self._faults.strike(self, self.time_s)
        self.randomiser.step(self.np_random)
        self.pushes.step(self, self.time_s, self.np_random)
        self.sim.step(self.own.action.kind, command)
        self.own.advance(self.sim, self.np_random)
        self._steps += 1
        self.suite.advance(self.own.observe(self.sim), self.np_random)
        return self.own.outcome(self.sim, self.executed)

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        return self.suite.values.copy(), self.suite.received_s

    def render(self) -> np.ndarray | None:
        """A picture (360, 640, 3) uint8 in the mode `rgb_array`; in the mode `human` the window follows the robot."""
        if self.render_mode == "human":
            self.sim.follow()
            return None
        return self.sim.picture(*_PICTURE)

    def close(self) -> None:
        """Disconnect from PyBullet."""
        self.sim.close()


def make_env(task: str, randomisation: tuple[Draw, ...] = (), render_mode: str | None = None) -> TaskEnv:
    """The environment of a task, of this package or of gymnasium. Raises GanglionError if there is none."""
    if not is_external(task):
        return RobotEnv(task, randomisation, render_mode=render_mode)
    from sim.external import ExternalEnv

    return ExternalEnv(task, render_mode)


def register() -> None:
    """Make every task known to `gymnasium.make` as `ganglion/NAME-v0`."""
    for name, task in TASKS.items():
        gymnasium.register(
            f"ganglion/{name}-v0", "sim.env:RobotEnv", max_episode_steps=task.episode_steps, kwargs={"task": name}
        )


register()
