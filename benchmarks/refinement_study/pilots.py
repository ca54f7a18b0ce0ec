"""The rivals: every agent that the study trains, behind one interface.

A pilot gets the normalised observation, its mask and the last action, carries a state, and returns the action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from training.agent.agent import Agent, State, put_back
from training.agent.networks import mlp
from training.world_model import Sequences, filter_loss

_WIDTH = 128
_STACK = 10


class Pilot(nn.Module, ABC):
    """N agents with one set of weights."""

    @abstractmethod
    def initial(self, count: int) -> State:
        """Carried state before the first tick."""

    @abstractmethod
    def tick(self, x: Tensor, mask: Tensor, action: Tensor, state: State, steps: Tensor) -> tuple[Tensor, State, Any]:
        """Normalised action (N, A), next state, and what `auxiliary` wants to know of the tick.

        x (N, D) is finite also where the mask (N, D) is zero; `action` (N, A) was executed last; `steps` (N,) are the
        refinement steps of those that refine.
        """

    def auxiliary(self, data: Sequences, records: list[Any]) -> dict[str, Tensor]:
        """Terms of the loss besides that of the action."""
        return {}

    def restarted(self, state: State, first: Tensor) -> State:
        """`state` with the rows where first (N,) is one put back to before the first tick."""
        return put_back(state, first, self.initial(1))


class HoldMLP(Pilot):
    """A feed-forward network on the last value that each channel had."""

    def __init__(self, channels: int, actions: int) -> None:
        super().__init__()
        self.channels = channels
        self.network = mlp(channels + actions, _WIDTH, actions)

    def initial(self, count: int) -> State:
        return {"held": torch.zeros(count, self.channels)}

    def tick(self, x: Tensor, mask: Tensor, action: Tensor, state: State, steps: Tensor) -> tuple[Tensor, State, Any]:
        held = torch.where(mask > 0, x, state["held"])
        return self.network(torch.cat((held, action), -1)), {"held": held}, None


class StackMLP(Pilot):
    """A feed-forward network on the last ten ticks of readings, masks and actions."""

    def __init__(self, channels: int, actions: int) -> None:
        super().__init__()
        self.width = 2 * channels + actions
        self.network = mlp(_STACK * self.width, _WIDTH, actions)

    def initial(self, count: int) -> State:
        return {"past": torch.zeros(count, _STACK, self.width)}

    def tick(self, x: Tensor, mask: Tensor, action: Tensor, state: State, steps: Tensor) -> tuple[Tensor, State, Any]:
        now = torch.cat((mask * x, mask, action), -1).unsqueeze(1)
        past = torch.cat((state["past"][:, 1:], now), 1)
        return self.network(past.flatten(1)), {"past": past}, None


class GRU(Pilot):
    """A recurrent network on readings, masks and actions, which also learns to predict the next readings."""

    def __init__(self, channels: int, actions: int) -> None:
        super().__init__()
        self.inward = nn.Sequential(nn.Linear(2 * channels + actions, _WIDTH), nn.ELU())
        self.cell = nn.GRUCell(_WIDTH, _WIDTH)
        self.head = mlp(_WIDTH, _WIDTH, actions)
        self.predictor = mlp(_WIDTH + actions, _WIDTH, channels)

    def initial(self, count: int) -> State:
        return {"memory": torch.zeros(count, _WIDTH)}

    def tick(self, x: Tensor, mask: Tensor, action: Tensor, state: State, steps: Tensor) -> tuple[Tensor, State, Any]:
        memory = self.cell(self.inward(torch.cat((mask * x, mask, action), -1)), state["memory"])
        return self.head(memory), {"memory": memory}, memory

    def auxiliary(self, data: Sequences, records: list[Any]) -> dict[str, Tensor]:
        memory = torch.stack(records[:-1])
        predicted = self.predictor(torch.cat((memory, data.previous_action[1:]), -1))
        follows = 1.0 - data.first[1:]
        error = (data.x[1:] - predicted).square().mean(-1)
        return {"prediction": (follows * error).sum() / follows.sum().clamp(min=1.0)}


class Predictive(Pilot):
    """The project's agent, with any method of inference."""

    def __init__(self, agent: Agent, overshoot: int) -> None:
        super().__init__()
        self.agent, self.overshoot = agent, overshoot
        self.checks = False
        """Whether the sensor checks are on."""

    def initial(self, count: int) -> State:
        return self.agent.initial(count)

    def tick(self, x: Tensor, mask: Tensor, action: Tensor, state: State, steps: Tensor) -> tuple[Tensor, State, Any]:
        fresh = torch.ones_like(x) if self.checks else None
        belief = self.agent.infer(x, mask, action, state, steps, fresh)
        return self.agent.act(belief.z), belief.state, belief

    def auxiliary(self, data: Sequences, records: list[Any]) -> dict[str, Tensor]:
        return filter_loss(self.agent, data, records, self.overshoot)

    def compile_tick(self) -> None:
        """Compile the parts of a tick, for one number of environments; it takes a minute and a C++ compiler."""
        torch.compiler.reset()
        parts = ((self.agent, ("start", "refine", "finish")), (self.agent.method, ("foresee",)))
        for owner, names in parts:
            for name in names:
                setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False))
