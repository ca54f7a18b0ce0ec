"""Settings of a run that learns from bags; the field docs of `LearnOptions` are the command line's help."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.contract import Node
from runtime.schema import to_plain
from sim.tasks.base import TaskInfo
from training.agent.config import AgentConfig
from training.augment import Augmentation
from training.config import changed_options
from training.kinematics import joint_kinematics
from training.robot import RecordedRobot


@dataclass(frozen=True)
class LearnOptions:
    """How to learn."""

    held_out: float = 0.4
    """Last share of every recording, which is not learned from: it measures the predictions, and calibrates at
    export."""
    seed: int = 0
    """Seeds the network and every draw."""
    steps: int = 200
    """Steps of the optimiser."""
    batch: int = 24
    """Windows per step."""
    sequence: int = 24
    """Ticks of a window."""
    learning_rate: float = 3e-3
    """Start of Adam's step size, which decays to zero."""
    hidden: int = 16
    """Width of every hidden layer."""
    lags: int = 1
    """Ticks of the past that the dynamics know beside the last one: a latent for every channel and command of each."""
    refine: tuple[int, ...] = (0, 1, 1, 2)
    """Refinement steps K; each window draws one."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Sensors that fail while training."""
    report_every: int = 20
    """Steps between reports, each with the held-out error, and checkpoints."""


@dataclass(frozen=True)
class BagConfig:
    """Everything that defines a run from bags; saved with it."""

    bags: str
    """The folder of the bags, as given."""
    contract: str
    """The robot's file, as given."""
    robot: RecordedRobot
    """What the file says, completed from the recording."""
    options: LearnOptions

    @property
    def algo(self) -> str:
        """For the bundle's provenance."""
        return "cloning"

    @property
    def task(self) -> str:
        """For the bundle's provenance."""
        return self.info().name

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.options.seed

    @property
    def refine(self) -> tuple[int, ...]:
        """Refinement steps that were trained."""
        return self.options.refine

    @property
    def agent(self) -> AgentConfig:
        """One latent tied to every channel, moved by what is known of joints, and those of the past."""
        layout = self.robot.layout
        tied = tuple(range(layout.size))
        return AgentConfig(
            nodes=(Node("state", layout.size + self.options.lags * (layout.size + layout.joints)),),
            tied=tied,
            hidden=self.options.hidden,
            kinematics=joint_kinematics(layout, tied, 1 / self.robot.rate_hz),
        )

    def command_line(self) -> str:
        """The command that trains so: seed, steps, and every option that is not the usual one."""
        usual = to_plain(LearnOptions()) | {"seed": None, "steps": None}
        words = changed_options(to_plain(self.options), usual)
        return " ".join(("ganglion train --from-bags", self.bags, "--contract", self.contract, *words))

    def info(self) -> type[TaskInfo]:
        """What there is to know of the robot."""
        return self.robot.info()
