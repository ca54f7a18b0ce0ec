"""The generative model on a latent graph, its free energy and the derivatives that the inference uses.

    F(z) = 1/2 e' Pi e - 1/2 log|Pi| + constant + 1/2 sum_i m_i (lambda_i eps_i^2 - log lambda_i + log 2 pi)
    e_n = z_n - mu_n(parents) - drive_n(z_n of the last tick, last action),   eps = x - mu_0(observed nodes)
    dF/dz = E' Pi e - J' (m lambda eps),   E = de/dz (unit lower triangular along the graph),   J = d mu_0 / dz

With diagonal Pi these are the local prediction errors of predictive coding: every node's own error, less what its
children send back. The latents of all nodes lie side by side in one tensor z (B, Z), in the order of the graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from runtime.contract import Node
from training.agent import blocks
from training.agent.config import Motion
from training.agent.networks import Conditional, Known, ObservationModel

_LOG_2PI = math.log(2 * math.pi)
_LEAST_STD_X = 0.01  # no channel is believed to better than 1 % of its scale
_LEAST_STD_Z = 0.003  # per tick; keeps the inverse of the covariance sound in float32
LARGEST_LATENT = 20.0  # normalised units; keeps open-loop prediction finite however long the sensors are gone
_LEAK = 0.9  # per tick, of latents that no channel is tied to; keeps their memory finite
_TRUSTED, _UNTRUSTED = 5.0, 0.0  # log-precisions to start from; what is yet to be learned must not pull at the belief
STATE_RANGE = 2.0  # a log-precision that depends on the state moves by at most this


def gaussian_energy(error: Tensor, log_precision: Tensor, mask: Tensor | None = None) -> Tensor:
    """-log N(error; 0, exp(-log_precision)) summed over the last axis; `mask` (0 or 1) leaves out channels."""
    weight, constant = log_precision.exp(), _LOG_2PI - log_precision
    if mask is not None:
        weight, constant = mask * weight, mask * constant
    return 0.5 * ((weight * (error * error)).sum(-1) + constant.sum(-1))


class LogPrecision(nn.Module):
    """Learned diagonal log-precisions (size,), bounded above; with `context` inputs they also depend on a state."""

    def __init__(self, size: int, initial: float | Tensor, least_std: float, context: int = 0) -> None:
        """`initial` () or (size,): log-precisions to start from."""
        super().__init__()
        self.largest = -2 * math.log(least_std)
        self.raw = nn.Parameter(torch.zeros(size))
        self.set(initial + torch.zeros(size))
        self.by_state = nn.Linear(context, size, bias=False) if context else None
        if self.by_state is not None:
            nn.init.zeros_(self.by_state.weight)

    def forward(self, context: Tensor | None = None) -> Tensor:
        """Log-precisions (size,), or (B, size) for a context (B, inputs)."""
        raw: Tensor = self.raw
        if self.by_state is not None and context is not None:
            raw = raw + STATE_RANGE * torch.tanh(self.by_state(context))
        return self.largest - nn.functional.softplus(raw)

    @torch.no_grad()
    def set(self, log_precision: Tensor) -> None:
        """Make `forward` return `log_precision` (size,), as far as the bound allows, where no state moves it."""
        self.raw.copy_((self.largest - log_precision).clamp(min=1e-6).expm1().log())


@dataclass
class Prior:
    """p(z_t | past) in terms of the error e, and the precisions of this tick's channels."""

    drive: Tensor
    """Temporal part of every node's mean (B, Z)."""
    precision: Tensor
    """Pi: (B, Z) or (Z,) if diagonal, else (B, n, b, b)."""
    log_det: Tensor
    """log|Pi| (B,) or ()."""
    log_precision_x: Tensor
    """log lambda of every channel, (D,) or (B, D)."""

    def weigh(self, error: Tensor) -> Tensor:
        """Pi e, (..., B, Z)."""
        return self.precision * error if self.precision.dim() < 3 else blocks.times(self.precision, error)

    def rows(self, index: Tensor) -> Prior:
        """Those of the batch at `index`."""
        return Prior(
            self.drive[index],
            self.precision[index] if self.precision.dim() > 1 else self.precision,
            self.log_det[index] if self.log_det.dim() > 0 else self.log_det,
            self.log_precision_x[index] if self.log_precision_x.dim() > 1 else self.log_precision_x,
        )


