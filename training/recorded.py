"""Recorded ticks as the agent takes them, and what it expects of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.agent.agent import Agent
from training.bag_config import BagConfig
from training.from_bags import Ticks

TICKS = "ticks.npz"
"""The recordings in the folder of the run, so that neither resuming nor exporting needs the bags."""


@dataclass(frozen=True)
class Tensors:
    """Ticks as the agent takes them, each (N, ...)."""

    x: Tensor
    """Normalised readings; zero where there is none."""
    mask: Tensor
    """One where the reading is believed."""
    known: Tensor
    """One where it is also new, so that it can be predicted."""
    previous_action: Tensor
    """Normalised command that was given after the tick before; zero where there was none."""
    target: Tensor
    """The one that was given after the tick, NaN where none was recorded."""
    first: Tensor

    @staticmethod
    def of(ticks: Ticks, config: BagConfig) -> Tensors:
        """With the robot's normalisation."""
        layout, action = config.robot.layout, config.robot.action
        believed = ticks.believed(layout)
        x = np.where(believed, (ticks.values - layout.mean) / layout.scale, 0.0)
        command = np.clip((ticks.command - np.array(action.offset)) / np.array(action.scale), -1.0, 1.0)
        target = np.full_like(command, np.nan)
        target[:-1] = np.where(ticks.first[1:, None], np.nan, command[1:])
        columns = (x, believed, believed & ticks.fresh, np.nan_to_num(command), target, ticks.first)
        return Tensors(*(torch.as_tensor(c, dtype=torch.float32) for c in columns))


@dataclass(frozen=True)
class Forecast:
    """What the agent expected of N ticks and did, each (N, ...)."""

    x: Tensor
    """One-step prediction of every channel, normalised."""
    action: Tensor
    """Normalised."""


@torch.no_grad()
def predict(agent: Agent, data: Tensors, refine: int = 1) -> Forecast:
    """The agent over the ticks in their order, on what the sensors showed, after the recorded commands."""
    state, steps = agent.initial(1), torch.tensor([refine])
    expected, answers = [], []
    for i in range(len(data.x)):
        state = agent.restarted(state, data.first[i : i + 1])
        x, mask, action = (v[i : i + 1] for v in (data.x, data.mask, data.previous_action))
        belief = agent.infer(x, mask, action, state, steps)
        state = belief.state
        expected.append(belief.prediction.x[0])
        answers.append(agent.act(belief.z)[0])
    return Forecast(torch.stack(expected), torch.stack(answers))
