"""From commands to effort: delay, PD control, motor strength, the torque-speed limit and joint friction."""

from __future__ import annotations

from collections import deque

from sim.robots.base import PDDrive, Robot

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


class Motors:
    """The drives of one robot's commanded joints, which may be weak or stiff.

    It reckons with plain numbers: arrays of a dozen take twice as long, and it is asked in every physics step.
    """

    def __init__(self, robot: Robot, joints: tuple[str, ...]) -> None:
        by_name = {j.name: j for j in robot.joints}
        self._drive = robot.drive
        self._peak = [by_name[j].max_effort for j in joints]
        self.strength = [1.0] * len(joints)
        """Share (A,) of the effort that arrives at each joint."""
        self.friction = [0.0] * len(joints)
        """Coulomb friction (A,), N·m or N."""

    @property
    def open_loop(self) -> bool:
        """Whether the effort depends on the command alone."""
        return self._drive is None and not any(self.friction)

    def effort(self, kind: str, command: list[float], position: list[float], velocity: list[float]) -> list[float]:
        """Effort of A joints at A commands of `kind`, positions and velocities."""
        effort = command if self._drive is None else self._driven(self._drive, kind, command, position, velocity)
        effort = [share * e for share, e in zip(self.strength, effort)]
        if any(self.friction):
            brakes = (f * min(max(v / _BREAKAWAY, -1.0), 1.0) for f, v in zip(self.friction, velocity))
            effort = [e - brake for e, brake in zip(effort, brakes)]
        return effort

    def _driven(
        self, drive: PDDrive, kind: str, command: list[float], position: list[float], velocity: list[float]
    ) -> list[float]:
        """Effort of a PD drive within what a DC motor can give at its velocity.

        In the direction of motion that falls linearly from the peak to zero at the no-load speed; against it, the peak
        is available.
        """
        k, d, no_load_speed = drive.stiffness, drive.damping, drive.no_load_speed
        if kind == "position":
            wanted = [k * (c - p) - d * v for c, p, v in zip(command, position, velocity)]
        elif kind == "velocity":
            wanted = [d * (c - v) for c, v in zip(command, velocity)]
        else:
            wanted = command
        effort = []
        for e, v, peak in zip(wanted, velocity, self._peak):
            left = 1.0 - (v if v > 0.0 else -v) / no_load_speed
            left = peak * left if left > 0.0 else 0.0
            low, high = (-peak, left) if v > 0.0 else (-left, peak)
            effort.append(low if e < low else high if e > high else e)
        return effort
