"""Learning from bags: the world model by regression, the policy by cloning the recorded commands.

A recording is short, so the model stays as `training.regression` finds it. The encoder learns to come near what the
filter infers from it, with sensors that fail. The policy's loss is the squared error of its answer to the belief of a
tick against the normalised command that was recorded a tick later; it does not move the belief. Every step draws
windows from the earlier part of the recordings. The later part is not learned from: it measures the predictions, and
calibrates the health signals at export.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from runtime.errors import GanglionError
from runtime.replay.files import find_bags
from training.agent.agent import Agent
from training.augment import SensorDropout
from training.bag_config import BagConfig, LearnOptions
from training.checkpoint import build_agent, load_checkpoint, load_config, save_checkpoint, save_config
from training.from_bags import Ticks, intervals_s, load_ticks, read_bags, readings, save_ticks
from training.interrupts import Interrupted, Interrupts
from training.recorded import TICKS, Tensors, predict
from training.regression import start_dynamics
from training.robot import completed, drafted, load_robot
from training.world_model import ModelLearner, Sequences


@dataclass(frozen=True)
class CloneStatus:
    """What a progress display needs."""

    steps: int
    total_steps: int
    prediction: float
    """Held-out error of the one-step predictions, as a share of that of holding the last reading."""
    command: float
    """Held-out root mean square error of the normalised commands."""


class Cloner:
    """One run. `save` and `load` carry everything that the next step needs but the generators."""

    def __init__(self, config: BagConfig, run: Path, ticks: Ticks, resume: bool) -> None:
        o = config.options
        _check(o)
        torch.manual_seed(o.seed)
        torch.set_num_threads(1)  # the matrices are small
        self.config, self.run, self.steps = config, run, 0
        self.agent = build_agent(config)
        self.model = ModelLearner(self.agent, o.learning_rate, overshoot=0)
        self.policy = torch.optim.Adam(self.agent.policy.parameters(), lr=o.learning_rate)
        earlier, later = ticks.split(o.held_out)
        self._data, self._later = Tensors.of(earlier, config), Tensors.of(later, config)
        self._starts = _window_starts(earlier.first, o.sequence)
        if resume:
            self._load()
        else:
            start_dynamics(self.agent, self._data, config.robot.layout, o.lags)
            save_config(run, config)
            save_ticks(run / TICKS, ticks)
        self.agent.model.requires_grad_(False)
        self._rng = np.random.default_rng([o.seed, self.steps])
        self._dropout = SensorDropout(config.robot.observations, o.batch, self._rng, o.augmentation)

    def _load(self) -> None:
        state = load_checkpoint(self.run)
        self.agent.load_state_dict(state["agent"])
        self.model.optimizer.load_state_dict(state["world_model"])
        self.policy.load_state_dict(state["policy"])
        self.steps = int(state["steps"])

    def save(self) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            self.run,
            {
                "agent": self.agent.state_dict(),
                "world_model": self.model.optimizer.state_dict(),
                "policy": self.policy.state_dict(),
                "steps": self.steps,
            },
        )

    def fit(self, report: Callable[[CloneStatus], None] | None = None) -> None:
        """Learn to the end of `steps`; saves on the way, at the end, and when a signal ends it with Interrupted."""
        o = self.config.options
        writer = SummaryWriter(str(self.run))
        with closing(writer), Interrupts() as interrupts:
            while self.steps < o.steps:
                logs = self._step()
                self.steps += 1
                if self.steps % o.report_every == 0 or self.steps >= o.steps:
                    status = self._status()
                    self._log(
                        writer, logs | {"held_out/prediction": status.prediction, "held_out/command": status.command}
                    )
                    self.save()
                    if report:
                        report(status)
                signum = interrupts.signum
                if signum:
                    self.save()
                    raise Interrupted(signum)

    def _log(self, writer: SummaryWriter, logs: dict[str, float]) -> None:
        """Raises GanglionError if something is not finite."""
        for tag, value in logs.items():
            writer.add_scalar(tag, value, self.steps)
        bad = [name for name, value in logs.items() if not math.isfinite(value)]
        if bad:
            raise GanglionError(
                f"learning diverged at step {self.steps}: {', '.join(bad)} is not finite; use a smaller "
                f"--learning-rate (now {self.config.options.learning_rate:g})"
            )

    def _step(self) -> dict[str, float]:
        o, data = self.config.options, self._data
        rows = torch.from_numpy(self._rng.choice(self._starts, o.batch) + np.arange(o.sequence)[:, None])
        self._dropout.restart(np.ones(o.batch, dtype=bool))
        seen = torch.from_numpy(np.stack([self._dropout.step() for _ in range(o.sequence)]))
        first = torch.zeros(o.sequence, o.batch)
        first[0] = 1.0
        steps = torch.full((o.batch,), int(self._rng.choice(o.refine)))
        self.model.slow_down(self.steps / o.steps)
        windows = Sequences(
            data.x[rows], data.mask[rows] * seen, data.previous_action[rows], first, self.agent.initial(o.batch), steps,
            data.known[rows],
        )  # fmt: skip
        logs, beliefs = self.model.learn(windows)
        z = torch.stack([b.z for b in beliefs]).detach()
        loss = cloning_loss(self.agent, z, data.target[rows])
        self.policy.zero_grad()
        loss.backward()
        self.policy.step()
        return logs | {"policy/cloning": loss.item()}

    def _status(self) -> CloneStatus:
        forecast = predict(self.agent, self._later)
        known = self._later.known * (1.0 - self._later.first).unsqueeze(-1)
        held = torch.cat((self._later.x[:1], self._later.x[:-1]))
        error, still = (float((known * (p - self._later.x).square()).sum()) for p in (forecast.x, held))
        command = float((forecast.action - self._later.target).square().nanmean().sqrt())
        return CloneStatus(self.steps, self.config.options.steps, math.sqrt(error / max(still, 1e-12)), command)


def cloning_loss(agent: Agent, z: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the answers to z (..., Z) against target (..., A), where that is known."""
    error = (agent.act(z.flatten(0, -2)) - target.flatten(0, -2)).square()
    return torch.nan_to_num(error.nanmean())


