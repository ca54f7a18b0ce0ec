"""From commands to effort: delay, PD control, motor strength, the torque-speed limit and joint friction."""

from __future__ import annotations

from collections import deque

import numpy as np

from sim.robots.base import Robot

_BREAKAWAY = 0.1  # rad/s or m/s over which Coulomb friction builds up, so that it does not chatter


class DelayLine:
    """Commands that take effect some physics steps after they were given."""

    def __init__(self) -> None:
        self.steps = 0
        """Physics steps between a command and its effect."""
        self._waiting: deque[tuple[int, list[float]]] = deque()
        self._now = 0
        self._current: list[float] | None = None

    def reset(self) -> None:
        """Forget every command."""
        self._waiting.clear()
        self._current = None

    def give(self, command: list[float]) -> None:
        """A command from now on; the first one since the reset takes effect at once."""
        if self._current is None:
            self._current = command
        self._waiting.append((self._now + self.steps, command))

    def step(self) -> list[float]:
        """The command in effect in the next physics step."""
        while self._waiting and self._waiting[0][0] <= self._now:
            self._current = self._waiting.popleft()[1]
        self._now += 1
        assert self._current is not None
        return self._current


def limited_effort(effort: float, velocity: float, peak: float, no_load_speed: float) -> float:
    """`effort` within what a DC motor with the effort `peak` can give at `velocity`.

    In the direction of motion it falls linearly to zero at the no-load speed; against it, the peak is available.
    """
    left = peak * max(1.0 - abs(velocity) / no_load_speed, 0.0)
    return min(max(effort, -peak), left) if velocity > 0.0 else min(max(effort, -left), peak)


class Motors:
    """The drives of one robot's commanded joints, which may be weak or stiff.

    It reckons with plain numbers: arrays of a dozen take twice as long, and it is asked in every physics step.
    """

    def __init__(self, robot: Robot, joints: tuple[str, ...]) -> None:
        by_name = {j.name: j for j in robot.joints}
        self._drive = robot.drive
        self._peak = [by_name[j].max_effort for j in joints]
        self.strength = np.ones(len(joints))
        """Share (A,) of the effort that arrives at each joint."""
        self.friction = np.zeros(len(joints))
        """Coulomb friction (A,), N·m or N."""

    @property
    def open_loop(self) -> bool:
        """Whether the effort depends on the command alone."""
        return self._drive is None and not self.friction.any()

    def effort(self, kind: str, command: list[float], position: list[float], velocity: list[float]) -> list[float]:
        """Effort of A joints at A commands of `kind`, positions and velocities."""
        drive, effort = self._drive, command
        if drive is not None:
            k, d = drive.stiffness, drive.damping
            if kind == "position":
                effort = [k * (c - p) - d * v for c, p, v in zip(command, position, velocity)]
            elif kind == "velocity":
                effort = [d * (c - v) for c, v in zip(command, velocity)]
            fastest = drive.no_load_speed
            effort = [limited_effort(e, v, peak, fastest) for e, v, peak in zip(effort, velocity, self._peak)]
        effort = [share * e for share, e in zip(self.strength.tolist(), effort)]
        if self.friction.any():
            brakes = (f * min(max(v / _BREAKAWAY, -1.0), 1.0) for f, v in zip(self.friction.tolist(), velocity))
            effort = [e - brake for e, brake in zip(effort, brakes)]
        return effort
