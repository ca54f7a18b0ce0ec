"""What every learning algorithm is to the trainer: it explores, and it learns from a rollout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runtime.errors import GanglionError
from training.agent.agent import Agent
from training.agent.situation import Situation
from training.config import Options, TrainConfig
from training.rollout import Rollout
from training.world_model import WorldModel

O = TypeVar("O", bound=Options)  # noqa: E741


class Algorithm(ABC, Generic[O]):
    """One way to learn to act. A subclass names its heads and its options, and learns in `update`.

    What it puts into `parts` (modules, optimisers and their schedules, by name) is in the checkpoint; whatever else it
    keeps between updates goes into `state` and `restore`.
    """

    name: ClassVar[str]
    """As after --algo."""
    summary: ClassVar[str]
    options_class: ClassVar[type[Options]]
    continuous_head: ClassVar[str] = "gaussian"
    """Head of the policy for a continuous action, empty if it cannot have one; see `AgentConfig.head`."""
    discrete_head: ClassVar[str] = "categorical"
    """Head for a task with choices, empty if it cannot have one."""
    off_policy: ClassVar[bool] = False
    """Whether it learns from what an older version of its policy has done."""

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        assert isinstance(config.options, self.options_class)
        self.config, self.agent = config, agent
        self.options: O = config.options  # type: ignore[assignment]
        self.parts: dict[str, nn.Module | Optimizer | LRScheduler] = {}
        self.world_model = self.make_world_model()

    @classmethod
    def adapt(cls, config: TrainConfig) -> TrainConfig:
        """The settings of a task as this algorithm wants them by default."""
        return config

    @classmethod
    def prepare(cls, config: TrainConfig) -> TrainConfig:
        """`adapt`, with the head and the options that go with it. Raises GanglionError where no head fits."""
        choices = config.info().choices
        head = cls.discrete_head if choices else cls.continuous_head
        if not head:
            kind, other = ("discrete", "continuous") if choices else ("continuous", "discrete")
            raise GanglionError(
                f"{cls.name} learns {other} actions, the action of the task '{config.task}' is {kind}; "
                f"choose another --algo, or a task with a {other} action (ganglion tasks)"
            )
        if config.agent.gait is not None and head != "gaussian":
            raise GanglionError(
                f"'{config.task}' corrects a gait by a gaussian policy, {cls.name} learns a {head} one; "
                "choose another --algo, for example ppo"
            )
        agent = replace(config.agent, head=head, choices=choices)
        return cls.adapt(replace(config, algo=cls.name, options=cls.options_class(), agent=agent))

    def make_world_model(self) -> WorldModel:
        """What learns the generative model."""
        return WorldModel(self.config, self.agent)

    def open(self, folder: Path) -> None:
        """Keep in the run's `folder` what is too large for a checkpoint; called once, before `restore`."""

    def watch(self, x: Tensor, previous_action: Tensor, first: Tensor) -> None:
        """Told before every `explore`, for what has a memory of its own: the normalised observation without failures
        (N, D), the action executed one tick before (N, A), and (N,) one where an episode begins.
        """

    @torch.no_grad()
    def explore(self, situation: Situation) -> Tensor:
        """The action to try in each environment: (N, A), or (N,) int64 where actions are choices."""
        return self.agent.distribution(situation.z, situation.gait).sample()

    def explorer(self) -> dict[str, Any]:
        """What `explore` goes by beside the agent, as plain values: for a copy that explores elsewhere."""
        return {}

    def set_explorer(self, values: dict[str, Any]) -> None:
        """Be such a copy."""

    @abstractmethod
    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns what is worth logging, by TensorBoard tag."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain values that continue the run, but for the agent's."""
        return {"parts": {name: part.state_dict() for name, part in self.parts.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
