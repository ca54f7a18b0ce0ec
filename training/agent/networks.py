"""The networks of the agent. Those of the generative model carry their own derivatives, which the refinement needs."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU, "tanh": nn.Tanh}
"""By name in the settings."""


def mlp(inputs: int, hidden: int, outputs: int, last_gain: float = 1.0, activation: str = "elu") -> nn.Sequential:
    """Two hidden layers; the last layer's weights are scaled by `last_gain`, its bias starts at zero."""
    last = nn.Linear(hidden, outputs)
    nn.init.orthogonal_(last.weight, last_gain)
    nn.init.zeros_(last.bias)
    bend = ACTIVATIONS[activation]
    return nn.Sequential(nn.Linear(inputs, hidden), bend(), nn.Linear(hidden, hidden), bend(), last)


def added(base: Tensor, inputs: Tensor, weight: Tensor, factor: float = 1.0) -> Tensor:
    """`base + factor * inputs @ weight`; on matrices as one operation, which halves its cost in the exported graph."""
    if inputs.dim() == 2:
        return torch.addmm(base, inputs, weight, alpha=factor)
    return base + factor * (inputs @ weight)


class SkipMLP(nn.Module):
    """A linear map, zero at the start, beside an MLP: precise where the function is nearly linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.curved = mlp(inputs, hidden, outputs, last_gain=0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, outputs) for (B, inputs)."""
        last = cast(nn.Linear, self.curved[-1])
        base = linear(inputs, self.linear.weight, last.bias)
        return added(base, self.curved[:-1](inputs), last.weight.T)


class LastReading(nn.Module):
    """In the place of an encoder: every innovation, the last of its inputs, whole to the latent tied to its channel."""

    ties: Tensor

    def __init__(self, ties: Tensor) -> None:
        """`ties` (outputs, channels)."""
        super().__init__()
        self.register_buffer("ties", ties)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, outputs) for (B, inputs)."""
        return linear(inputs[..., -self.ties.shape[1] :], self.ties)


class Known(NamedTuple):
    """What is known of a conditional before anything is learned: mu(u) = S u + R (C u + W2 tanh(W1 u + b1) + b2)."""

    shift: Tensor
    """S (outputs, inputs)."""
    rows: Tensor
    """Diagonal of R (outputs, 1): zero where S is all."""


class Conditional(nn.Module):
    """mu(u) = C u + W2 tanh(W1 u + b1) + b2, with its derivatives.

    `forward` also returns the hidden layer, with which `vjp` and `jacobian` need no second pass.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, gain: float = 1.0) -> None:
        """`gain` scales the random start of C and W2, the function itself."""
        super().__init__()
        self.skip_weight = nn.Parameter(gain * torch.randn(outputs, inputs) / math.sqrt(inputs))
        self.inner_weight = nn.Parameter(torch.randn(hidden, inputs) / math.sqrt(inputs))
        self.inner_bias = nn.Parameter(torch.zeros(hidden))
        self.outer_weight = nn.Parameter(0.1 * gain * torch.randn(outputs, hidden) / math.sqrt(hidden))
        self.outer_bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, inputs: Tensor, known: Known | None = None) -> tuple[Tensor, Tensor]:
        """Mean (B, outputs) and hidden layer (B, hidden) for (B, inputs)."""
        hidden = self.layer(inputs)
        skip, outer, bias = self._weights(known)
        return added(linear(inputs, skip, bias), hidden, outer.T), hidden

    def _weights(self, known: Known | None) -> tuple[Tensor, Tensor, Tensor]:
        """C, W2 and b2 with what is known."""
        skip, outer, bias = self.skip_weight, self.outer_weight, self.outer_bias
        if known is None:
            return skip, outer, bias
        return torch.addcmul(known.shift, known.rows, skip), known.rows * outer, known.rows.squeeze(-1) * bias

    def layer(self, inputs: Tensor) -> Tensor:
        """Hidden layer (B, hidden)."""
        return torch.tanh(linear(inputs, self.inner_weight, self.inner_bias))

    def vjp(self, cotangent: Tensor, hidden: Tensor) -> Tensor:
        """(d mu / d u)^T cotangent, (B, inputs), for cotangent (B, outputs)."""
        return self.pulled(cotangent, hidden, self.skip_weight, self.outer_weight)

    def pulled(self, cotangent: Tensor, hidden: Tensor, skip: Tensor, outer: Tensor) -> Tensor:
        """`vjp` with other weights C (channels, inputs) and W2 (channels, hidden).

        The slopes 1 - h^2 are taken in two parts: the first one depends on weights alone.
        """
        bent = (cotangent @ outer) * hidden * hidden
        return added(cotangent @ torch.addmm(skip, outer, self.inner_weight), bent, self.inner_weight, -1.0)

    def jacobian(self, hidden: Tensor, columns: int | None = None, known: Known | None = None) -> Tensor:
        """Derivative d mu / d u (B, outputs, columns), for the first `columns` inputs, all if None."""
        skip, outer, _ = self._weights(known)
        inner, skip = self.inner_weight[:, :columns], skip[:, :columns]
        if len(hidden) == 1:  # the slopes 1 - h^2 in two parts, the first of which depends on weights alone
            base = torch.addmm(skip, outer, inner)
            return torch.addmm(base, outer * (hidden * hidden), inner, alpha=-1).unsqueeze(0)
        paths = outer.T.unsqueeze(-1) * inner.unsqueeze(-2)  # (hidden, outputs, columns)
        slopes = 1.0 - hidden * hidden
        return (added(skip.flatten(), slopes, paths.flatten(1))).unflatten(-1, skip.shape)


