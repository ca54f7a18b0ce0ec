"""Behavioural cloning (004): maximise sum_t log pi(a_t|s_t) of the actions a_t of a teacher.

The teacher, a trained agent with its own belief, sees every sensor; the pupil's sensors fail as in all training. In
some simulations the pupil drives and the teacher only says what it would have done, so that the pupil also learns to
come back from where its own mistakes lead (dataset aggregation).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtime.errors import GanglionError
from training.agent.agent import Agent
from training.agent.situation import Situation
from training.algorithms.base import Algorithm
from training.algorithms.on_policy import adam, policy_parameters
from training.config import Options, TrainConfig
from training.gradient_step import descend
from training.ranges import Count, Positive, Share
from training.rollout import Rollout

_LEAST_LOG_STD = -3.0  # a teacher without noise would leave none


@dataclass(frozen=True)
class BCOptions(Options):
    """Settings of behavioural cloning."""

    teacher: str = ""
    """Folder of the run whose agent is the teacher, for a robot with the same sensors and actions."""
    pupil_share: Share = 0.5
    """Share of the simulations in which the pupil drives; in the others the teacher does."""
    learning_rate: Positive = 1e-3
    """Adam's step size."""
    epochs: Count = 5
    """Passes over each batch."""
    minibatches: Count = 4
    """Minibatches per pass."""


def load_teacher(path: str, config: TrainConfig) -> Agent:
    """The agent of the run in the folder `path`.

    Raises GanglionError if none is named, it cannot be loaded, or it has other sensors or actions than the task.
    """
    from training.checkpoint import load_agent  # which knows the algorithms

    if not path:
        raise GanglionError(
            "bc learns from a teacher and none is given; add --teacher RUN, the folder of a trained run"
        )
    teacher, its, _ = load_agent(Path(path))
    mine, theirs = config.info(), its.info()
    if mine.observations != theirs.observations or mine.action != theirs.action:
        raise GanglionError(
            f"the teacher {path} has other sensors or actions than the task '{config.task}'; give a run of this task, "
            "or of one with the same robot and sensors"
        )
    return teacher.requires_grad_(False)


def nearest_choice(choices: Tensor, action: Tensor) -> Tensor:
    """Index (N,) of the choice (M, A) nearest to each action (N, A)."""
    return (choices - action.unsqueeze(-2)).square().sum(-1).argmin(-1)


class BC(Algorithm[BCOptions]):
    """The policy learns the teacher's actions from every rollout."""

    name = "bc"
    summary = "imitates the actions of a trained agent"
    options_class = BCOptions

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.teacher = load_teacher(self.options.teacher, config)
        self._steps = torch.full((config.num_envs,), self.teacher.config.inference.default_steps)
        self._belief = self.teacher.initial(config.num_envs)
        self._advice: deque[Tensor] = deque(maxlen=config.horizon)
        self._pupils = torch.arange(config.num_envs) < round(self.options.pupil_share * config.num_envs)
        self.optimizer = adam(policy_parameters(agent), self.options.learning_rate)
        self.parts = {"optimizer": self.optimizer}

    @torch.no_grad()
    def watch(self, x: Tensor, previous_action: Tensor, first: Tensor) -> None:
        """The teacher's belief and advice for the tick."""
        state = self.teacher.restarted(self._belief, first)
        belief = self.teacher.infer(x, torch.ones_like(x), previous_action, state, self._steps)
        self._belief = belief.state
        action = self.teacher.act(belief.z, belief.state.get("gait"))
        if self.agent.config.head == "categorical":
            action = nearest_choice(self.agent.choices, action)
        self._advice.append(action)

    @torch.no_grad()
    def explore(self, situation: Situation) -> Tensor:
        """The teacher's action, or where the pupil drives a sample of its own."""
        advice, own = self._advice[-1], super().explore(situation)
        return torch.where(self._pupils.reshape(-1, *[1] * (advice.dim() - 1)), own, advice)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns the mean of each quantity worth logging."""
        o, agent = self.options, self.agent
        situation, advice = rollout.now.flat(), torch.stack(list(self._advice)).flatten(0, 1)
        losses: list[float] = []
        for _ in range(o.epochs):
            for index in torch.randperm(len(advice)).chunk(o.minibatches):
                now = situation.rows(index)
                loss = cloning_loss(agent, now, advice[index])
                descend(self.optimizer, loss, longest=1.0)
                with torch.no_grad():
                    agent.log_std.clamp_(min=_LEAST_LOG_STD)
                losses.append(loss.item())
        return {"train/policy_loss": sum(losses) / len(losses), "train/learning_rate": o.learning_rate}


def cloning_loss(agent: Agent, situation: Situation, advice: Tensor) -> Tensor:
    """-E[log pi(a|s)] of the teacher's actions (M, A), or (M,) int64 where they are choices."""
    return -agent.distribution(situation.z, situation.gait).log_prob(advice).mean()
