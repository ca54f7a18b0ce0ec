"""A task as a gymnasium environment, and as a robot that takes SI commands."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from runtime.errors import GanglionError
from runtime.limits import Limits
from sim.simulation import Simulation
from sim.tasks import TASKS, Outcome, Task, task_class


class RobotEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observations are noisy SI values (D,) in the contract's order; actions are normalised to [-1, 1] (A,).

    `step` maps the action to a command exactly as the Controller does, limits included. A node or an evaluation that
    already has SI commands calls `advance` instead. One tick lasts 1 / rate_hz seconds.
    """

    def __init__(self, task: str) -> None:
        """Raises GanglionError for an unknown task."""
        self.task: Task = task_class(task)()
        self.sim = Simulation(self.task.robot, self.task.rate_hz, self.task.substeps)
        self.limits = Limits(self.task.action, self.task.rate_hz)
        self._noise = np.array([s for group in self.task.noise for s in group])
        self._previous = np.zeros(len(self.task.action.joints))
        self._joint_order = [self.task.robot.joint_names.index(j) for j in self.task.action.joints]
        self.executed = np.zeros_like(self._previous)
        """Normalised action (A,) of the last tick, after limits."""
        self._steps = 0
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, self._noise.shape, np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self._previous.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; the same seed gives the same bytes, whatever came before."""
        super().reset(seed=seed)
        self.task.reset(self.sim, self.np_random)
        self._steps = 0
        self._previous[:] = 0.0
        if self.task.action.kind == "position":
            self._previous[:] = self.sim.joint_states()[0][self._joint_order]
        return self._observe(), {}

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
        self.sim.step(self.task.action.kind, self.task.action.joints, limited)
        self.task.advance(self.sim, self.np_random)
        self._steps += 1
        return self._observe(), self.task.outcome(self.sim, action)

    def _observe(self) -> np.ndarray:
        clean = self.task.observe(self.sim)
        return clean + self._noise * self.np_random.standard_normal(clean.shape)

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
