"""Models of the cart-pole that learn tick by tick, and the error that they are judged by.

Both rules infer with the same Gauss-Newton step and change the same weights, those of f and g, with the same optimiser;
the precisions are held at the sensors' noise and at a tick's disturbance. They differ in the gradient alone:

    local      dF/dtheta at the inferred z_t:  Pi (z_t - f) times the inputs of f,  Lambda (x_t - g(z_t)) times z_t
    backprop   d/dtheta of -log N(x_t; g(f(z_{t-1}, a_{t-1})), S_t), sent back through g to f

S_t = J Pi^-1 J' + R is the predictive covariance of the same filter and held, as Pi is; so is z_{t-1}: nothing goes
through time. At the least F the errors are J' Lambda (x - g(z)) = Pi (z - f) and, for a linear g, Lambda (x - g(z)) =
S^-1 (x - g(f)): both rules then move f alike, and g by the same error, times z_t or times f.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from benchmarks.refinement_study.cartpole import LAYOUT, NOISE, SensorCartPole
from benchmarks.refinement_study.cartpole_arena import TIED
from runtime.contract import Node
from training.agent import blocks
from training.agent.config import InferenceConfig
from training.agent.inference import GaussNewton, Prediction
from training.agent.model import LARGEST_LATENT, GenerativeModel, gaussian_energy
from training.agent.networks import Conditional
from training.local_learning import Gradients, conditional_gradients, local_gradients

State = dict[str, Tensor]

FREE = 2
"""Latents of no channel, for what pushes the cart."""
NODE, HIDDEN = "state", 48
EXPLORATION = 0.3
"""Normalised standard deviation of what is added to the expert's action."""
BURN_IN = 10
"""Ticks of a held-out sequence before the first one that counts."""

_SETTLING = 200  # ticks flown before the first one of a stream
_DISTURBANCE = 0.02  # normalised standard deviation of a tick's unforeseen change, of every latent
_LEAST_NOISE = 0.02  # normalised; the reference has none
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Stream:
    """Ticks of B worlds side by side, for one model or, with a further axis before B, for M."""

    x: Tensor
    """Normalised observation (T, ..., B, D)."""
    previous_action: Tensor
    """(T, ..., B, 1)."""


def fly(payload: np.ndarray, seed: Sequence[int]) -> Stream:
    """The expert with exploration noise under the payload factors (T, B) of every tick; who falls starts anew."""
    rng = np.random.default_rng(seed)
    count = payload.shape[1]
    world, action = SensorCartPole(count, rng), np.zeros(count)
    readings, actions = [], []
    for factor in np.concatenate([np.repeat(payload[:1], _SETTLING, axis=0), payload]):
        world.payload = factor
        readings.append((world.observe() - LAYOUT.mean) / LAYOUT.scale)
        actions.append(action[:, None])
        action = np.clip(world.expert() + EXPLORATION * rng.standard_normal(count), -1.0, 1.0)
        world.step(action)
        if world.failed.any():
            world.reset(world.failed)
    return Stream(*(torch.from_numpy(np.stack(rows[_SETTLING:]).astype(np.float32)) for rows in (readings, actions)))


def side_by_side(streams: Sequence[Stream]) -> Stream:
    """One stream for each of M models."""
    return Stream(torch.stack([s.x for s in streams], 1), torch.stack([s.previous_action for s in streams], 1))


