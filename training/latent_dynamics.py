"""Imagination in the agent's own latent state: its learned dynamics, and learned rewards and ends of episodes.

    z' = f(z, a) + L xi,   xi ~ N(0, 1),   L the square root of the model's covariance Q of a tick

What noise a recorded transition had is inferred by xi = L^-1 (z' - f(z, a)): an imagined trajectory that replays it is
the recorded one, and its derivatives are taken where the robot was (002, noise inference in SVG).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from runtime.errors import GanglionError
from training.agent.agent import Agent
from training.agent.distributions import Gaussian
from training.agent.networks import mlp
from training.agent.situation import Situation
from training.derivatives import from_noise, infer_noise, likelihood_ratio
from training.replay_buffer import Batch


class Imagined(NamedTuple):
    """A tick that did not happen."""

    now: Situation
    """The state that it led to; x is what the model predicts."""
    reward: Tensor
    """(B,), times 1 - gamma."""
    goes_on: Tensor
    """Probability that the episode goes on (B,)."""


class LatentDynamics:
    """p(z' | z, a) of the agent's model, which learns elsewhere; r(z, a) and the probability of an end learn here."""

    def __init__(self, agent: Agent, gamma: float) -> None:
        """Raises GanglionError for a latent graph with edges, whose nodes do not move independently."""
        if agent.model.conditionals:
            edges = ", ".join(f"{parent} -> {n.name}" for n in agent.model.nodes for parent in n.parents)
            raise GanglionError(
                f"imagination needs a latent graph without edges, this one has {edges}; give the agent nodes without "
                "parents, or choose a model-free --algo, for example sac"
            )
        self._model, self._gamma = agent.model, gamma
        self.outcome = mlp(agent.model.size + agent.action_size, agent.config.hidden, 2)
        """Reward per tick, and logit of going on, of (z, a)."""

    def mean(self, z: Tensor, command: Tensor) -> Tensor:
        """f(z, a) (B, Z)."""
        return self._model.drive(z, command)

    def root(self, z: Tensor, command: Tensor) -> Tensor:
        """Diagonal of L (B, Z): standard deviations, not variances."""
        log_precision: Tensor = self._model.latent_log_precision(torch.cat((z, command), -1))
        return (-0.5 * log_precision).exp().expand_as(z)

    def infer_noise(self, z: Tensor, command: Tensor, following: Tensor) -> Tensor:
        """Noise (B, Z) with which the action `command` (B, A) leads from z to `following` (B, Z)."""
        return infer_noise(following, self.mean(z, command), self.root(z, command))

    @torch.no_grad()
    def recorded_noise(self, batch: Batch, command: Tensor) -> Tensor:
        """Noise (B, Z) of recorded transitions; drawn where an episode ended, for what followed means nothing."""
        noise = self.infer_noise(batch.now.z, command, batch.after.z)
        return torch.where(batch.terminated.unsqueeze(-1) > 0, torch.randn_like(noise), noise)

    def step(self, now: Situation, command: Tensor, noise: Tensor | None = None) -> Imagined:
        """One tick on with the action `command` (B, A) and the noise (B, Z); without one, to the mean."""
        z = self.mean(now.z, command)
        if noise is not None:
            z = from_noise(noise, z, self.root(now.z, command))
        reward, logit = self.outcome(torch.cat((now.z, command), -1)).unbind(-1)
        return Imagined(Situation(z, self._model.predict(z)), (1.0 - self._gamma) * reward, torch.sigmoid(logit))

    def sampled(self, now: Situation, command: Tensor, noise: Tensor) -> tuple[Imagined, Tensor]:
        """`step` to a state without a derivative, and the likelihood ratio (B,) of that state given z and a."""
        imagined = self.step(now, command, noise)
        z, x = imagined.now.z.detach(), imagined.now.x.detach()
        density = Gaussian(self.mean(now.z, command), self.root(now.z, command))
        return imagined._replace(now=Situation(z, x)), likelihood_ratio(density.log_prob(z))

    def loss(self, batch: Batch, command: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the reward of a tick, and cross entropy of the end, each ()."""
        reward, logit = self.outcome(torch.cat((batch.now.z, command), -1)).unbind(-1)
        error = reward - batch.reward / (1.0 - self._gamma)
        return error.square().mean(), binary_cross_entropy_with_logits(logit, 1.0 - batch.terminated)
