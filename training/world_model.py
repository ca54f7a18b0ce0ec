"""Learning the generative model, the encoder and the inference through the unrolled filter.

Loss per tick, in nats per channel, on every channel, also those that the agent could not see:

    prediction     -log p(x_t | past), each channel by its predicted mean and variance
    overshooting   -log p(x_{t+d} | past of t), d ticks on without looking
    unseen         -log p(x_t | z_t) of the masked channels
    latent         -log p(z_t | z_{t-1}, a_{t-1}) where the prior precision is a learned constant
    amortization   distance of the encoder's answer from the refined one, in posterior standard deviations
    scale          latents that no channel is tied to, pinned to zero mean and unit variance, unless the dynamics are
                   fixed, so that they cannot shrink

Without the last one the latent term would fall without bound as latents shrink while their precision grows. Of tied
latents the channel fixes the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.agent import blocks
from training.agent.agent import Agent, Belief, State
from training.agent.inference import GaussNewton
from training.agent.model import gaussian_energy
from training.config import TrainConfig
from training.gradient_step import descend
from training.rollout import Rollout

SCALE_SPEED = 10.0  # logarithms of precisions and step sizes travel farther than weights
_OVERSHOOT_STRIDE = 4  # ticks between the starts of open-loop predictions
_LARGEST_AMORTIZATION = 10.0  # standard deviations


@dataclass
class Sequences:
    """Data of S sequences of T ticks."""

    x: Tensor
    """Normalised observation without failures (T, S, D)."""
    mask: Tensor
    """(T, S, D), one where the agent saw the channel."""
    previous_action: Tensor
    """(T, S, A)."""
    first: Tensor
    """(T, S), one at the first tick of an episode."""
    start: State
    """Carried state before the first tick."""
    steps: Tensor
    """Refinement steps of each sequence (S,) int64."""
    known: Tensor | None = None
    """(T, S, D), one where `x` is the truth; everywhere if None."""

    def take(self, index: Tensor) -> Sequences:
        """The sequences at `index`."""
        return Sequences(
            x=self.x[:, index],
            mask=self.mask[:, index],
            previous_action=self.previous_action[:, index],
            first=self.first[:, index],
            start={name: value[index] for name, value in self.start.items()},
            steps=self.steps[index],
            known=None if self.known is None else self.known[:, index],
        )


def joined(parts: list[Sequences]) -> Sequences:
    """The sequences of all `parts`, of equally many ticks, side by side."""
    known = [p.known for p in parts if p.known is not None]
    return Sequences(
        x=torch.cat([p.x for p in parts], 1),
        mask=torch.cat([p.mask for p in parts], 1),
        previous_action=torch.cat([p.previous_action for p in parts], 1),
        first=torch.cat([p.first for p in parts], 1),
        start={name: torch.cat([p.start[name] for p in parts]) for name in parts[0].start},
        steps=torch.cat([p.steps for p in parts]),
        known=torch.cat(known, 1) if known else None,
    )


def unroll(agent: Agent, data: Sequences) -> list[Belief]:
    """The filter over every tick, differentiable from end to end."""
    state, beliefs = data.start, []
    for t in range(len(data.x)):
        state = agent.restarted(state, data.first[t])
        beliefs.append(agent.infer(data.x[t], data.mask[t], data.previous_action[t], state, data.steps))
        state = beliefs[-1].state
    return beliefs


def filter_loss(agent: Agent, data: Sequences, beliefs: list[Belief], overshoot: int) -> dict[str, Tensor]:
    """Terms of the loss, each averaged over ticks, sequences, and channels or latents; see the module's docstring."""
    model, method, x = agent.model, agent.method, data.x
    follows = 1.0 - data.first
    counts = follows.unsqueeze(-1) * (torch.ones_like(x) if data.known is None else data.known)
    predicted = torch.stack([b.prediction.x for b in beliefs])
    variance = torch.stack([b.prediction.variance.expand(x.shape[1:]) for b in beliefs])
    z = torch.stack([b.z for b in beliefs])
    terms = {
        "prediction": _average(_energy(x - predicted, variance), counts),
        "unseen": _average((1.0 - data.mask) * _energy(*_residual(agent, data, beliefs)), counts),
    }
    if overshoot:
        terms["overshooting"] = _overshooting(agent, data, beliefs, overshoot)
    if isinstance(method, GaussNewton):
        deviation = torch.stack([blocks.diagonal(b.state["P"]) for b in beliefs]).sqrt()
        terms["amortization"] = amortization(torch.stack([b.start.z for b in beliefs]), z, deviation)
    else:
        latent = [
            gaussian_energy(model.latent_error(b.z, b.prediction.prior.drive), b.prediction.prior.precision.log())
            for b in beliefs
        ]
        terms["latent"] = (follows * torch.stack(latent)).sum() / (follows.sum().clamp(min=1.0) * model.size)
    fixed = not any(p.requires_grad for p in model.dynamics.parameters())
    if not fixed and not bool(model.anchored.all()):
        terms["scale"] = scale_penalty(z.flatten(0, 1)[:, ~model.anchored])
    return terms


