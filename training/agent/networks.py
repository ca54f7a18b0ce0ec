"""The networks of the agent. Those inside the refinement loop carry their own vector-Jacobian product."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad


def mlp(inputs: int, hidden: int, outputs: int, last_gain: float = 1.0) -> nn.Sequential:
    """Two hidden ELU layers; the last layer's weights are scaled by `last_gain`, its bias starts at zero."""
    last = nn.Linear(hidden, outputs)
    nn.init.orthogonal_(last.weight, last_gain)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), last)


def added(base: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """`base + inputs @ weight`; on matrices as one operation, which halves its cost in the exported graph."""
    return torch.addmm(base, inputs, weight) if inputs.dim() == 2 else base + inputs @ weight


class SkipMLP(nn.Module):
    """A linear map, zero at the start, beside an MLP: precise where the function is nearly linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.curved = mlp(inputs, hidden, outputs, last_gain=0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, outputs) for (B, inputs)."""
        total: Tensor = self.linear(inputs) + self.curved(inputs)
        return total


class Conditional(nn.Module):
    """Mean of a node given its parents: mu(z) = C z + W2 tanh(W1 z + b1) + b2.

    With at least as many inputs as outputs, C is fixed to [I 0]: output i is latent i plus a learned correction. That
    anchors the latents to the units of what they explain, so neither their scale nor their rotation can drift while the
    policy learns to read them. Otherwise C is learned. `forward` also returns the hidden layer, with which `vjp` needs
    no second pass.
    """

    skip_weight: Tensor

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.anchored = outputs if inputs >= outputs else 0
        """Number of leading inputs that are tied to an output each."""
        if self.anchored:
            self.register_buffer("skip_weight", torch.eye(outputs, inputs))
        else:
            self.skip_weight = nn.Parameter(torch.randn(outputs, inputs) / math.sqrt(inputs))
        self.inner_weight = nn.Parameter(torch.randn(hidden, inputs) / math.sqrt(inputs))
        self.inner_bias = nn.Parameter(torch.zeros(hidden))
        self.outer_weight = nn.Parameter(0.1 * torch.randn(outputs, hidden) / math.sqrt(hidden))
        self.outer_bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, outputs) and hidden layer (B, hidden) for z (B, inputs)."""
        hidden = torch.tanh(linear(z, self.inner_weight, self.inner_bias))
        return added(self._skip(z) + self.outer_bias, hidden, self.outer_weight.T), hidden

    def _skip(self, z: Tensor) -> Tensor:
        """C z; with C = [I 0] nothing is multiplied."""
        if self.anchored == z.shape[-1]:
            return z
        return z[..., : self.anchored] if self.anchored else linear(z, self.skip_weight)

    def _skip_vjp(self, cotangent: Tensor) -> Tensor:
        """C' cotangent."""
        inputs = self.skip_weight.shape[1]
        if self.anchored == inputs:
            return cotangent
        return pad(cotangent, (0, inputs - self.anchored)) if self.anchored else cotangent @ self.skip_weight

    def vjp(self, cotangent: Tensor, hidden: Tensor) -> Tensor:
        """(d mu / d z)^T cotangent, (B, inputs), for cotangent (B, outputs)."""
        through = (cotangent @ self.outer_weight) * (1.0 - hidden * hidden)
        return added(self._skip_vjp(cotangent), through, self.inner_weight)
