"""Learning to act like an expert, in the loop: the pilot flies, the expert says what it would have done.

In half of the worlds the pilot's own actions are executed, in the others the expert's, so that the pilot learns on the
states that it meets and on those that it ought to meet. Slow noise of various strength is added to all of them: under
an expert's control every part of the state goes with the others, and a model learned from that alone predicts well
until a sensor is lost for good. The loss runs through the whole window of ticks, and the carried state goes on from
window to window.

What is kept is the mean of the weights over the last quarter of the updates: along the directions that only a lost
sensor shows, the loss is so flat that single weights wander. While they do, the model's own noise has to cover them, so
it is learned once more on the mean, which is more exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.refinement_study.pilots import Pilot, Predictive
from runtime.contract import Layout
from training.augment import Augmentation, SensorDropout
from training.world_model import SCALE_SPEED, Sequences, learning_groups

_ACTION_STD = 0.1  # normalised; the scale on which an error of the action counts
_EXPLORATION = np.array([0.075, 0.15, 0.225, 0.3])  # normalised standard deviations of what is added, in turn
_MEMORY = 0.9  # of that, per tick: an Ornstein-Uhlenbeck process with a correlation time of 0.1 s at 100 Hz
_AVERAGED_FROM = 0.75  # of the updates
_SETTLING_RATE = 5e-3


class World(Protocol):
    """N environments that an expert can solve."""

    layout: Layout
    count: int

    def reset(self, which: np.ndarray) -> None:
        """New episodes where `which` (N,) is true."""

    def observe(self) -> np.ndarray:
        """Readings (N, D) SI."""

    def step(self, action: np.ndarray) -> np.ndarray:
        """Execute normalised actions (N, A); what was executed after limits (N, A)."""

    def expert(self) -> np.ndarray:
        """Normalised action of the expert (N, A)."""

    def over(self) -> np.ndarray:
        """Where the episode has ended (N,)."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn."""

    updates: int = 2000
    ticks: int = 32
    """Length of the window."""
    worlds: int = 64
    learning_rate: float = 2e-3
    refine: tuple[int, ...] = (0,)
    """Numbers of refinement steps; each window draws one."""
    settling: int = 0
    """Further updates of the latents' noise alone, on the mean of the weights."""

    @property
    def total(self) -> int:
        """Updates altogether."""
        return self.updates + self.settling

    def scaled(self, factor: float) -> Schedule:
        """As many times as long."""
        return replace(self, updates=max(1, round(factor * self.updates)), settling=round(factor * self.settling))


class _MeanAdam:
    """Adam on some of the weights, which keeps their mean over the last quarter of its updates."""

    def __init__(self, groups: list[dict[str, Any]], updates: int) -> None:
        self._optimizer = torch.optim.Adam(groups, eps=1e-5)
        self._weights = nn.ParameterList(p for group in groups for p in group["params"])
        self._average = AveragedModel(self._weights)
        self._updates, self._done = updates, 0

    def step(self, loss: Tensor, rate: float) -> None:
        """One update at `rate` times the speed of each group."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["speed"] * rate
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._done += 1
        if self._done > _AVERAGED_FROM * self._updates:
            self._average.update_parameters(self._weights)

    @torch.no_grad()
    def finish(self) -> None:
        """Put the mean in the place of the weights."""
        for weight, mean in zip(self._weights, self._average.module.parameters(), strict=True):
            weight.copy_(mean)


def clone(
    pilot: Pilot,
    make_world: Callable[[int, np.random.Generator], World],
    schedule: Schedule,
    augmentation: Augmentation,
    seed: int,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Train `pilot` in place. `report` is called with the updates done and the terms of the loss."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    world = make_world(schedule.worlds, rng)
    layout, count = world.layout, schedule.worlds
    dropout = SensorDropout(layout.observations, count, rng, augmentation)
    by_expert = np.arange(count) < count // 2
    optimizer = _MeanAdam(_groups(pilot), schedule.updates)
    state = pilot.initial(count)
    previous, first = torch.zeros(count, layout.joints), torch.ones(count)
    pilot.train()
    wander, strength = np.zeros((count, layout.joints)), np.resize(_EXPLORATION, (count, 1))
    for update in range(schedule.total):
        if update == schedule.updates:
            optimizer.finish()
            optimizer = _MeanAdam(_noise(pilot), schedule.settling)
        steps = torch.full((count,), int(rng.choice(schedule.refine)))
        rows: list[tuple[Tensor, ...]] = []
        records, actions, labels = [], [], []
        begin = state = {name: value.detach() for name, value in state.items()}
        for _ in range(schedule.ticks):
            x = torch.as_tensor((world.observe() - layout.mean) / layout.scale, dtype=torch.float32)
            mask = torch.as_tensor(dropout.step())
            rows.append((x, mask, previous, first))
            action, state, record = pilot.tick(mask * x, mask, previous, pilot.restarted(state, first), steps)
            expert = world.expert()
            actions.append(action)
            labels.append(torch.as_tensor(expert, dtype=torch.float32))
            records.append(record)
            chosen = np.where(by_expert[:, None], expert, action.detach().numpy().astype(np.float64))
            wander = _MEMORY * wander + np.sqrt(1 - _MEMORY**2) * rng.standard_normal(chosen.shape)
            executed = world.step(np.clip(np.nan_to_num(chosen) + strength * wander, -1.0, 1.0))
            over = world.over()
            if over.any():
                world.reset(over)
                dropout.restart(over)
            first = torch.as_tensor(over, dtype=torch.float32)
            previous = torch.as_tensor(np.where(over[:, None], 0.0, executed), dtype=torch.float32)
        x_all, masks, actions_before, firsts = (torch.stack(column) for column in zip(*rows, strict=True))
        data = Sequences(x_all, masks, actions_before, firsts, begin, steps)
        error = (torch.stack(actions) - torch.stack(labels)) / _ACTION_STD
        terms = {"action": 0.5 * error.square().mean()} | pilot.auxiliary(data, records)
        optimizer.step(torch.stack(list(terms.values())).sum(), _rate(schedule, update))
        if report is not None:
            report(update + 1, {name: value.item() for name, value in terms.items()})
    optimizer.finish()
    pilot.eval()


def _rate(schedule: Schedule, update: int) -> float:
    """Warm-up over the first hundredth, then linear to a quarter; constant while the noise settles."""
    progress = update / schedule.updates
    if progress >= 1.0:
        return _SETTLING_RATE
    return schedule.learning_rate * min(1.0, 100 * progress + 0.1) * (1.0 - 0.75 * progress)


def _groups(pilot: Pilot) -> list[dict[str, Any]]:
    if not isinstance(pilot, Predictive):
        return [{"params": list(pilot.parameters()), "speed": 1.0}]
    return [*learning_groups(pilot.agent), {"params": list(pilot.agent.policy.parameters()), "speed": 1.0}]


def _noise(pilot: Pilot) -> list[dict[str, Any]]:
    """The scale of the latents' noise alone."""
    if not isinstance(pilot, Predictive):
        raise TypeError(f"{type(pilot).__name__} has no latents")
    return [{"params": [pilot.agent.model.latent_log_precision.raw], "speed": SCALE_SPEED}]