def amortization(amortized: Tensor, refined: Tensor, deviation: Tensor) -> Tensor:
    """Squared distance of the encoder's answer from the refined one (..., Z), in standard deviations, averaged."""
    distance = (amortized - refined.detach()) / deviation.detach()
    return 0.1 * distance.clamp(-_LARGEST_AMORTIZATION, _LARGEST_AMORTIZATION).square().mean()


def scale_penalty(latents: Tensor) -> Tensor:
    """Squared log-variance and squared mean of latents (N, L), averaged; zero at zero mean and unit variance."""
    return (latents.var(0).clamp(min=1e-6).log().square() + latents.mean(0).square()).mean()


def _energy(error: Tensor, variance: Tensor) -> Tensor:
    """-log N(error; 0, variance) up to a constant, elementwise."""
    return 0.5 * (error.square() / variance + variance.log())


def _average(energy: Tensor, weight: Tensor) -> Tensor:
    """Mean of (T, S, D) over what weight (T, S, D) selects."""
    return (weight * energy).sum() / weight.sum().clamp(min=1.0)


def _residual(agent: Agent, data: Sequences, beliefs: list[Belief]) -> tuple[Tensor, Tensor]:
    """X minus its mean given the belief, and the variance of that, each (T, S, D)."""
    noise = torch.stack([(-b.prediction.prior.log_precision_x).exp().expand(data.x.shape[1:]) for b in beliefs])
    z = torch.stack([b.z for b in beliefs])
    if not isinstance(agent.method, GaussNewton):
        return data.x - agent.model.predict(z), noise
    mean, jacobian = agent.model.predict_with_jacobian(z.flatten(0, 1))
    covariance = torch.stack([b.state["P"] for b in beliefs]).flatten(0, 1)
    return data.x - mean.view_as(data.x), blocks.spread(jacobian, covariance).view_as(data.x) + noise


def _overshooting(agent: Agent, data: Sequences, beliefs: list[Belief], depth: int) -> Tensor:
    """Mean energy of the predictions 2 to `depth` ticks on, without looking."""
    ticks, carries = len(beliefs), isinstance(agent.method, GaussNewton)
    starts = torch.arange(0, ticks - depth, _OVERSHOOT_STRIDE)
    state = {n: torch.stack([beliefs[int(t)].state[n] for t in starts]).flatten(0, 1) for n in beliefs[0].state}
    valid = torch.ones(len(starts), data.x.shape[1])
    total, count = torch.zeros(()), torch.zeros(())
    for d in range(1, depth + 1):
        valid = valid * (1.0 - data.first[starts + d])
        state, x, variance = agent.method.foresee(agent.model, state, data.previous_action[starts + d].flatten(0, 1))
        if d == 1:
            continue
        variance = variance if carries else d * variance.detach()
        energy = _energy(data.x[starts + d].flatten(0, 1) - x, variance)
        if data.known is not None:
            energy = energy * data.known[starts + d].flatten(0, 1)
        energy = energy.mean(-1)
        total, count = total + (valid.flatten() * energy).sum(), count + valid.sum()
    return total / count.clamp(min=1.0)


