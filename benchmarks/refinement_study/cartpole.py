"""The sensor-rich cart-pole: N analytic environments at once, in float64, at 100 Hz.

A cart follows a moving target and keeps a pole upright, while a random force pushes it and rare kicks hit the pole.
Nine partly redundant sensor channels see it; losing any one sensor but the target's leaves the state observable.

State (x, v, theta, omega, F): cart position m and velocity m/s, pole angle rad (0 upright, positive towards +x) and
rate rad/s, motor force N.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from runtime.contract import Action, Layout, Observation
from runtime.errors import ContractError

TICK_S = 0.01
EPISODE_TICKS = 1000
LIMIT_N = 12.0

_GRAVITY = 9.81
_ACCELEROMETER_M = 0.4  # from the pivot, along the pole
_FALLEN_RAD, _LOST_M = 0.8, 4.0
_STEP = 1e-5  # of the central differences, near the cube root of the float64 resolution
# Cheaper commands follow the target closer, but turn estimation error into force.
_COMMAND_COST = 1.0

# The cart feels the pole's angle as 3.3 m/s2 per rad, and a push looks the same. With this push and this pole the angle
# stays observable to 60 mrad while no sensor sees the pole; with 1 N and a pole of 0.2 kg it would be 800 mrad.
PUSH_STD_N = 0.1
PUSH_DECAY = float(np.exp(-TICK_S / 0.5))
"""Per tick, of the force that pushes the cart: an Ornstein-Uhlenbeck process with time constant 0.5 s."""
KICK_CHANCE, KICK_STD = 0.005, 0.2  # per tick; rad/s
START_RANGE = np.array([0.3, 0.1, 0.1, 0.1, 0.0])
"""Half widths of the uniform start; the cart starts around the target's position."""

_TARGET_M = np.array([0.5, 0.3])  # amplitudes of the target's two sines
_TARGET_HZ = ((0.05, 0.10), (0.10, 0.25))


def _sensor(
    name: str, kind: str, channels: tuple[str, ...], unit: str, mean: tuple[float, ...], scale: float, width: float
) -> Observation:
    """Optional sensor whose range is mean ± width."""
    return Observation(
        name=name, kind=kind, topic=name, channels=channels, unit=unit, mean=mean, scale=(scale,) * len(channels),
        low=tuple(m - width for m in mean), high=tuple(m + width for m in mean), max_age_s=0.05, min_valid=0,
    )  # fmt: skip


OBSERVATIONS = (
    _sensor("position_encoder", "joint_position", ("cart",), "m", (0.0,), 0.5, 50.0),
    _sensor("lidar", "joint_position", ("cart",), "m", (0.0,), 0.5, 50.0),
    _sensor("tachometer", "joint_velocity", ("cart",), "m/s", (0.0,), 0.5, 100.0),
    _sensor("angle_encoder", "joint_position", ("pole",), "rad", (0.0,), 0.2, 10.0),
    _sensor("gyro", "joint_velocity", ("pole",), "rad/s", (0.0,), 0.5, 100.0),
    _sensor("accelerometer", "specific_force", ("axial", "tangential"), "m/s2", (_GRAVITY, 0.0), 1.0, 500.0),
    _sensor("motor_force", "joint_effort", ("cart",), "N", (0.0,), 2.0, 200.0),
    Observation(
        name="reference", kind="joint_position", topic="reference", channels=("target",), unit="m", mean=(0.0,),
        scale=(0.5,), low=(-50.0,), high=(50.0,), max_age_s=0.05, min_valid=1,
    ),
)  # fmt: skip
NOISE = np.array([0.01, 0.03, 0.05, 0.02, 0.1, 0.5, 0.5, 0.2, 0.0])
"""Standard deviation (D,) of every channel, SI; the reference is exact."""
ACTION = Action(
    kind="effort", mode="absolute", topic="command", joints=("cart",), unit="N", scale=(LIMIT_N,), offset=(0.0,),
    low=(-LIMIT_N,), high=(LIMIT_N,), max_rate=(2 * LIMIT_N / TICK_S,), safe="zero",
)  # fmt: skip
LAYOUT = Layout(OBSERVATIONS, ACTION)