def _check(o: LearnOptions) -> None:
    if not 0 < o.held_out < 1:
        raise GanglionError(f"held_out is {o.held_out:g}, expected a share between 0 and 1")
    if o.lags < 0:
        raise GanglionError(f"lags is {o.lags}, expected 0 or more ticks")


def _window_starts(first: np.ndarray, length: int) -> np.ndarray:
    """Ticks at which windows of `length` ticks begin that lie in one recording. Raises GanglionError if none does."""
    begins = np.append(np.flatnonzero(first), len(first))
    starts = np.concatenate([np.arange(a, b - length) for a, b in itertools.pairwise(begins)])
    if not len(starts):
        raise GanglionError(
            f"no recording has {length + 1} ticks to learn from; record longer, or use a smaller --sequence"
        )
    return starts


def clone(
    folder: Path, contract: Path, options: LearnOptions, run: Path, report: Callable[[CloneStatus], None] | None = None
) -> None:
    """Learn from the bags in `folder` a new agent into the folder `run`, for the robot that `contract` describes.

    Raises GanglionError if `run` holds a run already, BagError if a bag does not fit, and ContractError or
    GanglionError if the robot's file does not.
    """
    if (run / "config.json").exists():
        raise GanglionError(f"{run} already holds a run; give another folder, or continue it with --resume {run}")
    _check(options)
    spec = load_robot(contract)
    ticks = read_bags(find_bags(folder), drafted(spec), spec.action.message)
    earlier, _ = ticks.split(options.held_out)
    robot = completed(spec, readings(earlier), intervals_s(earlier), earlier.command)
    Cloner(BagConfig(str(folder), str(contract), robot, options), run, ticks, resume=False).fit(report)


def resume_cloning(run: Path, report: Callable[[CloneStatus], None] | None = None) -> None:
    """Continue an interrupted run with its own settings. Raises GanglionError if it cannot be loaded."""
    config = load_config(run)
    assert isinstance(config, BagConfig)
    Cloner(config, run, load_ticks(run / TICKS), resume=True).fit(report)
