"""What a task is: a robot, its observations and action as in the contract, a reset, and an outcome per tick."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from runtime.contract import Action, Observation
from runtime.errors import GanglionError
from sim.randomisation import Draw
from sim.robots.base import Robot
from sim.sensors import Sensor
from sim.simulation import Box, Simulation

NOMINAL = "nominal"
"""The name of no fault, and of the world in which nothing is randomised."""


@dataclass(frozen=True)
class Outcome:
    """What one tick led to."""

    reward: float
    terminated: bool
    success: bool
    """Whether the episode counts as solved if it ends here."""
    metrics: dict[str, float] = field(default_factory=dict)


class TaskInfo:
    """What there is to know of a task without simulating it."""

    name: ClassVar[str]
    summary: ClassVar[str]
    robot: ClassVar[Robot]
    rate_hz: ClassVar[float] = 100.0
    episode_steps: ClassVar[int]
    observations: ClassVar[tuple[Observation, ...]]
    action: ClassVar[Action]
    choices: ClassVar[tuple[tuple[float, ...], ...]] = ()
    """Normalised actions (A,) among which an agent chooses; none if the action is continuous."""
    randomisation: ClassVar[tuple[Draw, ...]] = ()
    """What differs from episode to episode while training."""
    hard: ClassVar[tuple[Draw, ...]] = ()
    """A harder table, to judge by; none if empty."""
    rough: ClassVar[tuple[Draw, ...]] = ()
    """A table that leads from the randomised world to the hard one, to train in; none if empty."""
    judged: ClassVar[slice] = slice(-50, None)
    """Ticks of an episode whose metrics count."""

    @classmethod
    def worlds(cls) -> dict[str, tuple[Draw, ...]]:
        """What is randomised in each world that there is, by its name."""
        tables = {"randomised": cls.randomisation, "rough": cls.rough, "hard": cls.hard}
        return {NOMINAL: ()} | {name: table for name, table in tables.items() if table}

    @classmethod
    def world(cls, name: str) -> tuple[Draw, ...]:
        """What is randomised in the world called `name`. Raises GanglionError that lists the task's worlds."""
        known = cls.worlds()
        if name not in known:
            raise GanglionError(f"the task '{cls.name}' has no world '{name}'; expected one of {', '.join(known)}")
        return known[name]


class Task(TaskInfo, ABC):
    """One task; holds what lasts for an episode (targets), while the physics is in the Simulation."""

    substeps: ClassVar[int]
    """Physics steps per tick."""
    boxes: ClassVar[tuple[Box, ...]] = ()
    """Things beside the robot."""
    sensors: ClassVar[tuple[Sensor, ...]]

    def __init_subclass__(cls) -> None:
        cls.observations = tuple(s.observation for s in getattr(cls, "sensors", ()))

    @abstractmethod
    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Place the robot and draw the episode's targets."""

    @abstractmethod
    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Move the targets by one control period, after the physics."""

    def observe(self, sim: Simulation) -> np.ndarray:
        """SI values (D,) of every channel without errors, in the order of `observations`."""
        return np.concatenate([s.read(sim, self) for s in self.sensors])

    @abstractmethod
    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        """Reward and end of this tick; `action` (A,) is normalised."""
