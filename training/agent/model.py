"""The generative model on a latent graph, its free energy and the local gradient of it.

    F(z) = 1/2 sum_n eps_n' Lambda_n eps_n - 1/2 sum_n log|Lambda_n| + constant,   eps_n = z_n - mu_n(parents, past)
    observation term: 1/2 sum_i m_i (lambda_i eps_i^2 - log lambda_i)
    dF/dz_n = Lambda_n eps_n - sum over children m of (d mu_m / d z_n)' Lambda_m eps_m

The latents of all nodes lie side by side in one tensor z (B, Z), in the order of the graph.
"""

from __future__ import annotations

import functools
import math
from typing import cast

import torch
from torch import Tensor, nn

from runtime.contract import Node
from training.agent.networks import Conditional, SkipMLP

_LOG_2PI = math.log(2 * math.pi)
_LARGEST_LOG_PRECISION = 2 * math.log(100.0)  # no channel is believed to better than 1 % of its scale
_LARGEST_LATENT = 20.0  # normalised units; keeps open-loop prediction finite however long the sensors are gone
_LEAK = 0.9  # per tick, of latents that no channel anchors; keeps their memory finite


def gaussian_energy(error: Tensor, log_precision: Tensor, mask: Tensor | None = None) -> Tensor:
    """-log N(error; 0, exp(-log_precision)) summed over the last axis; `mask` (0 or 1) leaves out channels."""
    constant = 0.5 * (_LOG_2PI - log_precision)
    weight = 0.5 * log_precision.exp()
    if mask is None:
        return (weight * (error * error)).sum(-1) + constant.sum()
    return ((mask * weight) * (error * error)).sum(-1) + (mask * constant).sum(-1)


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class LogPrecision(nn.Module):
    """Learned diagonal log-precisions (size,), bounded above so that no channel is believed without limit."""

    def __init__(self, size: int, initial: float) -> None:
        super().__init__()
        start = math.log(math.expm1(_LARGEST_LOG_PRECISION - initial))
        self.raw = nn.Parameter(torch.full((size,), start))

    def forward(self) -> Tensor:
        """Log-precisions (size,)."""
        return _LARGEST_LOG_PRECISION - nn.functional.softplus(self.raw)


