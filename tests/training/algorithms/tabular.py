"""A small random decision process as transitions whose averages are exactly its expectations, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runtime.contract import Node
from training.agent.agent import Agent
from training.agent.config import AgentConfig
from training.agent.situation import Situation
from training.algorithms import algorithm_class
from training.config import Options, TrainConfig
from training.control_as_inference import TabularMDP, Values, discounted_hard_value_iteration
from training.replay_buffer import Batch
from training.rollout import Rollout

STATES, CHOICES, OUTCOMES = 4, 3, 5
GAMMA = 0.8
ROWS = STATES * CHOICES * OUTCOMES


@dataclass(frozen=True)
class Process:
    """Each of OUTCOMES successors of a state and a choice is as likely as the others; -1 ends the episode."""

    reward: Tensor
    """(S, M)."""
    successor: Tensor
    """(S, M, OUTCOMES) int64."""

    def batch(self) -> Batch:
        """Every transition once, states as one-hot vectors; what follows an end is rubbish."""
        state, choice, _ = torch.meshgrid(
            torch.arange(STATES), torch.arange(CHOICES), torch.arange(OUTCOMES), indexing="ij"
        )
        state, choice, after = state.flatten(), choice.flatten(), self.successor.flatten()
        ended = after < 0
        rubbish = torch.full((ROWS, STATES), 1e3, dtype=torch.float64)
        return Batch(
            one_hot(state),
            choice,
            self.reward[state, choice],
            Situation(*(torch.where(ended[:, None], rubbish, v) for v in one_hot(after.clamp(min=0))[:2])),
            ended.double(),
        )

    def optimal(self) -> Values:
        """The fixed point of value iteration, q (S, M) and v (S,)."""
        transition = torch.zeros(STATES + 1, CHOICES, STATES + 1, dtype=torch.float64)
        transition[STATES, :, STATES] = 1.0
        for index in np.ndindex(STATES, CHOICES, OUTCOMES):
            transition[index[0], index[1], self.successor[index]] += 1 / OUTCOMES
        reward = torch.cat((self.reward, torch.zeros(1, CHOICES, dtype=torch.float64)))
        prior = torch.full_like(reward, 1 / CHOICES)
        values = discounted_hard_value_iteration(TabularMDP(reward, transition, prior), GAMMA, 1e-12)
        return Values(values.q[:STATES], values.v[:STATES])

    def backup(self, q: Tensor) -> Tensor:
        """One step of value iteration: r + gamma E max q(s', .) (S, M)."""
        best = torch.cat((q.amax(-1), torch.zeros(1, dtype=q.dtype)))
        return self.reward + GAMMA * best[self.successor].mean(-1)


def random_process(seed: int) -> Process:
    rng = np.random.default_rng(seed)
    successor = rng.integers(-1, STATES, size=(STATES, CHOICES, OUTCOMES))
    return Process(torch.as_tensor(rng.normal(size=(STATES, CHOICES))), torch.as_tensor(successor))


def one_hot(state: Tensor) -> Situation:
    rows = torch.eye(STATES, dtype=torch.float64)[state]
    return Situation(rows, rows.clone())


def make(name: str, head: str, size: int = STATES, **options: Any) -> Any:
    """The algorithm `name` in float64, with an agent that observes `size` channels and takes one action."""
    torch.manual_seed(0)
    choices = tuple((c,) for c in np.linspace(-1, 1, CHOICES).tolist()) if head == "categorical" else ()
    config = AgentConfig((Node("state", size),), tied=tuple(range(size)), hidden=8, head=head, choices=choices)
    agent = Agent(config, size, 1).double()
    kind = algorithm_class(name)
    given: Options = kind.options_class(**options)
    algorithm = kind(TrainConfig("cartpole", name, given, gamma=GAMMA, agent=config), agent)
    for part in vars(algorithm).values():
        if isinstance(part, nn.Module):
            part.double()
    return algorithm


class Table(nn.Module):
    """Critic of the interface of QNetworks: a table of q(s, .), linear in one-hot states."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(STATES, CHOICES, dtype=torch.float64))

    def choices(self, s: Situation) -> Tensor:
        """(1, B, M)."""
        return (s.z @ self.table).unsqueeze(0)


EXACT_STEP = STATES * CHOICES / 2
"""Step size at which one step on the mean squared error of every transition puts each entry at its targets' mean."""


def ends(algorithm: Any, action: Tensor, size: int = STATES) -> Batch:
    """Three transitions by way of the buffer, with rewards 1, 2 and 3: a true end, a time limit, and neither."""
    x = torch.randn(1, 3, size)
    zeros = torch.zeros(1, 3)
    rollout = Rollout(
        mask=torch.ones_like(x),
        previous_action=torch.zeros(1, 3, 1),
        first=zeros,
        starts=[],
        steps=torch.zeros(3, dtype=torch.int64),
        now=Situation(x, x),
        after=Situation(x + 1, x + 1),
        action=action,
        reward=torch.tensor([[1.0, 2.0, 3.0]]),
        terminated=torch.tensor([[1.0, 0.0, 0.0]]),
        done=torch.tensor([[1.0, 1.0, 0.0]]),
    )
    algorithm.buffer.add(rollout)
    batch: Batch = algorithm.buffer.everything()
    return batch
