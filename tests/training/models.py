"""Small random models in float64, and the textbook Kalman filter in numpy that they are held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.contract import Node
from training.agent.agent import Agent
from training.agent.config import AgentConfig, InferenceConfig
from training.agent.model import GenerativeModel, Prior
from training.agent.networks import Conditional

Array = NDArray[np.float64]
D, A = 5, 2
GRAPHS = {
    "single": (Node("state", 6),),
    "chain": (Node("top", 3), Node("middle", 4, ("top",)), Node("bottom", 5, ("middle",))),
    "diamond": (Node("top", 3), Node("left", 4, ("top",)), Node("right", 2, ("top",)),
                Node("join", 5, ("left", "right"))),
    "fork": (Node("top", 2), Node("left", 3, ("top",)), Node("right", 3, ("top",))),
}  # fmt: skip
HOLD = InferenceConfig("hold", default_steps=0, max_steps=0)
METHODS = {
    "amortized": InferenceConfig("amortized"),
    "gradient": InferenceConfig("gradient"),
    "diagonal": InferenceConfig("diagonal", "chebyshev"),
    "gauss_newton": InferenceConfig("gauss_newton"),
    "blocks": InferenceConfig("gauss_newton", covariance_block=2),
}
KALMAN = METHODS["gauss_newton"]


def conditionals(module: nn.Module) -> Iterator[Conditional]:
    return (m for m in module.modules() if isinstance(m, Conditional))


def randomise(model: GenerativeModel, linear: bool, scale: float = 1.0) -> None:
    """Every part of the model becomes visible: biases, curvature, unequal precisions; its dynamics are stable."""
    with torch.no_grad():
        for part in conditionals(model):
            part.skip_weight.mul_(0.5)
            part.inner_bias.normal_()
            part.outer_bias.normal_(std=0.1)
            part.outer_weight.normal_(std=0.0 if linear else scale / part.outer_weight.shape[1] ** 0.5)
        for node in model.nodes:
            weight = model._dynamics(node.name).skip_weight.normal_(std=0.1)
            weight[:, : node.size] -= 0.2 * torch.eye(node.size)
    model.latent_log_precision.set(2.0 + 0.5 * torch.randn(model.size))
    model.observation_log_precision.set(2.0 + 0.5 * torch.randn(len(model.observation.order)))


def make_model(graph: str, tied: tuple[int, ...] = (), linear: bool = False, seed: int = 1) -> GenerativeModel:
    torch.manual_seed(seed)
    model = GenerativeModel(GRAPHS[graph], D, A, 7, tied).double()
    randomise(model, linear)
    return model


def make_agent(
    graph: str,
    inference: InferenceConfig = KALMAN,
    tied: tuple[int, ...] = (),
    linear: bool = False,
    seed: int = 1,
    scale: float = 1.0,
    by_state: bool = False,
) -> Agent:
    torch.manual_seed(seed)
    nodes = GRAPHS[graph]
    config = AgentConfig(nodes, nodes[-1].name, tied, 8, precision_by_state=by_state, inference=inference)
    agent = Agent(config, D, A).double()
    randomise(agent.model, linear, scale)
    with torch.no_grad():
        for parameter in agent.encoder.parameters():
            parameter.add_(0.2 * scale * torch.randn_like(parameter))
    return agent


def tied_agent(channels: int, inference: InferenceConfig = KALMAN, noise: float = 0.04, noise_x: float = 0.09) -> Agent:
    """Every channel its own random walk: z' = z + N(0, noise), x = z + N(0, noise_x)."""
    torch.manual_seed(0)
    config = AgentConfig((Node("state", channels),), tied=tuple(range(channels)), hidden=4, inference=inference)
    agent = Agent(config, channels, 1).double()
    with torch.no_grad():
        for part in conditionals(agent.model):
            for parameter in part.parameters():
                parameter.zero_()
    agent.model.latent_log_precision.set(torch.full((channels,), noise).double().log().neg())
    agent.model.observation_log_precision.set(torch.full((channels,), noise_x).double().log().neg())
    return agent