class GenerativeModel(nn.Module):
    """p(z_t | z_{t-1}, a_{t-1}) on the graph and p(x_t | z_t)."""

    persistence: Tensor
    """(Z, Z), how the latents go on from tick to tick before anything is learned."""
    learned: Tensor
    """(Z,), zero for a latent of which `persistence` is all: a position whose rate is tied."""
    observed_rows: Tensor
    """(U, Z), selects the latents of the observed nodes."""

    def __init__(
        self,
        nodes: tuple[Node, ...],
        observation_size: int,
        action_size: int,
        hidden: int,
        tied: tuple[int, ...] = (),
        precision_by_state: bool = False,
        kinematics: tuple[Motion, ...] = (),
    ) -> None:
        """`tied`: the channel to which each leading latent of the observed nodes is tied.

        `kinematics` is of tied channels whose latents are in one node.
        """
        super().__init__()
        self.nodes, self.action_size = nodes, action_size
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
        self.dynamics = nn.ModuleDict(
            {n.name: Conditional(n.size + action_size, hidden, n.size, gain=0.0) for n in nodes}
        )
        self.conditionals = nn.ModuleDict(
            {n.name: Conditional(sum(sizes[p] for p in n.parents), hidden, n.size) for n in nodes if n.parents}
        )
        self.observation = ObservationModel(sum(sizes[n] for n in self.observed), hidden, observation_size, tied)
        self.register_buffer("observed_rows", self._rows(self.observed))
        persistence, learned = torch.diag(torch.where(self.anchored, 1.0, _LEAK)), torch.ones(self.size)
        latents = self.observed_rows[: len(tied)].argmax(-1).tolist()
        for m in kinematics:
            persistence[latents[tied.index(m.position)], latents[tied.index(m.rate)]] = m.change
            learned[latents[tied.index(m.position)]] = 0.0
        self.register_buffer("persistence", persistence)
        self.register_buffer("learned", learned)
        self.latent_log_precision = LogPrecision(
            self.size, _TRUSTED, _LEAST_STD_Z, self.size + action_size if precision_by_state else 0
        )
        trust = torch.full((observation_size,), _UNTRUSTED)
        trust[list(tied)] = _TRUSTED
        self.observation_log_precision = LogPrecision(
            observation_size, trust, _LEAST_STD_X, self.size if precision_by_state else 0
        )

    @property
    def anchored(self) -> Tensor:
        """(Z,) bool, true where a latent is tied to a channel."""
        rows: Tensor = self.observed_rows[: self.observation.count]
        return rows.sum(0) > 0

    def _rows(self, names: tuple[str, ...]) -> Tensor:
        return torch.cat([torch.eye(self.size)[self.slices[n]] for n in names])

    def _gather(self, z: Tensor, names: tuple[str, ...]) -> Tensor:
        if len(names) == len(self.nodes):
            return z
        parts = [z[..., self.slices[n]] for n in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _conditional(self, name: str) -> Conditional:
        return cast(Conditional, self.conditionals[name])

    def _dynamics(self, name: str) -> Conditional:
        return cast(Conditional, self.dynamics[name])

    def transition(self, z_previous: Tensor, action: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Drive (B, Z) from z_{t-1} (B, Z) and a_{t-1} (B, A), and the hidden layers for `transition_jacobian`."""
        parts, hidden = [], {}
        for node in self.nodes:
            own = z_previous[..., self.slices[node.name]]
            mean, hidden[node.name] = self._dynamics(node.name)(torch.cat((own, action), -1), self._known(node.name))
            parts.append(mean)
        drive = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return drive.clamp(-LARGEST_LATENT, LARGEST_LATENT), hidden

    def _known(self, name: str) -> Known:
        """What the dynamics of the node `name` need not learn."""
        own = self.slices[name]
        shift = nn.functional.pad(self.persistence[own, own], (0, self.action_size))
        return Known(shift, self.learned[own].unsqueeze(-1))

    def drive(self, z_previous: Tensor, action: Tensor) -> Tensor:
        """Temporal part of every node's mean (B, Z)."""
        return self.transition(z_previous, action)[0]

    def transition_jacobian(self, hidden: dict[str, Tensor]) -> Tensor:
        """A = d drive / d z_{t-1} (B, Z, Z), where the drive is not clamped."""
        parts = []
        for node in self.nodes:
            own = self._dynamics(node.name).jacobian(hidden[node.name], node.size, self._known(node.name))
            parts.append(self._embed(own, (node.name,), (node.name,)))
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def _embed(self, block: Tensor, rows: tuple[str, ...], columns: tuple[str, ...]) -> Tensor:
        """(B, Z, Z) with `block` at the latents of the nodes `rows` and `columns`, zero elsewhere."""
        if len(self.nodes) == 1:
            return block
        return self._rows(rows).to(block).mT @ block @ self._rows(columns).to(block)

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

    def explain(self, z: Tensor) -> Tensor:
        """Mean (B, D - T) of the normalised channels that no latent is tied to, for z (B, Z)."""
        free = self.observation.free
        observed = self._gather(z, self.observed)
        return observed[..., :0] if free is None else free(observed)[0]

    def predict_with_jacobian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, D) of the normalised observation and J = d mean / dz (B, D, Z)."""
        mean, hidden = self.observation(self._gather(z, self.observed))
        jacobian = self.observation.jacobian(hidden)
        return mean, jacobian if len(self.observed) == len(self.nodes) else jacobian @ self.observed_rows

    def latent_error(self, z: Tensor, drive: Tensor) -> Tensor:
        """e_n = z_n - mu_n for every node, (B, Z)."""
        if not self.conditionals:
            return z - drive
        parts = []
        for node in self.nodes:
            error = z[..., self.slices[node.name]] - drive[..., self.slices[node.name]]
            if node.parents:
                error = error - self._conditional(node.name)(self._gather(z, node.parents))[0]
            parts.append(error)
        return torch.cat(parts, -1)

    def latent_error_jacobian(self, z: Tensor) -> Tensor | None:
        """E = de/dz (B, Z, Z); None stands for the identity of a graph without edges."""
        if not self.conditionals:
            return None
        jacobian = torch.eye(self.size, dtype=z.dtype)
        for node in self.nodes:
            if node.parents:
                conditional = self._conditional(node.name)
                _, hidden = conditional(self._gather(z, node.parents))
                jacobian = jacobian - self._embed(conditional.jacobian(hidden), (node.name,), node.parents)
        return jacobian

    def free_energy(self, z: Tensor, x: Tensor, mask: Tensor, prior: Prior) -> Tensor:
        """F (..., B) in nats at z (..., B, Z) for the normalised observation x (B, D), finite also where masked."""
        error, surprise = self.latent_error(z, prior.drive), x - self.predict(z)
        precision_x = mask * prior.log_precision_x.exp()
        quadratic = (error * prior.weigh(error)).sum(-1, True) + (surprise * surprise * precision_x).sum(-1, True)
        constant = (mask * (_LOG_2PI - prior.log_precision_x)).sum(-1, True) + (
            self.size * _LOG_2PI - prior.log_det.unsqueeze(-1)
        )
        return (0.5 * (quadratic + constant)).squeeze(-1)

    def free_energy_gradient(self, z: Tensor, x: Tensor, precision_x: Tensor, prior: Prior) -> Tensor:
        """dF/dz (B, Z), written out as precision-weighted errors sent to the parents.

        `precision_x` (B, D) is the precision of every channel, zero where masked.
        """
        prediction, hidden = self.observation(self._gather(z, self.observed))
        gradient = -self._send(self.observation.vjp(precision_x * (x - prediction), hidden), self.observed)
        weighted = prior.weigh(self.latent_error(z, prior.drive))
        for node in self.nodes:
            if node.parents:
                conditional = self._conditional(node.name)
                _, hidden = conditional(self._gather(z, node.parents))
                message = conditional.vjp(weighted[..., self.slices[node.name]], hidden)
                gradient = gradient - self._send(message, node.parents)
        return gradient + weighted

    def _send(self, message: Tensor, names: tuple[str, ...]) -> Tensor:
        """A message (B, U) to the nodes `names`, as (B, Z)."""
        return message if len(names) == len(self.nodes) else message @ self._rows(names).to(message)
