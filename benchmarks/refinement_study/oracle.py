"""The yardstick: an extended Kalman filter with the true model, and the expert's regulator on its estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.refinement_study.cartpole import (
    BODY,
    KICK_CHANCE,
    KICK_STD,
    LAYOUT,
    LIMIT_N,
    NOISE,
    PUSH_DECAY,
    PUSH_STD_N,
    START_RANGE,
    expert_action,
    linearise,
)
from benchmarks.refinement_study.cartpole_arena import TIED
from benchmarks.refinement_study.pilots import Pilot
from training.agent.agent import State

_SENSORS = LAYOUT.size - 1  # all but the reference
_START = np.diag([1.0, *(START_RANGE[1:] ** 2 / 3), PUSH_STD_N**2])
_PROCESS = np.diag([0.0, 0.0, 0.0, KICK_CHANCE * KICK_STD**2, 0.0, (1 - PUSH_DECAY**2) * PUSH_STD_N**2])


class Oracle:
    """N filters of the state (x, v, theta, omega, F, push), which know every constant but the payload.

    A masked channel weighs nothing, which equals deleting its row.
    """

    def __init__(self, count: int) -> None:
        self.estimate = np.zeros((count, 6))
        """Posterior mean (N, 6) in SI units; column 2 is the pole's angle."""
        self.covariance = np.zeros((count, 6, 6))
        self._fresh = np.ones(count, dtype=bool)
        self.reset()

    def reset(self, which: np.ndarray | None = None) -> None:
        """New episodes where `which` (N,) is true; everywhere by default."""
        where = np.ones(len(self.estimate), dtype=bool) if which is None else which
        self.estimate[where] = 0.0
        self.covariance[where] = _START
        self._fresh[where] = True

    def act(self, readings: np.ndarray, mask: np.ndarray, previous_action: np.ndarray) -> np.ndarray:
        """Action (N,) in [-1, 1] from SI readings (N, D), which may be NaN where `mask` (N, D) is zero.

        `previous_action` (N,) is what was applied since the last call; it is ignored in an episode's first tick.
        """
        self._predict(LIMIT_N * np.clip(previous_action, -1.0, 1.0))
        self._correct(readings[:, :_SENSORS], mask[:, :_SENSORS] > 0)
        return expert_action(self.estimate, readings[:, -1])

    def _predict(self, command: np.ndarray) -> None:
        def tick(z: np.ndarray) -> np.ndarray:
            push = z[..., 5]
            state = BODY.advance(z[..., :5], command[:, None], push)
            return np.concatenate([state, PUSH_DECAY * push[..., None]], axis=-1)

        mean, a = linearise(tick, self.estimate)
        covariance = a @ self.covariance @ a.swapaxes(1, 2) + _PROCESS
        self.estimate = np.where(self._fresh[:, None], self.estimate, mean)
        self.covariance = np.where(self._fresh[:, None, None], self.covariance, covariance)
        self._fresh = np.zeros_like(self._fresh)

    def _correct(self, readings: np.ndarray, seen: np.ndarray) -> None:
        """Kalman update in Joseph's form, which keeps the covariance positive."""
        expected, c = linearise(lambda z: BODY.sense(z[..., :5], z[..., 5]), self.estimate)
        c = c * seen[:, :, None]
        innovation = np.where(seen, readings - expected, 0.0)
        noise = np.diag(NOISE[:_SENSORS] ** 2)
        cross = c @ self.covariance
        gain = np.linalg.solve(cross @ c.swapaxes(1, 2) + noise, cross).swapaxes(1, 2)
        self.estimate = self.estimate + (gain @ innovation[:, :, None])[:, :, 0]
        rest = np.eye(6) - gain @ c
        self.covariance = rest @ self.covariance @ rest.swapaxes(1, 2) + gain @ noise @ gain.swapaxes(1, 2)


@dataclass(frozen=True)
class Filtered:
    """What the judge may see of the oracle's belief."""

    z: Tensor
    """The body's state (N, 5) in float64, each normalised as the channel that its latent is tied to."""


class OraclePilot(Pilot):
    """The oracle among the contestants; it carries what the filter knows."""

    def initial(self, count: int) -> State:
        return _known(Oracle(count))

    def tick(
        self, x: Tensor, mask: Tensor, action: Tensor, state: State, steps: Tensor
    ) -> tuple[Tensor, State, Filtered]:
        oracle = Oracle(len(x))
        for name, value in state.items():
            setattr(oracle, name, value.numpy())
        readings = LAYOUT.mean + LAYOUT.scale * x.double().numpy()
        command = oracle.act(readings, mask.numpy(), action[:, 0].double().numpy())
        body = list(TIED[:5])
        z = (oracle.estimate[:, :5] - LAYOUT.mean[body]) / LAYOUT.scale[body]
        return torch.as_tensor(command)[:, None], _known(oracle), Filtered(torch.as_tensor(z))


def _known(oracle: Oracle) -> State:
    return {name: torch.as_tensor(value) for name, value in vars(oracle).items()}