def sequences(rollout: Rollout, length: int) -> Sequences:
    """The rollout cut into sequences of `length` ticks."""
    pieces = len(rollout.first) // length

    def cut(values: Tensor) -> Tensor:
        shaped = values[: pieces * length].reshape(pieces, length, *values.shape[1:])
        return shaped.transpose(0, 1).flatten(1, 2)

    return Sequences(
        x=cut(rollout.x),
        mask=cut(rollout.mask),
        previous_action=cut(rollout.previous_action),
        first=cut(rollout.first),
        start={name: torch.cat([s[name] for s in rollout.starts[:pieces]]) for name in rollout.starts[0]},
        steps=rollout.steps.repeat(pieces),
    )


def learning_groups(agent: Agent) -> list[dict[str, Any]]:
    """Parameter groups of everything but the heads, each with its `speed` in multiples of the learning rate."""
    named = [*agent.model.named_parameters(), *agent.method.named_parameters(), *agent.encoder.named_parameters()]

    def scales(name: str) -> bool:
        return name.endswith("raw") or name == "predictive_log_variance"

    return [
        {"params": [p for n, p in named if scales(n)], "speed": SCALE_SPEED},
        {"params": [p for n, p in named if not scales(n)], "speed": 1.0},
    ]


class ModelLearner:
    """Optimiser of everything but the policy and the critic."""

    def __init__(self, agent: Agent, learning_rate: float, overshoot: int) -> None:
        """`overshoot`: ticks over which the model also predicts without looking."""
        self.agent, self._learning_rate, self._overshoot = agent, learning_rate, overshoot
        groups = learning_groups(agent)
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.Adam(groups, lr=learning_rate, eps=1e-5)

    def slow_down(self, progress: float) -> None:
        """Step size at `progress` in [0, 1] of the run, which decays to nearly zero."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["speed"] * self._learning_rate * max(1.0 - progress, 0.02)

    def terms(self, data: Sequences, beliefs: list[Belief]) -> dict[str, Tensor]:
        """What `learn` descends the sum of."""
        return filter_loss(self.agent, data, beliefs, self._overshoot)

    def learn(self, data: Sequences) -> tuple[dict[str, float], list[Belief]]:
        """One step on `data`; the terms of the loss, and the beliefs that it was made from."""
        beliefs = unroll(self.agent, data)
        terms = self.terms(data, beliefs)
        descend(self.optimizer, torch.stack(list(terms.values())).sum(), longest=1.0)
        return {f"model/{name}": value.item() for name, value in terms.items()}, beliefs


class WorldModel(ModelLearner):
    """Learns from rollouts."""

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(agent, config.model_learning_rate, config.overshoot)
        self.config = config
        self._waiting: list[Sequences] = []

    def _minibatches(self, steps: Tensor) -> list[Tensor]:
        """One minibatch for each number of refinement steps, in random order: a short one costs little."""
        values = steps.unique()
        return [torch.nonzero(steps == values[i]).squeeze(1) for i in torch.randperm(len(values))]

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Learn from a rollout and those before that were too few.

        `progress` in [0, 1] of the run decays the step size to nearly zero.
        """
        self.slow_down(progress)
        total: dict[str, float] = {}
        if self.config.model_epochs == 0:
            return total
        self._waiting.append(sequences(rollout, self.config.sequence))
        if sum(len(part.steps) for part in self._waiting) < self.config.model_batch:
            return total
        batch = joined(self._waiting)
        self._waiting.clear()
        for _ in range(self.config.model_epochs):
            for index in self._minibatches(batch.steps):
                total |= self.learn(batch.take(index))[0]
        return total
