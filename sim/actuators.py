"""From commands to effort: delay, PD control, motor strength, the torque-speed limit and joint friction."""

from __future__ import annotations

from collections import deque

import numpy as np

from runtime.limits import within
from sim.robots.base import Robot

_BREAKAWAY = 0.1  # rad/s or m/s over which Coulomb friction builds up, so that it does not chatter


class DelayLine:
    """Commands that take effect some physics steps after they were given."""

    def __init__(self) -> None:
        self.steps = 0
        """Physics steps between a command and its effect."""
        self._waiting: deque[tuple[int, np.ndarray]] = deque()
        self._now = 0
        self._current: np.ndarray | None = None

    def reset(self) -> None:
        """Forget every command."""
        self._waiting.clear()
        self._current = None

    def give(self, command: np.ndarray) -> None:
        """A command (A,) from now on; the first one since the reset takes effect at once."""
        if self._current is None:
            self._current = command
        self._waiting.append((self._now + self.steps, command))

    def step(self) -> np.ndarray:
        """The command in effect (A,) in the next physics step."""
        while self._waiting and self._waiting[0][0] <= self._now:
            self._current = self._waiting.popleft()[1]
        self._now += 1
        assert self._current is not None
        return self._current


def limited_effort(effort: np.ndarray, velocity: np.ndarray, most: np.ndarray, no_load_speed: float) -> np.ndarray:
    """`effort` (J,) within what a DC motor with peak effort `most` (J,) can give at `velocity` (J,).

    In the direction of motion it falls linearly to zero at the no-load speed; against it, the peak is available.
    """
    share = velocity / no_load_speed
    upper = most * within(1.0 - share, 0.0, 1.0)
    lower = -most * within(1.0 + share, 0.0, 1.0)
    return within(effort, lower, upper)


class Motors:
    """The drives of one robot's commanded joints, which may be weak or stiff."""

    def __init__(self, robot: Robot, joints: tuple[str, ...]) -> None:
        by_name = {j.name: j for j in robot.joints}
        self._drive = robot.drive
        self._peak = np.array([by_name[j].max_effort for j in joints])
        self.strength = np.ones(len(joints))
        """Share (A,) of the effort that arrives at each joint."""
        self.friction = np.zeros(len(joints))
        """Coulomb friction (A,), N·m or N."""

    @property
    def open_loop(self) -> bool:
        """Whether the effort depends on the command alone."""
        return self._drive is None and not self.friction.any()

    def effort(self, kind: str, command: np.ndarray, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Effort (A,) on the joints at a command (A,) of `kind`, positions and velocities (A,)."""
        effort = command
        if self._drive is not None:
            if kind == "position":
                effort = self._drive.stiffness * (command - position) - self._drive.damping * velocity
            elif kind == "velocity":
                effort = self._drive.damping * (command - velocity)
            effort = limited_effort(effort, velocity, self._peak, self._drive.no_load_speed)
        return self.strength * effort - self.friction * within(velocity / _BREAKAWAY, -1.0, 1.0)
