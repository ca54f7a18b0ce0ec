"""Balance a pole on a cart by pushing the cart."""

from __future__ import annotations

import numpy as np

from runtime.contract import Action
from sim.robots.cartpole import CARTPOLE, SENSORS
from sim.simulation import Simulation
from sim.tasks.base import Outcome, Task

_MAX_FORCE = 10.0  # N
_MAX_ANGLE, _MAX_POSITION = 0.4, 2.4  # rad, m


class CartPole(Task):
    """Perturbed starts; 500 ticks upright (|angle| < 0.4 rad, |position| < 2.4 m) solve it."""

    name = "cartpole"
    summary = "balance a pole on a cart"
    robot = CARTPOLE
    substeps = 2
    episode_steps = 500
    sensors = SENSORS
    action = Action(
        kind="effort", mode="absolute", topic="command", joints=("slider_to_cart",), unit="N", scale=(_MAX_FORCE,),
        offset=(0.0,), low=(-_MAX_FORCE,), high=(_MAX_FORCE,), max_rate=(2000.0,), safe="zero",
    )  # fmt: skip

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        position = np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.2)])
        velocity = np.array([rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)])
        sim.reset(position, velocity)

    def advance(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Nothing moves but the robot."""

    def outcome(self, sim: Simulation, action: np.ndarray) -> Outcome:
        (position, angle), _ = sim.joint_states()
        fell = abs(angle) > _MAX_ANGLE or abs(position) > _MAX_POSITION
        reward = 0.0 if fell else 1.0 - 0.2 * position**2 - 2.0 * angle**2 - 0.02 * float(action @ action)
        metrics = {"angle_rad": abs(float(angle)), "position_m": abs(float(position))}
        return Outcome(reward, bool(fell), success=not fell, metrics=metrics)