class GenerativeModel(nn.Module):
    """p(z_t | z_{t-1}, a_{t-1}) on the graph and p(x_t | z_t)."""

    retention: Tensor
    """(Z,), what is left of each latent after one tick if nothing else is known."""

    def __init__(self, nodes: tuple[Node, ...], observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.slices: dict[str, slice] = {}
        start = 0
        for node in nodes:
            self.slices[node.name] = slice(start, start + node.size)
            start += node.size
        self.size = start
        sizes = {n.name: n.size for n in nodes}
        with_children = {p for n in nodes for p in n.parents}
        self.observed = tuple(n.name for n in nodes if n.name not in with_children)
        """Nodes that predict the observation."""
        self.dynamics = nn.ModuleDict({n.name: SkipMLP(n.size + action_size, hidden, n.size) for n in nodes})
        self.conditionals = nn.ModuleDict(
            {n.name: Conditional(sum(sizes[p] for p in n.parents), hidden, n.size) for n in nodes if n.parents}
        )
        self.observation = Conditional(sum(sizes[n] for n in self.observed), hidden, observation_size)
        self.register_buffer("retention", torch.where(self.anchors.sum(1) > 0, 1.0, _LEAK))
        self.latent_log_precision = LogPrecision(self.size, 2.0)
        self.observation_log_precision = LogPrecision(observation_size, 2.0)
        self.predictive_log_precision = LogPrecision(observation_size, 1.0)
        """Precision of the one-step prediction of x; scales the innovation."""

    @property
    def anchors(self) -> Tensor:
        """(Z, D), one where a latent is tied to an observation channel."""
        anchors = torch.zeros(self.size, self.observation.outer_bias.numel())
        if self.observation.anchored:
            rows = torch.cat([torch.arange(self.size)[self.slices[n]] for n in self.observed])
            anchors[rows] = self.observation.skip_weight.T.to(anchors)
        return anchors

    def _gather(self, z: Tensor, names: tuple[str, ...]) -> Tensor:
        return _side_by_side([z[..., self.slices[n]] for n in names])

    def _conditional(self, name: str) -> Conditional:
        return cast(Conditional, self.conditionals[name])

    def drive(self, z_previous: Tensor, action: Tensor) -> Tensor:
        """Temporal part of every node's mean (B, Z), from z_{t-1} (B, Z) and a_{t-1} (B, A)."""
        parts = []
        for node in self.nodes:
            where = self.slices[node.name]
            own = z_previous[..., where]
            parts.append(self.retention[where] * own + self.dynamics[node.name](torch.cat((own, action), -1)))
        return _side_by_side(parts).clamp(-_LARGEST_LATENT, _LARGEST_LATENT)

    def prior_mean(self, drive: Tensor) -> Tensor:
        """Prior mean of every node (B, Z) by ancestral pass: each node at the mean given its parents' means."""
        if not self.conditionals:
            return drive
        means: dict[str, Tensor] = {}
        for node in self.nodes:
            mean = drive[..., self.slices[node.name]]
            if node.parents:
                mean = mean + self._conditional(node.name)(torch.cat([means[p] for p in node.parents], -1))[0]
            means[node.name] = mean
        return torch.cat([means[n.name] for n in self.nodes], -1)

    def predict(self, z: Tensor) -> Tensor:
        """Mean of the normalised observation (B, D) for z (B, Z)."""
        mean: Tensor = self.observation(self._gather(z, self.observed))[0]
        return mean

    def latent_error(self, z: Tensor, drive: Tensor) -> Tensor:
        """eps_n = z_n - mu_n for every node, (B, Z)."""
        if not self.conditionals:
            return z - drive
        parts = []
        for node in self.nodes:
            error = z[..., self.slices[node.name]] - drive[..., self.slices[node.name]]
            if node.parents:
                error = error - self._conditional(node.name)(self._gather(z, node.parents))[0]
            parts.append(error)
        return torch.cat(parts, -1)

    def free_energy(self, z: Tensor, x: Tensor, mask: Tensor, drive: Tensor) -> Tensor:
        """F (B,) in nats at z (B, Z) for the normalised observation x (B, D), finite also where masked."""
        latent = gaussian_energy(self.latent_error(z, drive), self.latent_log_precision())
        return latent + gaussian_energy(x - self.predict(z), self.observation_log_precision(), mask)

    def observation_precision(self, mask: Tensor) -> Tensor:
        """Precision of every channel (B, D), zero where masked."""
        return mask * self.observation_log_precision().exp()

    def free_energy_gradient(self, z: Tensor, x: Tensor, precision_x: Tensor, drive: Tensor) -> Tensor:
        """dF/dz (B, Z), written out as local prediction errors sent to the parents.

        `precision_x` (B, D) is what `observation_precision` gives for the mask.
        """
        precision = self.latent_log_precision().exp()
        prediction, hidden = self.observation(self._gather(z, self.observed))
        weighted = precision_x * (x - prediction)
        received: dict[str, list[Tensor]] = {n.name: [] for n in self.nodes}
        self._send(self.observation.vjp(weighted, hidden), self.observed, received)
        own: dict[str, Tensor] = {}
        for node in self.nodes:
            where = self.slices[node.name]
            error = z[..., where] - drive[..., where]
            if not node.parents:
                own[node.name] = precision[where] * error
                continue
            conditional = self._conditional(node.name)
            mean, hidden = conditional(self._gather(z, node.parents))
            own[node.name] = precision[where] * (error - mean)
            self._send(conditional.vjp(own[node.name], hidden), node.parents, received)
        return _side_by_side([functools.reduce(torch.sub, received[n.name], own[n.name]) for n in self.nodes])

    def curvature(self, precision_x: Tensor) -> Tensor:
        """Diagonal of d2F/dz2 of the linear part of the model, (B, Z): Lambda_n + sum over children of C^2 Lambda_m."""
        precision = self.latent_log_precision().exp()
        per_node = {n.name: precision[self.slices[n.name]].expand(*precision_x.shape[:-1], -1) for n in self.nodes}
        received: dict[str, list[Tensor]] = {n.name: [] for n in self.nodes}
        self._send(precision_x @ self.observation.skip_weight.square(), self.observed, received)
        for node in self.nodes:
            if node.parents:
                skip = self._conditional(node.name).skip_weight
                self._send(per_node[node.name] @ skip.square(), node.parents, received)
        return _side_by_side([functools.reduce(torch.add, received[n.name], per_node[n.name]) for n in self.nodes])

    def _send(self, message: Tensor, parents: tuple[str, ...], received: dict[str, list[Tensor]]) -> None:
        start = 0
        for name in parents:
            size = self.slices[name].stop - self.slices[name].start
            received[name].append(message[..., start : start + size])
            start += size
