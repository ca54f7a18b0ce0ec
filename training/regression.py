"""Dynamics and precisions of an agent by regression on recorded readings.

The latents are taken for the readings: the leading ones, which are tied to a channel each, for its last reading; the
others, block by block, for the readings and commands of the ticks before. So the linear part is a vector autoregression
with the commands in companion form: for each channel the average of ridge regressions on more or less of all that, by
how well they predict the last fifth. Then a nonlinear part is fitted to what is left, for as many steps as lower the
error there, and only of the channels that it helps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runtime.contract import Layout
from training.agent.agent import Agent
from training.agent.networks import Conditional
from training.recorded import Tensors

_RIDGES = 10.0 ** np.arange(-4, 5)
_TRAINED = 0.8  # share of the ticks that the choices are made with
_STEPS, _EVERY, _RATE, _DECAY = 1000, 50, 3e-3, 1e-3
_LEAST_STD = 0.02  # of what a channel is predicted to, normalised units
_COPIED_STD = 0.05  # of a latent that repeats another
_SENSOR_SHARE = 0.02  # of a channel's error: the regression takes readings for the truth

Choice = tuple[float, np.ndarray]
"""A ridge, and the inputs (U,) bool."""


@dataclass(frozen=True)
class Regression:
    """What predicts R ticks, each of which has a past in the same recording."""

    inputs: Tensor
    """Latents and command (R, Z + A) of the tick before."""
    target: Tensor
    """Readings (R, D)."""
    weight: Tensor
    """(R, D), one where the reading is new."""
    cut: int
    """The first ticks, with which choices are made; the others judge them."""

    @staticmethod
    def of(data: Tensors, lags: int) -> Regression:
        """With the `lags` ticks before the last one. A missing reading counts as its mean where it predicts others."""
        past = [(torch.roll(data.x, k + 1, 0), torch.roll(data.previous_action, k, 0)) for k in range(lags)]
        z = torch.cat((data.x, *itertools.chain(*past)), -1)
        follows = torch.ones(len(z), dtype=torch.bool)
        follows[: lags + 1] = False
        for late in range(lags + 1):
            follows &= torch.roll(data.first, late) == 0
        rows = torch.nonzero(follows).squeeze(1)
        inputs = torch.cat((z[rows - 1], data.previous_action[rows]), -1)
        return Regression(inputs, data.x[rows], data.known[rows], round(_TRAINED * len(rows)))


def start_dynamics(agent: Agent, data: Tensors, layout: Layout, lags: int) -> None:
    """Fit the dynamics and precisions of an agent of one node: 1 + `lags` latents per channel, `lags` per command."""
    regression = Regression.of(data, lags)
    channels, size, joints = layout.size, agent.model.size, layout.joints
    columns = size + joints
    whole = torch.zeros(size, columns + 1)
    whole[:channels] = torch.from_numpy(linear_fit(regression, layout, lags))
    newest = torch.cat((torch.arange(channels), torch.arange(size, columns), torch.arange(channels, size)))
    whole[torch.arange(channels, size), newest[: size - channels]] = 1.0  # the past moves on by a tick
    conditional = _dynamics(agent)
    with torch.no_grad():
        conditional.outer_bias.copy_(whole[:, -1])
        conditional.skip_weight.copy_(whole[:, :-1])
        conditional.skip_weight[:, :size] -= agent.model.persistence
    _set_precisions(agent, _fit_curved(agent, regression))


def _dynamics(agent: Agent) -> Conditional:
    (conditional,) = agent.model.dynamics.values()
    assert isinstance(conditional, Conditional)
    return conditional


def candidates(channel: int, layout: Layout, lags: int) -> Iterator[np.ndarray]:
    """Inputs (U + 1,) bool to choose from: with ever more of the past, of all sensors and of the channel's own alone.

    The newest command and the constant, which are the last ones, belong to each.
    """
    own = next(s for s in layout.slices.values() if s.start <= channel < s.stop)
    alone = np.isin(np.arange(layout.size), np.arange(own.start, own.stop))
    commands, always = np.ones(layout.joints, bool), np.ones(layout.joints + 1, bool)
    for sensors, most in itertools.product((np.ones(layout.size, bool), alone), range(lags + 1)):
        block = np.concatenate((sensors, commands))
        yield np.concatenate((sensors, *(block & (k < most) for k in range(lags)), always))


def linear_fit(regression: Regression, layout: Layout, lags: int) -> np.ndarray:
    """Weights (D, U + 1), the constant last, that predict the readings.

    Those of every ridge and choice of inputs, averaged by the likelihood that they, fitted without the last fifth, give
    to it, for an error of unknown variance: error^(-n/2) for n ticks. The best one alone would be chosen by chance.
    """
    cut, channels = regression.cut, layout.size
    u, target, w = (t.double().numpy() for t in (regression.inputs, regression.target, regression.weight))
    y = target - u[:, :channels]
    u = np.concatenate((u, np.ones((len(u), 1))), axis=1)

    def solve(d: int, rows: slice, choice: Choice) -> np.ndarray:
        """Zero for the inputs that are not chosen; the constant is not shrunk."""
        ridge, chosen = choice
        v = u[rows][:, chosen]
        weighted = w[rows, d, None] * v
        shrunk = ridge * np.eye(v.shape[1])
        shrunk[-1, -1] = 1e-9
        result = np.zeros(u.shape[1])
        result[chosen] = np.linalg.solve(weighted.T @ v + shrunk, weighted.T @ y[rows, d])
        return result

    def error(d: int, choice: Choice) -> float:
        left = y[cut:, d] - u[cut:] @ solve(d, slice(cut), choice)
        return float((w[cut:, d] * left**2).sum() / max(w[cut:, d].sum(), 1.0))

    weights = np.eye(channels, u.shape[1])
    for d in range(channels):
        choices = [*itertools.product(_RIDGES, candidates(d, layout, lags))]
        loglik = -0.5 * w[cut:, d].sum() * np.log([max(error(d, c), _LEAST_STD**4) for c in choices])
        shares = np.exp(loglik - loglik.max())
        shares /= shares.sum()
        weights[d] += sum(s * solve(d, slice(None), c) for s, c in zip(shares, choices) if s > 1e-4)
    return weights


def _fit_curved(agent: Agent, regression: Regression) -> Tensor:
    """Fit the nonlinear part; mean squared errors (D,) of the whole."""
    inputs, target, weight, cut = (getattr(regression, n) for n in ("inputs", "target", "weight", "cut"))
    conditional, size, channels = _dynamics(agent), agent.model.size, target.shape[1]
    start = {n: v.clone() for n, v in conditional.state_dict().items()}

    def squares(rows: slice) -> Tensor:
        predicted = agent.model.drive(inputs[rows, :size], inputs[rows, size:])[:, :channels]
        left = weight[rows] * (predicted - target[rows]).square()
        return left.sum(0) / weight[rows].sum(0).clamp(min=1.0)

    with torch.no_grad():
        scale = squares(slice(None)).clamp(min=_LEAST_STD**2)

    def learn(rows: slice, steps: int) -> Tensor:
        """Errors (times, D) of the last fifth after every fifty steps, none included."""
        conditional.load_state_dict(start)
        parameters = [conditional.inner_weight, conditional.inner_bias, conditional.outer_weight]
        optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY)
        errors = []
        for step in range(steps + 1):
            if step % _EVERY == 0:
                with torch.no_grad():
                    errors.append(squares(slice(cut, None)) / scale)
            loss = (squares(rows) / scale).mean()
            optimizer.zero_grad()
            loss.backward()
            conditional.outer_weight.grad[channels:] = 0.0  # type: ignore[index]
            if step < steps:
                optimizer.step()
        return torch.stack(errors)

    errors = learn(slice(cut), _STEPS)
    best = int(errors.minimum(errors[0]).mean(1).argmin())
    learn(slice(None), _EVERY * best)
    with torch.no_grad():
        conditional.outer_weight[:channels] *= (errors[best] < errors[0]).float().unsqueeze(-1)
        return squares(slice(None))


@torch.no_grad()
def _set_precisions(agent: Agent, error: Tensor) -> None:
    """Of the predictions' mean squared errors (D,) a small share is the sensor's, the rest the robot's."""
    model, error = agent.model, error.clamp(min=_LEAST_STD**2)
    latent = torch.full((model.size,), -2 * np.log(_COPIED_STD))
    latent[: len(error)] = -(error * (1 - _SENSOR_SHARE)).log()
    model.latent_log_precision.set(latent)
    model.observation_log_precision.set(-(error * _SENSOR_SHARE).log())