@dataclass(frozen=True)
class Body:
    """Mechanics of a cart with a uniform pole on a frictional hinge, driven through a lagging motor."""

    cart_kg: float = 1.0
    pole_kg: float = 0.5
    half_length_m: float = 0.5
    cart_friction: float = 0.1
    """N s/m."""
    pole_friction: float = 0.002
    """N m s/rad."""
    motor_lag_s: float = 0.03

    def accelerations(
        self, state: np.ndarray, push: np.ndarray, payload: np.ndarray | float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of cart (m/s2) and pole (rad/s2), (...,) each, from the two Lagrange equations.

        `state` (..., 5), `push` N (...,) on the cart; `payload` multiplies the cart's mass.
        """
        v, theta, omega, force = (state[..., i] for i in range(1, 5))
        sin, cos = np.sin(theta), np.cos(theta)
        moment = self.pole_kg * self.half_length_m
        inertia = 4 / 3 * moment * self.half_length_m
        mass = self.cart_kg * payload + self.pole_kg
        drive = force + push - self.cart_friction * v + moment * omega**2 * sin
        torque = moment * _GRAVITY * sin - self.pole_friction * omega
        determinant = mass * inertia - (moment * cos) ** 2
        return (
            (inertia * drive - moment * cos * torque) / determinant,
            (mass * torque - moment * cos * drive) / determinant,
        )

    def advance(
        self, state: np.ndarray, command: np.ndarray, push: np.ndarray, payload: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """State (..., 5) one tick later, by a Runge-Kutta step; `command` N and `push` N (...,) stay constant."""

        def slope(at: np.ndarray) -> np.ndarray:
            cart, pole = self.accelerations(at, push, payload)
            return np.stack([at[..., 1], cart, at[..., 3], pole, (command - at[..., 4]) / self.motor_lag_s], axis=-1)

        k1 = slope(state)
        k2 = slope(state + TICK_S / 2 * k1)
        k3 = slope(state + TICK_S / 2 * k2)
        k4 = slope(state + TICK_S * k3)
        return state + TICK_S / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def sense(self, state: np.ndarray, push: np.ndarray, payload: np.ndarray | float = 1.0) -> np.ndarray:
        """Noise-free readings (..., D - 1) of every sensor but the reference, in the order of `OBSERVATIONS`.

        The accelerometer feels the specific force (acceleration less gravity) in the pole's frame.
        """
        x, v, theta, omega, force = (state[..., i] for i in range(5))
        cart, pole = self.accelerations(state, push, payload)
        sin, cos = np.sin(theta), np.cos(theta)
        axial = cart * sin + _GRAVITY * cos - _ACCELEROMETER_M * omega**2
        tangential = cart * cos - _GRAVITY * sin + _ACCELEROMETER_M * pole
        return np.stack([x, x, v, theta, omega, axial, tangential, force], axis=-1)


BODY = Body()


def linearise(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value (N, m) and Jacobian (N, m, n) of `function` at the points (N, n), by central differences.

    `function` maps (N, k, n) to (N, k, m) and is called once.
    """
    n = at.shape[-1]
    offsets = _STEP * np.concatenate([np.zeros((1, n)), np.eye(n), -np.eye(n)])
    values = function(at[:, None] + offsets)
    slopes = (values[:, 1 : n + 1] - values[:, n + 1 :]) / (2 * _STEP)
    return values[:, 0], slopes.swapaxes(1, 2)


@cache
def regulator() -> tuple[float, ...]:
    """Gain (5,) of the linear quadratic regulator: normalised action = -gain · (x - r, v, theta, omega, F).

    The cost is the task's and the command's: (x - r)^2 + 5 theta^2 + a^2, with a the normalised action. The discrete
    Riccati equation is iterated on the upright model without payload.
    """

    def tick(z: np.ndarray) -> np.ndarray:
        return BODY.advance(z[..., :5], LIMIT_N * z[..., 5], np.zeros(z.shape[:-1]))

    jacobian = linearise(tick, np.zeros((1, 6)))[1][0]
    a, b = jacobian[:, :5], jacobian[:, 5:]
    cost = np.diag([1.0, 0.0, 5.0, 0.0, 0.0])
    value = cost
    for _ in range(5000):
        gain = np.linalg.solve(_COMMAND_COST + b.T @ value @ b, b.T @ value @ a)
        value = cost + a.T @ value @ (a - b @ gain)
        value = (value + value.T) / 2
    return tuple(gain[0].tolist())


def expert_action(state: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Regulator's action (N,) in [-1, 1] for the states (N, 5 or more) and target positions (N,) in m."""
    error = state[:, :5].copy()
    error[:, 0] -= reference
    return np.clip(-error @ np.array(regulator()), -1.0, 1.0)


class SensorCartPole:
    """N environments, each for itself; a failed one stands still, at the highest cost, until it is reset.

    Noise, pushes, kicks and targets do not depend on actions or failures: worlds made from equal generators and stepped
    and reset alike are paired, whatever the agents do. Every reset call draws for all N, whichever it resets.
    """

    def __init__(
        self, count: int, rng: np.random.Generator, payload: float | np.ndarray = 1.0, copies: int = 1
    ) -> None:
        """With `copies`, the N = `count` environments are that many times the same ones, side by side."""
        self.count, self._copies = count, copies
        self.payload = np.broadcast_to(np.asarray(payload, dtype=np.float64), (count,))
        """Factor (N,) on the cart's mass."""
        self._rng = rng
        self.state = np.zeros((count, 5))
        self.push = np.zeros(count)
        """Random force on the cart, N (N,)."""
        self.failed = np.zeros(count, dtype=bool)
        """Where the pole has fallen or the cart has left since the reset, (N,)."""
        self._tick = np.zeros(count, dtype=np.int64)
        self._frequency = np.zeros((count, 2))
        self._phase = np.zeros((count, 2))
        self._noise = np.zeros((count, LAYOUT.size))
        self.reset()

    def reset(self, which: np.ndarray | None = None) -> None:
        """New episodes where `which` (N,) is true; everywhere by default."""
        where = np.ones(self.count, dtype=bool) if which is None else which
        low, high = np.transpose(_TARGET_HZ)
        own = self.count // self._copies
        frequency = self._repeat(self._rng.uniform(low, high, (own, 2)))
        phase = self._repeat(self._rng.uniform(0.0, 2 * np.pi, (own, 2)))
        start = self._repeat(self._rng.uniform(-START_RANGE, START_RANGE, (own, 5)))
        push = PUSH_STD_N * self._normal()
        noise = self._draw_noise()
        self._frequency[where], self._phase[where] = frequency[where], phase[where]
        self._tick[where] = 0
        start[:, 0] += self.reference
        self.state[where], self.push[where], self._noise[where] = start[where], push[where], noise[where]
        self.failed[where] = False

    @property
    def reference(self) -> np.ndarray:
        """Position (N,) of the target, m."""
        angle = 2 * np.pi * self._frequency * (self._tick * TICK_S)[:, None] + self._phase
        return np.sin(angle) @ _TARGET_M

    def observe(self) -> np.ndarray:
        """Noisy readings (N, D) of this tick in SI units; the same until the next step."""
        readings = BODY.sense(self.state, self.push, self.payload)
        return np.concatenate([readings, self.reference[:, None]], axis=1) + self._noise

    def step(self, action: np.ndarray) -> None:
        """Advance one tick with the normalised actions (N,), clipped to [-1, 1].

        Raises ContractError if their shape is wrong or one is not finite.
        """
        if action.shape != (self.count,) or not np.isfinite(action).all():
            raise ContractError(
                f"the action has shape {action.shape} with {int(np.sum(~np.isfinite(action)))} values that are not "
                f"finite, expected ({self.count},) finite values: one per environment"
            )
        state = BODY.advance(self.state, LIMIT_N * np.clip(action, -1.0, 1.0), self.push, self.payload)
        kicked = self._repeat(self._rng.random(self.count // self._copies)) < KICK_CHANCE
        state[:, 3] += kicked * KICK_STD * self._normal()
        self.state = np.where(self.failed[:, None], self.state, state)
        fresh = np.sqrt(1 - PUSH_DECAY**2) * self._normal()
        self.push = PUSH_DECAY * self.push + PUSH_STD_N * fresh
        self._noise = self._draw_noise()
        self._tick += 1
        self.failed |= (np.abs(self.state[:, 2]) > _FALLEN_RAD) | (np.abs(self.state[:, 0]) > _LOST_M)

    def cost(self) -> np.ndarray:
        """Cost (N,) of this tick, min(1, (x - r)^2 + 5 theta^2), and 1 after a failure; J = 100 × its mean."""
        cost = (self.state[:, 0] - self.reference) ** 2 + 5 * self.state[:, 2] ** 2
        return np.where(self.failed, 1.0, np.minimum(1.0, cost))

    def expert(self) -> np.ndarray:
        """Regulator's action (N,) in [-1, 1] on the true state."""
        return expert_action(self.state, self.reference)

    def _draw_noise(self) -> np.ndarray:
        return NOISE * self._normal(LAYOUT.size)

    def _normal(self, *shape: int) -> np.ndarray:
        """Standard normal numbers (N, *shape), the same in every copy."""
        return self._repeat(self._rng.standard_normal((self.count // self._copies, *shape)))

    def _repeat(self, drawn: np.ndarray) -> np.ndarray:
        return np.tile(drawn, (self._copies, *[1] * (drawn.ndim - 1)))