class ObservationModel(nn.Module):
    """Mean of the D observation channels given the latents u (B, U) of the observed nodes.

    Channel `tied[j]` is latent j itself; the other channels are a `Conditional` of all latents. A tie gives a latent
    the unit of its channel, so that neither its scale nor its rotation can drift while others learn to read it.
    """

    order: Tensor
    """Position of each channel in (tied channels, free channels)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, tied: tuple[int, ...]) -> None:
        super().__init__()
        self.tied = tied
        self.count = len(tied)
        free = [i for i in range(outputs) if i not in tied]
        self.free = Conditional(inputs, hidden, len(free)) if free else None
        self.sorted = [*tied, *free] == list(range(outputs))
        self.register_buffer("order", torch.tensor([*tied, *free]).argsort())
        self.register_buffer("order_back", torch.tensor([*tied, *free]))
        self.register_buffer("tie_rows", torch.eye(self.count, inputs))

    order_back: Tensor
    tie_rows: Tensor

    def _with_ties(self, free: Tensor, ties: Tensor | None = None) -> Tensor:
        """Weights of all channels, those of the tied ones zero unless given."""
        if ties is None:
            ties = free.new_zeros(self.count, *free.shape[1:])
        return self._channels(torch.cat((ties, free)), 0)

    def _channels(self, values: Tensor, dim: int) -> Tensor:
        return values if self.sorted else values.index_select(dim, self.order)

    def split(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) in the order of the channels to those of the tied (B, T) and of the free ones (B, D - T)."""
        values = channels if self.sorted else channels.index_select(-1, self.order_back)
        return values[..., : self.count], values[..., self.count :]

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, D) and hidden layer of the free channels (B, hidden), empty if all are tied."""
        if self.free is None:
            return self._channels(u[..., : self.count], -1), u[..., :0]
        hidden = self.free.layer(u)
        mean = linear(u, self._with_ties(self.free.skip_weight, self.tie_rows), self._with_ties(self.free.outer_bias))
        return added(mean, hidden, self._with_ties(self.free.outer_weight).T), hidden

    def vjp(self, cotangent: Tensor, hidden: Tensor) -> Tensor:
        """J^T cotangent (B, U) for cotangent (B, D)."""
        if self.free is None:
            return nn.functional.pad(self.split(cotangent)[0], (0, self.tie_rows.shape[1] - self.count))
        skip, outer = self._with_ties(self.free.skip_weight, self.tie_rows), self._with_ties(self.free.outer_weight)
        return self.free.pulled(cotangent, hidden, skip, outer)

    def jacobian(self, hidden: Tensor) -> Tensor:
        """J (B, D, U)."""
        ties = self.tie_rows.expand(*hidden.shape[:-1], -1, -1)
        if self.free is None:
            return self._channels(ties, -2)
        return self._channels(torch.cat((ties.mT, self.free.jacobian(hidden).mT), -1), -1).mT