class Filter(nn.Module):
    """A generative model and its inference."""

    def __init__(self, seed: int) -> None:
        """Weights at the random start of `seed`; the precisions are those that are held."""
        super().__init__()
        torch.manual_seed(seed)
        self.model = GenerativeModel((Node(NODE, len(TIED) + FREE),), LAYOUT.size, 1, HIDDEN, TIED)
        self.method = GaussNewton(self.model, InferenceConfig())
        noise = torch.from_numpy(np.maximum(NOISE / LAYOUT.scale, _LEAST_NOISE)).float()
        self.model.observation_log_precision.set(-2 * noise.log())
        self.model.latent_log_precision.set(torch.full((self.model.size,), -2 * math.log(_DISTURBANCE)))

    def weights(self) -> Gradients:
        """What learns: the parameters of f and g by name."""
        names = ("model.dynamics", "model.observation.free")
        return {n: p.detach() for n, p in self.named_parameters() if n.startswith(names)}

    def with_weights(self, weights: Gradients, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(self, *arguments)` while `weights` stand in for the filter's own."""
        return functional_call(self, weights, (function, *arguments))

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(self, *arguments)`: torch replaces weights only during a call of the module."""
        return function(self, *arguments)

    def start(self, *shape: int) -> State:
        """Carried state before the first tick, (*shape, ...)."""
        return {n: v[0].expand(*shape, *v.shape[1:]) for n, v in self.method.initial(self.model).items()}

    def infer(self, state: State, action: Tensor, x: Tensor) -> tuple[Prediction, State]:
        """What the tick expects, and the state after one Gauss-Newton step from there."""
        prediction = self.method.predict(self.model, state, action)
        precision_x = prediction.prior.log_precision_x.exp().expand_as(x)
        gain = self.method.gain(self.model, prediction, precision_x)
        z, _ = self.method.step(self.model, prediction.mean, x, precision_x, prediction.prior, gain)
        return prediction, self.method.carry(z, gain)


@dataclass(frozen=True)
class Tick:
    """What a gradient is taken at: z_{t-1} and z_t (B, Z), the action (B, 1) between them, x_t (B, D)."""

    z_previous: Tensor
    z: Tensor
    action: Tensor
    x: Tensor
    prediction: Prediction


def local(filter: Filter, tick: Tick) -> Gradients:
    """The gradient of every node's own error at the inferred state."""
    prior, mask = tick.prediction.prior, torch.ones_like(tick.x)
    return local_gradients(filter.model, tick.z, tick.z_previous, tick.action, tick.x, mask, prior)


def backprop(filter: Filter, tick: Tick) -> Gradients:
    """The gradient of -log N(x; g(f), S), averaged over the batch: the chain rule through g and f, written out."""
    model, prior, jacobian = filter.model, tick.prediction.prior, tick.prediction.jacobian
    assert jacobian is not None
    assert model.observation.free is not None
    noise = torch.diag_embed((-prior.log_precision_x).exp())
    covariance = jacobian @ blocks.symmetric_inverse(prior.precision).squeeze(1) @ jacobian.mT + noise
    surprise = torch.linalg.solve(covariance, tick.x - tick.prediction.x)
    sent_back = (jacobian.mT @ surprise.unsqueeze(-1)).squeeze(-1) * (prior.drive.abs() < LARGEST_LATENT)
    inputs = torch.cat((tick.z_previous, tick.action), -1)
    parts = {
        "observation.free": (model.observation.free, tick.prediction.mean, model.observation.split(-surprise)[1]),
        f"dynamics.{NODE}": (cast(Conditional, model.dynamics[NODE]), inputs, -sent_back),
    }
    return {
        f"{prefix}.{name}": value for prefix, at in parts.items() for name, value in conditional_gradients(*at).items()
    }


RULES: dict[str, Callable[[Filter, Tick], Gradients]] = {"local": local, "backprop": backprop}


class Adam:
    """Kingma and Ba's optimiser for M models at once, each with its own learning rate."""

    def __init__(self, weights: Gradients, rates: Tensor) -> None:
        """`weights` (M, ...) are changed in place; `rates` (M,)."""
        self.weights, self.rates, self.count = weights, rates, 0
        self.first = {n: torch.zeros_like(w) for n, w in weights.items()}
        self.second = {n: torch.zeros_like(w) for n, w in weights.items()}

    def step(self, gradients: Gradients) -> None:
        """One step down `gradients` (M, ...)."""
        self.count += 1
        unbias_first, unbias_second = (1.0 - b**self.count for b in _BETAS)
        for name, weight in self.weights.items():
            gradient = gradients[name]
            first = self.first[name].lerp_(gradient, 1.0 - _BETAS[0])
            second = self.second[name].lerp_(gradient.square(), 1.0 - _BETAS[1])
            rates = self.rates.view(-1, *[1] * (weight.dim() - 1)) / unbias_first
            weight -= rates * first / ((second / unbias_second).sqrt() + _EPSILON)


@torch.no_grad()
def learn(
    rule: str,
    filters: Sequence[Filter],
    rates: Sequence[float],
    stream: Stream,
    marks: Sequence[int],
    judge: Callable[[Filter, Gradients], np.ndarray],
    report: Callable[[int, int], None],
) -> np.ndarray:
    """Train M models from the weights of `filters`, each with its rate on its stream, one update a tick.

    What `judge(filter, weights)` says (M, ...) after every tick of `marks`, counted from 1, stacked: (marks, M, ...).
    `report` gets the ticks done and their total.
    """
    skeleton = filters[0]
    weights = {n: torch.stack([f.weights()[n] for f in filters]) for n in skeleton.weights()}
    optimizer = Adam(weights, torch.tensor(rates))
    state = skeleton.start(*stream.x.shape[1:3])
    advance = vmap(partial(_advance, RULES[rule], skeleton))
    judged = []
    for t, (x, action) in enumerate(zip(stream.x, stream.previous_action)):
        state, gradients = advance(weights, state, action, x)
        if t:  # the first tick has no past to learn from
            optimizer.step(gradients)
        if t + 1 in marks:
            judged.append(judge(skeleton, weights))
        report(t + 1, len(stream.x))
    return np.stack(judged)


def _advance(
    rule: Callable[[Filter, Tick], Gradients],
    filter: Filter,
    weights: Gradients,
    state: State,
    action: Tensor,
    x: Tensor,
) -> tuple[State, Gradients]:
    def gradients(filter: Filter) -> tuple[State, Gradients]:
        prediction, moved = filter.infer(state, action, x)
        named = rule(filter, Tick(state["z"], moved["z"], action, x, prediction))
        return moved, {name: named[name.removeprefix("model.")] for name in weights}

    return filter.with_weights(weights, gradients)


@torch.no_grad()
def held_out_error(filter: Filter, weights: Gradients, stream: Stream) -> Tensor:
    """-log p(x_t | past) one tick ahead, nats per channel, (M, B) for weights (M, ...) on the sequences (T, B, ...)."""

    def predict(filter: Filter, state: State, action: Tensor, x: Tensor) -> tuple[State, Tensor]:
        prediction, moved = filter.infer(state, action, x)
        return moved, gaussian_energy(x - prediction.x, -prediction.variance.log()) / x.shape[-1]

    def tick(weights: Gradients, state: State, action: Tensor, x: Tensor) -> tuple[State, Tensor]:
        return filter.with_weights(weights, predict, state, action, x)

    over_models = vmap(tick, in_dims=(0, 0, None, None))
    state = filter.start(len(next(iter(weights.values()))), stream.x.shape[1])
    energies = []
    for x, action in zip(stream.x, stream.previous_action):
        state, energy = over_models(weights, state, action, x)
        energies.append(energy)
    return torch.stack(energies[BURN_IN:]).mean(0)


def forgetting(first: np.ndarray) -> np.ndarray:
    """Rise of the error on the first payload since the end of its phase, at the ends of the phases without it.

    `first` (..., phases, marks) is that error; it comes back in the last phase. (..., phases - 2).
    """
    ends = first[..., -1]
    return ends[..., 1:-1] - ends[..., :1]


def recovery(first: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Ticks of the last phase after which nine tenths of what was forgotten is back, (...,).

    Zero where nothing was forgotten, the length of the phase if it never comes back. `marks` (marks,) in ticks.
    """
    ends = first[..., -1]
    goal = ends[..., 0] + 0.1 * (ends[..., -2] - ends[..., 0])
    back = first[..., -1, :] <= goal[..., None]
    ticks = np.where(back.any(-1), marks[back.argmax(-1)], marks[-1])
    return np.where(ends[..., -2] <= ends[..., 0], 0, ticks)
