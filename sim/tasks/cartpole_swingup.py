"""Swing a hanging pole up by pushing the cart, and keep it up."""

from __future__ import annotations

from collections import deque

import numpy as np

from runtime.contract import Action
from sim.instruments import encoders, joint_speeds
from sim.robots.cartpole import CARTPOLE
from sim.simulation import Simulation
from sim.tasks.base import Outcome, Task

_MAX_FORCE = 15.0  # N
_MAX_POSITION, _MOST_TURNS = 4.0, 2.5 * np.pi  # m, rad
_UP = 0.2  # rad
_LAST_TICKS = 100
_ROOM = 2 * np.pi  # rad beyond the joint's range, for the pole may turn over


class CartPoleSwingup(Task):
    """10 s from hanging at rest. The encoder counts turns: upright is 0, on either side hangs -pi and pi.

    Solved if the pole was within 0.2 rad of upright in every tick of the last second. It fails if the cart leaves 4 m
    or the pole has turned over twice.
    """

    name = "cartpole_swingup"
    summary = "swing a pole up and balance it"
    robot = CARTPOLE
    substeps = 2
    episode_steps = 1000
    sensors = (
        encoders(CARTPOLE.joints, scale=(1.0, 1.5), noise=0.002, margin=_ROOM, min_valid=1, unit="m, rad"),
        joint_speeds(CARTPOLE.joints, scale=(2.0, 4.0), noise=0.02, largest=(30.0, 60.0), unit="m/s, rad/s"),
    )
    action = Action(
        kind="effort", mode="absolute", topic="command", joints=("slider_to_cart",), unit="N", scale=(_MAX_FORCE,),
        offset=(0.0,), low=(-_MAX_FORCE,), high=(_MAX_FORCE,), max_rate=(3000.0,), safe="zero",
    )  # fmt: skip

    def __init__(self) -> None:
        self._angles: deque[float] = deque(maxlen=_LAST_TICKS)

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        angle = rng.choice((-np.pi, np.pi)) + rng.uniform(-0.1, 0.1)
        sim.reset(np.array((rng.uniform(-0.3, 0.3), angle)), rng.uniform(-0.1, 0.1, 2))
        self._angles.clear()

    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Nothing moves but the robot."""

    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        (position, angle), (_, spin) = sim.joint_states()
        self._angles.append(abs(float(angle)))
        failed = bool(abs(position) > _MAX_POSITION or abs(angle) > _MOST_TURNS)
        height = 0.5 * (1.0 + np.cos(angle))
        reward = (
            height
            + np.exp(-((angle / 0.2) ** 2))
            - 0.02 * position**2
            - 0.001 * spin**2
            - 0.01 * float(action @ action)
        )
        success = not failed and len(self._angles) == _LAST_TICKS and max(self._angles) < _UP
        metrics = {"angle_rad": abs(float(angle)), "position_m": abs(float(position))}
        return Outcome(0.0 if failed else float(reward), failed, success=success, metrics=metrics)
