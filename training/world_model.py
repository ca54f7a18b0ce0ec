"""Learning the generative model, the encoder and the refinement's step sizes through the unrolled filter.

Loss per tick: -log p(x_t | z_t) on every channel, also those that the agent could not see; -log p(x_t | prior mean of
z_t), the one-step prediction; -log p(z_t | z_{t-1}, a_{t-1}). The last one would fall without bound if the latents
shrank while their precision grew, so their scale is pinned to unit variance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.agent.agent import Agent
from training.agent.model import gaussian_energy
from training.config import TrainConfig
from training.rollout import Rollout

_SCALE_WEIGHT = 1.0
_SCALE_SPEED = 10.0  # logarithms of precisions and step sizes travel farther than weights


def filter_loss(
    agent: Agent,
    x: Tensor,
    mask: Tensor,
    previous_action: Tensor,
    first: Tensor,
    z_start: Tensor,
    steps: Tensor,
) -> dict[str, Tensor]:
    """Loss terms in nats per channel or latent, for sequences (T, B, ...) from the beliefs z_start (B, Z)."""
    model = agent.model
    z_previous = z_start
    beliefs, drives, predictions = [], [], []
    for t in range(len(x)):
        z_previous = z_previous * (1.0 - first[t]).unsqueeze(-1)
        belief, start = agent.infer(x[t], mask[t], z_previous, previous_action[t], steps)
        beliefs.append(belief.z)
        drives.append(start.drive)
        predictions.append(start.prediction)
        z_previous = belief.z
    z, drive, prediction = torch.stack(beliefs), torch.stack(drives), torch.stack(predictions)
    follows = 1.0 - first
    weight = follows / follows.sum().clamp(min=1.0)
    reconstruction = gaussian_energy(x - model.predict(z), model.observation_log_precision()).mean()
    predicted = (weight * gaussian_energy(x - prediction, model.predictive_log_precision())).sum()
    latent = (weight * gaussian_energy(model.latent_error(z, drive), model.latent_log_precision())).sum()
    flat = z.flatten(0, 1)
    free = (model.anchors.sum(1) == 0).to(flat)
    scale = (free * (flat.var(0).clamp(min=1e-6).log().square() + flat.mean(0).square())).mean()
    return {
        "reconstruction": reconstruction / x.shape[-1],
        "prediction": predicted / x.shape[-1],
        "latent": latent / model.size,
        "scale": _SCALE_WEIGHT * scale,
    }


def sequences(rollout: Rollout, length: int) -> dict[str, Tensor]:
    """The rollout cut into sequences of `length` ticks: tensors (length, S, ...), with z_start (S, Z), steps (S,)."""
    pieces = len(rollout.first) // length

    def cut(values: Tensor) -> Tensor:
        shaped = values[: pieces * length].reshape(pieces, length, *values.shape[1:])
        return shaped.transpose(0, 1).flatten(1, 2)

    starts = [rollout.z_start, *(rollout.z[i * length - 1] for i in range(1, pieces))]
    return {
        "x": cut(rollout.x),
        "mask": cut(rollout.mask),
        "previous_action": cut(rollout.previous_action),
        "first": cut(rollout.first),
        "z_start": torch.cat(starts),
        "steps": rollout.steps.repeat(pieces),
    }


class WorldModel:
    """Optimiser of everything but the policy and the critic."""

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        self.config, self.agent = config, agent
        scales = [p for n, p in agent.model.named_parameters() if "log_precision" in n] + [agent.log_step_size]
        weights = [p for n, p in agent.model.named_parameters() if "log_precision" not in n]
        self.parameters = [*scales, *weights, *agent.encoder.parameters()]
        groups = [
            {"params": scales, "speed": _SCALE_SPEED},
            {"params": [*weights, *agent.encoder.parameters()], "speed": 1.0},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=config.learning_rate, eps=1e-5)

    def _minibatches(self, steps: Tensor) -> list[Tensor]:
        """One minibatch for each number of refinement steps, in random order: a short one costs little."""
        values = steps.unique()
        return [torch.nonzero(steps == values[i]).squeeze(1) for i in torch.randperm(len(values))]

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Learn from one rollout; `progress` in [0, 1] decays the step size to zero."""
        c = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["speed"] * c.learning_rate * max(1.0 - progress, 0.02)
        batch = sequences(rollout, c.sequence)
        total: dict[str, float] = {}
        for _ in range(c.model_epochs):
            for index in self._minibatches(batch["steps"]):
                terms = filter_loss(
                    self.agent,
                    **{k: v[index] if k in ("z_start", "steps") else v[:, index] for k, v in batch.items()},
                )
                self.optimizer.zero_grad()
                sum(terms.values()).backward()  # type: ignore[union-attr]
                nn.utils.clip_grad_norm_(self.parameters, 1.0)
                self.optimizer.step()
                for name, value in terms.items():
                    total[f"model/{name}"] = value.item()
        return total
