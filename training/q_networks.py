"""Critics q(z, x, a): several networks of one shape, computed together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.agent.situation import Situation


class QNetworks(nn.Module):
    """`count` networks with two hidden ReLU layers each; a matrix product is one call for all of them."""

    def __init__(self, inputs: int, hidden: int, outputs: int = 1, count: int = 1) -> None:
        super().__init__()

        def uniform(fan_in: int, *shape: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(count, *shape) - 1) / math.sqrt(fan_in))

        self.weights = nn.ParameterList(
            uniform(i, i, o) for i, o in ((inputs, hidden), (hidden, hidden), (hidden, outputs))
        )
        self.biases = nn.ParameterList(
            uniform(i, 1, o) for i, o in ((inputs, hidden), (hidden, hidden), (hidden, outputs))
        )

    def forward(self, inputs: Tensor, count: int | None = None) -> Tensor:
        """(count, B, outputs) for (B, inputs), of the first `count` networks alone if it is given."""
        layers = list(zip(self.weights, self.biases))
        if count is not None:
            layers = [(weight[:count], bias[:count]) for weight, bias in layers]
        rows: Tensor = inputs.expand(len(layers[0][0]), *inputs.shape)
        for layer, (weight, bias) in enumerate(layers):
            rows = torch.baddbmm(bias, rows, weight)
            if layer < len(layers) - 1:
                rows = torch.relu_(rows)
        return rows

    def q(self, s: Situation, action: Tensor, count: int | None = None) -> Tensor:
        """Value of the first `count` networks, or all (count, B), for actions (B, A), of networks with one output."""
        values: Tensor = self(torch.cat((s.z, s.x, action), -1), count)
        return values.squeeze(-1)

    def choices(self, s: Situation) -> Tensor:
        """Value of every choice by every network (count, B, M), of networks with an output for each of M choices."""
        values: Tensor = self(torch.cat((s.z, s.x), -1))
        return values


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Set every parameter of the target to tau source + (1 - tau) target."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), tau)
