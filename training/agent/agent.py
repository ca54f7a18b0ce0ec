"""The agent as one torch module: encoder, generative model, K-step refinement, policy and value heads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.agent.config import AgentConfig
from training.agent.model import GenerativeModel
from training.agent.networks import SkipMLP, mlp

_GUARD = (1.0, 0.5, 0.25, 0.0)  # multiples of the refinement's displacement; the one of least F is kept


@dataclass
class Start:
    """What the refinement of one tick starts from."""

    z: Tensor
    """Amortized answer (B, Z)."""
    drive: Tensor
    """Temporal part of the prior mean (B, Z)."""
    prediction: Tensor
    """Predicted observation at the prior mean (B, D)."""
    precision_x: Tensor
    """Precision of each channel, zero where masked (B, D)."""
    gain: Tensor
    """Step size over curvature, per latent (B, Z)."""


@dataclass
class Belief:
    """What a tick inferred."""

    z: Tensor
    """(B, Z)."""
    free_energy: Tensor
    """F (B,), nats."""
    innovation: Tensor
    """(x - prediction) in predicted standard deviations (B, D); zero where masked."""


class Agent(nn.Module):
    """All tensors are normalised; x (B, D) must be finite also where the mask (B, D) is zero."""

    def __init__(self, config: AgentConfig, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        self.observation_size, self.action_size = observation_size, action_size
        self.model = GenerativeModel(config.nodes, observation_size, action_size, config.hidden)
        size = self.model.size
        self.encoder = SkipMLP(3 * observation_size + size, config.hidden, size)
        with torch.no_grad():  # half of each innovation corrects the latent that explains it
            self.encoder.linear.weight[:, -observation_size:] = 0.5 * self.model.anchors
        self.log_step_size = nn.Parameter(torch.full((size,), math.log(0.5)))
        acting = next(n.size for n in config.nodes if n.name == config.acting_node)
        self.policy = mlp(acting, config.hidden, action_size, last_gain=0.01)
        self.critic = mlp(size + observation_size, config.hidden, 1)
        self.log_std = nn.Parameter(torch.full((action_size,), -0.5))

    def start(self, x: Tensor, mask: Tensor, z_previous: Tensor, action: Tensor) -> Start:
        """Predict, then amortize: z0 = prior mean + encoder(m x, m, prior mean, m (x - predicted x))."""
        drive = self.model.drive(z_previous, action)
        prior = self.model.prior_mean(drive)
        prediction = self.model.predict(prior)
        features = torch.cat((mask * x, mask, prior, mask * (x - prediction)), -1)
        precision_x = self.model.observation_precision(mask)
        gain = self.log_step_size.exp() / self.model.curvature(precision_x)
        return Start(prior + self.encoder(features), drive, prediction, precision_x, gain)

    def refine(self, z: Tensor, x: Tensor, precision_x: Tensor, drive: Tensor, gain: Tensor) -> Tensor:
        """One step z - eta D^-1 dF/dz, with the diagonal curvature D and a learned eta > 0 per latent."""
        return z - gain * self.model.free_energy_gradient(z, x, precision_x, drive)

    def finish(self, start: Start, z: Tensor, x: Tensor, mask: Tensor) -> Belief:
        """Guard the refined z so that F is not above its value at the amortized answer, and report."""
        multiples = torch.tensor(_GUARD, dtype=z.dtype, device=z.device).reshape(-1, 1, 1)
        candidates = start.z + multiples * (z - start.z)
        energies = self.model.free_energy(candidates, x, mask, start.drive)
        best = energies.argmin(0, keepdim=True)
        guarded = candidates.gather(0, best.unsqueeze(-1).expand(1, *z.shape)).squeeze(0)
        free_energy = energies.gather(0, best).squeeze(0)
        deviation = (0.5 * self.model.predictive_log_precision()).exp()
        return Belief(guarded, free_energy, mask * (x - start.prediction) * deviation)

    def infer(self, x: Tensor, mask: Tensor, z_previous: Tensor, action: Tensor, steps: Tensor) -> tuple[Belief, Start]:
        """One tick's belief with `steps` (B,) refinement steps, each row its own number."""
        start = self.start(x, mask, z_previous, action)
        z = start.z
        for k in range(int(steps.max())):
            z = torch.where((steps > k).unsqueeze(-1), self.refine(z, x, start.precision_x, start.drive, start.gain), z)
        return self.finish(start, z, x, mask), start

    def act(self, z: Tensor) -> Tensor:
        """Mean of the normalised action (B, A)."""
        mean: Tensor = self.policy(z[..., self.model.slices[self.config.acting_node]])
        return mean

    def value(self, z: Tensor, x: Tensor) -> Tensor:
        """State value (B,); the critic is not deployed, so it also sees the unmasked observation x (B, D)."""
        value: Tensor = self.critic(torch.cat((z, x), -1)).squeeze(-1)
        return value

    def distribution(self, z: Tensor) -> torch.distributions.Normal:
        """Gaussian policy at z (B, Z)."""
        return torch.distributions.Normal(self.act(z), self.log_std.exp(), validate_args=False)
