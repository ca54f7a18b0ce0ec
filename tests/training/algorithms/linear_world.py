"""A cart without a pole as an agent knows it: position and speed are its latents, and its model of them is exact."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.contract import Node
from tests.training.models import HOLD, conditionals
from training.agent.agent import Agent
from training.agent.config import AgentConfig
from training.agent.situation import Situation
from training.config import Options, TrainConfig
from training.rollout import Rollout

GAMMA = 0.95
MOVE = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
PUSH = torch.tensor([0.0, 0.4])
NOISE = torch.tensor([0.02, 0.05])
CHOICES = ((-1.0,), (0.0,), (1.0,))
_FARTHEST = 2.0  # the episode ends where the position is beyond


def linear_agent(head: str, seed: int = 0) -> Agent:
    """Of two latents, tied to two channels, with the world as its model."""
    torch.manual_seed(seed)
    choices = CHOICES if head == "categorical" else ()
    nodes = (Node("state", 2),)
    agent = Agent(AgentConfig(nodes, "state", (0, 1), 24, inference=HOLD, head=head, choices=choices), 2, 1)
    with torch.no_grad():
        for part in conditionals(agent.model):
            for parameter in part.parameters():
                parameter.zero_()
        agent.model._dynamics("state").skip_weight.copy_(torch.cat((MOVE - torch.eye(2), PUSH.unsqueeze(-1)), -1))
    agent.model.latent_log_precision.set(-2 * NOISE.log())
    return agent


def settings(options: Options) -> TrainConfig:
    return TrainConfig(task="cartpole", gamma=GAMMA, options=options)


def moved(z: Tensor, command: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The next state (N, 2), the reward (N,) of a tick, and one where the episode ends."""
    after = z @ MOVE.T + command * PUSH + NOISE * torch.randn_like(z)
    reward = 1.0 - z[:, 0] ** 2 - 0.2 * z[:, 1] ** 2 - 0.05 * command.squeeze(-1) ** 2
    return after, reward, (after[:, 0].abs() > _FARTHEST).float()


def experience(agent: Agent, count: int = 4000) -> Rollout:
    """One tick of `count` environments with random actions; where an episode ended, what followed is nonsense."""
    z = torch.tensor([2.0, 2.0]) * (2 * torch.rand(count, 2) - 1)
    action = torch.randint(3, (count,)) if agent.config.choices else 2 * torch.rand(count, 1) - 1
    after, reward, ended = moved(z, agent.command(action))
    after = torch.where(ended.unsqueeze(-1) > 0, torch.full_like(after, 1e3), after)
    now, then = Situation(z.unsqueeze(0), z.unsqueeze(0)), Situation(after.unsqueeze(0), after.unsqueeze(0))
    one = torch.ones(1, count)
    return Rollout(
        mask=torch.ones(1, count, 2), previous_action=torch.zeros(1, count, 1), first=one, starts=[],
        steps=torch.zeros(count).long(), now=now, after=then, action=action.unsqueeze(0),
        reward=(1 - GAMMA) * reward.unsqueeze(0), terminated=ended.unsqueeze(0), done=ended.unsqueeze(0),
    )  # fmt: skip


@torch.no_grad()
def score(agent: Agent, ticks: int = 60) -> float:
    """Mean reward of a tick of the deployed action from 200 starts; nothing after an end."""
    torch.manual_seed(7)
    z = 2 * torch.rand(200, 2) - 1
    total, alive = torch.zeros(200), torch.ones(200)
    for _ in range(ticks):
        z, reward, ended = moved(z, agent.act(z))
        total, alive = total + alive * reward, alive * (1 - ended)
    return (total / ticks).mean().item()