def draw(batch: int, size: int, seen: float = 0.7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random observation, mask, action and last latent."""
    x, mask = torch.randn(batch, D).double(), (torch.rand(batch, D) < seen).double()
    return x, mask, torch.randn(batch, A).double(), torch.randn(batch, size).double()


def diagonal_prior(model: GenerativeModel, drive: Tensor) -> Prior:
    log_precision = model.latent_log_precision()
    return Prior(drive, log_precision.exp(), log_precision.sum(), model.observation_log_precision())


def block_prior(model: GenerativeModel, drive: Tensor, size: int) -> Prior:
    """Random blocks of full precision."""
    root = torch.randn(len(drive), model.size // size, size, size).double()
    precision = root @ root.mT + 0.5 * torch.eye(size).double()
    return Prior(drive, precision, torch.logdet(precision).sum(-1), model.observation_log_precision())


def dense(matrix: Tensor) -> Tensor:
    """(B, Z, Z) of blocks (B, n, b, b)."""
    return torch.stack([torch.block_diag(*row) for row in matrix])


def numbers(tensor: Tensor) -> Array:
    values: Array = tensor.detach().double().numpy()
    return values


@dataclass(frozen=True)
class System:
    """z' = F z + B a + b + N(0, Q),  x = C z + d + N(0, R)."""

    transition: Array
    control: Array
    offset: Array
    noise: Array
    sensor: Array
    bias: Array
    noise_x: Array

    def seeing(self, mask: Array) -> System:
        """The system without the rows of the masked channels."""
        rows = np.flatnonzero(mask)
        noise_x = self.noise_x[np.ix_(rows, rows)]
        return replace(self, sensor=self.sensor[rows], bias=self.bias[rows], noise_x=noise_x)

    def predict(self, mean: Array, covariance: Array, action: Array) -> tuple[Array, Array]:
        forward = self.transition @ mean + self.control @ action + self.offset
        return forward, self.transition @ covariance @ self.transition.T + self.noise

    def expect(self, mean: Array, covariance: Array) -> tuple[Array, Array]:
        """Mean and covariance of x."""
        return self.sensor @ mean + self.bias, self.sensor @ covariance @ self.sensor.T + self.noise_x

    def update(self, mean: Array, covariance: Array, x: Array) -> tuple[Array, Array]:
        expected, innovation = self.expect(mean, covariance)
        gain = covariance @ self.sensor.T @ np.linalg.inv(innovation)
        return mean + gain @ (x - expected), covariance - gain @ innovation @ gain.T


def linear_system(model: GenerativeModel) -> System:
    """The dense matrices of a model without curvature, put together by hand from its weights."""
    own, control = numbers(model.persistence).copy(), np.zeros((model.size, A))
    offset, edges = np.zeros(model.size), np.zeros((model.size, model.size))
    for node in model.nodes:
        rows, part = model.slices[node.name], model._dynamics(node.name)
        weight = numbers(part.skip_weight)
        own[rows, rows] += weight[:, : node.size]
        control[rows] = weight[:, node.size :]
        offset[rows] = numbers(part.outer_bias)
        if node.parents:
            edge = model._conditional(node.name)
            edges[rows, np.r_[tuple(model.slices[p] for p in node.parents)]] = numbers(edge.skip_weight)
            offset[rows] += numbers(edge.outer_bias)
    sensor, bias = np.zeros((D, model.size)), np.zeros(D)
    columns = np.r_[tuple(model.slices[n] for n in model.observed)]
    tied, free = model.observation.tied, model.observation.free
    for latent, channel in zip(columns, tied):
        sensor[channel, latent] = 1.0
    if free is not None:
        rest = [i for i in range(D) if i not in tied]
        sensor[np.ix_(rest, columns)] = numbers(free.skip_weight)
        bias[rest] = numbers(free.outer_bias)
    noise = np.diag(np.exp(-numbers(model.latent_log_precision())))
    ancestral = np.linalg.inv(np.eye(model.size) - edges)
    return System(
        ancestral @ own,
        ancestral @ control,
        ancestral @ offset,
        ancestral @ noise @ ancestral.T,
        sensor,
        bias,
        np.diag(np.exp(-numbers(model.observation_log_precision()))),
    )
