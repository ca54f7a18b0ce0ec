"""What of the world may differ: parameters in physical units, and how an episode draws them.

A task's table lists draws, one line each. `difficulty` scales all of them from the nominal value (0) to the whole range
(1), which is where a curriculum takes hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import GanglionError

if TYPE_CHECKING:
    from sim.env import RobotEnv
    from sim.tasks.base import Task

DISTRIBUTIONS = ("uniform", "log_uniform")
PERIODS = ("episode", "step")


@dataclass(frozen=True)
class Parameter:
    """One property of the world."""

    what: str
    unit: str
    nominal: float
    low: float
    high: float
    """Values between which it makes sense."""
    apply: Callable[[RobotEnv, float], None]
    floating: bool = False
    """Only of a robot that is not bolted to the world."""
    grounded: bool = False
    """Only of a world with a plane."""


def _set_delay(env: RobotEnv, seconds: float) -> None:
    env.sim.delay.steps = round(seconds / env.sim.step_s)


def _set_strength(env: RobotEnv, share: float) -> None:
    env.sim.motors.strength[:] = [share] * len(env.sim.motors.strength)


def _set_joint_friction(env: RobotEnv, effort: float) -> None:
    env.sim.motors.friction[:] = [effort] * len(env.sim.motors.friction)


def _set_noise(env: RobotEnv, factor: float) -> None:
    env.suite.noise_factor = factor


def _set_latency(env: RobotEnv, seconds: float) -> None:
    env.suite.extra_latency_s = seconds


def _set_push(env: RobotEnv, impulse: float) -> None:
    env.pushes.impulse = impulse


def _set_push_pause(env: RobotEnv, seconds: float) -> None:
    env.pushes.pause_s = seconds


PARAMETERS: dict[str, Parameter] = {
    "friction": Parameter(
        "friction of the ground", "1", 1.0, 0.02, 3.0, lambda env, v: env.sim.set_friction(v), grounded=True
    ),
    "payload": Parameter("added to the link that carries it", "kg", 0.0, 0.0, 50.0, lambda e, v: e.sim.set_payload(v)),
    "motor_strength": Parameter("share of the motors' effort", "1", 1.0, 0.0, 2.0, _set_strength),
    "joint_friction": Parameter("Coulomb friction of every joint", "N·m or N", 0.0, 0.0, 20.0, _set_joint_friction),
    "command_delay": Parameter("from the command to its effect", "s", 0.0, 0.0, 0.1, _set_delay),
    "sensor_noise": Parameter("times the noise of every sensor", "1", 1.0, 0.0, 10.0, _set_noise),
    "sensor_latency": Parameter("added to that of every sensor", "s", 0.0, 0.0, 0.1, _set_latency),
    "push": Parameter("impulse of each random horizontal push", "N·s", 0.0, 0.0, 100.0, _set_push, floating=True),
    "push_pause": Parameter("mean time between pushes", "s", 3.5, 0.5, 60.0, _set_push_pause, floating=True),
}
"""Everything that may be randomised, by name."""


def parameter(name: str) -> Parameter:
    """The parameter called `name`. Raises GanglionError that lists the known ones."""
    if name not in PARAMETERS:
        raise GanglionError(f"there is no parameter '{name}'; expected one of {', '.join(sorted(PARAMETERS))}")
    return PARAMETERS[name]


def applies(known: Parameter, task: Task | type[Task]) -> bool:
    """Whether the world of `task` has such a parameter."""
    bolted = task.robot.fixed_base
    return not ((known.floating and bolted) or (known.grounded and bolted and not task.boxes))


def check_value(name: str, value: float, task: Task) -> None:
    """Raises GanglionError if the world of `task` has no such parameter, or the value makes no sense."""
    known = parameter(name)
    if not applies(known, task):
        raise GanglionError(f"'{name}' cannot be changed: {task.robot.name} is bolted to the world")
    if not known.low <= value <= known.high:
        raise GanglionError(
            f"{name} is {value:g}, expected {known.low:g} to {known.high:g} {known.unit} ({known.what})"
        )


@dataclass(frozen=True)
class Draw:
    """One line of a randomisation table."""

    name: str
    """Of a parameter."""
    low: float
    high: float
    """In its unit."""
    distribution: str = "uniform"
    per: str = "episode"
    """`episode`, or `step` for a new value every tick."""

    def __post_init__(self) -> None:
        known = parameter(self.name)
        if not known.low <= self.low <= self.high <= known.high:
            raise GanglionError(
                f"randomisation of '{self.name}' is {self.low:g} to {self.high:g}, "
                f"expected a range within {known.low:g} to {known.high:g} {known.unit}"
            )
        if self.distribution not in DISTRIBUTIONS or self.per not in PERIODS:
            raise GanglionError(
                f"randomisation of '{self.name}': got {self.distribution!r} per {self.per!r}, "
                f"expected one of {DISTRIBUTIONS} per one of {PERIODS}"
            )
        if self.distribution == "log_uniform" and self.low <= 0:
            raise GanglionError(f"randomisation of '{self.name}' is log_uniform from {self.low:g}; expected above 0")

    def sample(self, rng: np.random.Generator, difficulty: float = 1.0) -> float:
        """One value."""
        if self.distribution == "uniform":
            value = rng.uniform(self.low, self.high)
        else:
            value = np.exp(rng.uniform(np.log(self.low), np.log(self.high)))
        nominal = PARAMETERS[self.name].nominal
        return float(nominal + difficulty * (value - nominal))


class Pushes:
    """Horizontal pushes of the base, at random times and in random directions."""

    _SHORTEST, _LONGEST = 4 / 7, 10 / 7  # pause, over the mean one
    _DURATION_S = 0.1

    def __init__(self) -> None:
        self.impulse = 0.0
        """Of each push, N·s."""
        self.pause_s = 3.5
        """Mean time between two pushes."""
        self._next = np.inf

    def reset(self, rng: np.random.Generator) -> None:
        """A new episode."""
        self._next = self._pause(rng) if self.impulse else np.inf

    def step(self, env: RobotEnv, time_s: float, rng: np.random.Generator) -> None:
        """Push if it is time."""
        if time_s < self._next:
            return
        angle = rng.uniform(0.0, 2 * np.pi)
        env.sim.push(self.impulse * np.array([np.cos(angle), np.sin(angle), 0.0]), self._DURATION_S)
        self._next = time_s + self._pause(rng)

    def _pause(self, rng: np.random.Generator) -> float:
        return rng.uniform(self._SHORTEST * self.pause_s, self._LONGEST * self.pause_s)


class Randomiser:
    """Draws the parameters of one environment, episode by episode."""

    def __init__(self, env: RobotEnv, table: tuple[Draw, ...]) -> None:
        """Raises GanglionError if the robot lacks what a draw changes."""
        self._env = env
        self.use(table)
        self.difficulty = 1.0
        """Of the coming episodes, 0 to 1."""
        self._applied = {name: p.nominal for name, p in PARAMETERS.items()}

    def use(self, table: tuple[Draw, ...]) -> None:
        """Draw from `table` in every coming episode. Raises GanglionError if the robot lacks what a draw changes."""
        for draw in table:
            check_value(draw.name, draw.low, self._env.own)
        self.table = table

    @property
    def values(self) -> dict[str, float]:
        """Of every parameter, as it is now."""
        return dict(self._applied)

    def set(self, name: str, value: float) -> None:
        """Change one parameter. Raises GanglionError if the value makes no sense."""
        if value != self._applied[name]:
            check_value(name, value, self._env.own)
            PARAMETERS[name].apply(self._env, value)
            self._applied[name] = value

    def reset(self, rng: np.random.Generator) -> None:
        """Draw everything for a new episode; what is not in the table is nominal."""
        drawn = {draw.name: draw.sample(rng, self.difficulty) for draw in self.table}
        for name, known in PARAMETERS.items():
            self.set(name, drawn.get(name, known.nominal))

    def step(self, rng: np.random.Generator) -> None:
        """Draw what changes every tick."""
        for draw in self.table:
            if draw.per == "step":
                self.set(draw.name, draw.sample(rng, self.difficulty))
