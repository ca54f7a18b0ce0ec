"""The training loop: collect, learn the model, learn to act, log, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from runtime.errors import GanglionError
from training.algorithms import algorithm_class
from training.checkpoint import build_agent, load_agent, load_checkpoint, load_config, save_checkpoint, save_config
from training.config import TrainConfig
from training.rollout import Collector


@dataclass(frozen=True)
class Status:
    """What a progress display needs after each update."""

    steps: int
    total_steps: int
    steps_per_s: float
    episode_return: float
    """Mean of the last 100 episodes; NaN before the first one ends."""
    success_rate: float


class Trainer:
    """One run. `save` and `load` carry everything but the simulations, which begin new episodes on resume."""

    def __init__(self, config: TrainConfig, run: Path, resume: bool) -> None:
        kind = algorithm_class(config.algo)
        if config.horizon % config.sequence:
            raise GanglionError(f"horizon {config.horizon} must be a multiple of sequence {config.sequence}")
        if config.overshoot >= config.sequence:
            raise GanglionError(f"overshoot {config.overshoot} must be below sequence {config.sequence}; 0 is none")
        most = config.agent.inference.max_steps
        if not all(0 <= k <= most for k in config.refine):
            raise GanglionError(f"refine {config.refine} must lie between 0 and the agent's max_steps {most}")
        torch.manual_seed(config.seed)
        torch.set_num_threads(1)  # the matrices are small, and the simulations need the other cores
        self.config, self.run = config, run
        self.agent = build_agent(config)
        self.algorithm = kind(config, self.agent)
        self.world_model = self.algorithm.world_model
        self.steps = 0
        if resume:
            self.algorithm.open(run)
            self._load(load_checkpoint(run))
        else:
            if config.start:
                self._take_policy(Path(config.start))
            self.algorithm.open(run)
            save_config(run, config)

    def _load(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.world_model.optimizer.load_state_dict(state["world_model"])
        self.algorithm.restore(state["algorithm"])
        self.steps = int(state["steps"])
        torch.manual_seed(self.config.seed + self.steps)

    @torch.no_grad()
    def _bound_noise(self, progress: float) -> None:
        first, decay = self.config.agent.initial_log_std, self.config.noise_decay
        if decay > 0.0:
            self.agent.log_std.clamp_(max=first - decay * min(progress, 1.0))

    def _take_policy(self, run: Path) -> None:
        other, config, _ = load_agent(run)
        try:
            for part in ("policy", "critic"):
                getattr(self.agent, part).load_state_dict(getattr(other, part).state_dict())
        except RuntimeError as error:
            raise GanglionError(
                f"the policy of {run} (task {config.task}, hidden {config.agent.hidden}) does not fit this agent (task "
                f"{self.config.task}, hidden {self.config.agent.hidden}); start from a run of the same task and sizes"
            ) from error

    def save(self) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            self.run,
            {
                "agent": self.agent.state_dict(),
                "world_model": self.world_model.optimizer.state_dict(),
                "algorithm": self.algorithm.state(),
                "steps": self.steps,
            },
        )

    def fit(self, report: Callable[[Status], None] | None = None) -> None:
        """Train to the end of `config.steps`; saves on the way, at the end, and when interrupted."""
        writer = SummaryWriter(str(self.run))
        collector = Collector(self.config, self.agent, self.steps)
        updates, started, first = 0, time.monotonic(), self.steps
        try:
            while self.steps < self.config.steps:
                logs = self._update(collector)
                updates += 1
                speed = (self.steps - first) / (time.monotonic() - started)
                status = Status(
                    self.steps,
                    self.config.steps,
                    speed,
                    float(np.mean(collector.episode_return)) if collector.episode_return else math.nan,
                    float(np.mean(collector.success)) if collector.success else math.nan,
                )
                if collector.episode_return:
                    logs["rollout/ep_rew_mean"] = status.episode_return
                    logs["rollout/ep_len_mean"] = float(np.mean(collector.episode_length))
                    logs["rollout/success_rate"] = status.success_rate
                logs["time/fps"] = speed
                for tag, value in logs.items():
                    writer.add_scalar(tag, value, self.steps)
                if updates % self.config.checkpoint_every == 0:
                    self.save()
                if report:
                    report(status)
            self.save()
        except KeyboardInterrupt:
            self.save()
            raise
        finally:
            writer.close()
            collector.close()

    def _update(self, collector: Collector) -> dict[str, float]:
        config = self.config
        rollout = collector.collect(self.algorithm.explore)
        self.steps += config.num_envs * config.horizon
        logs: dict[str, float] = {}
        if self.steps > config.model_only_steps:  # before the model moves what the policy reads
            logs |= self.algorithm.update(rollout)
            self._bound_noise(self.steps / config.steps)
        logs |= self.world_model.update(rollout, self.steps / config.steps)
        bad = [name for name, value in logs.items() if not math.isfinite(value)]
        if bad:
            raise GanglionError(
                f"training diverged at step {self.steps}: {', '.join(bad)} is not finite; "
                "resume from the last checkpoint with smaller learning rates"
            )
        return logs


def train(config: TrainConfig, run: Path, report: Callable[[Status], None] | None = None) -> None:
    """Train a new agent into the folder `run`. Raises GanglionError if the folder holds a run already."""
    if (run / "config.json").exists():
        raise GanglionError(f"{run} already holds a run; give another folder, or continue it with --resume {run}")
    Trainer(config, run, resume=False).fit(report)


def resume(run: Path, report: Callable[[Status], None] | None = None) -> None:
    """Continue an interrupted run with its own settings. Raises GanglionError if it cannot be loaded."""
    config = load_config(run)
    if not isinstance(config, TrainConfig):
        raise GanglionError(f"{run} learns from bags, not in simulation")
    Trainer(config, run, resume=True).fit(report)
