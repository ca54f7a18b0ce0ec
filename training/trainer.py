"""The training loop: collect, learn to act, learn the model, judge, log, checkpoint.

Of several learners (see `training.learners`) each collects and learns; the first one judges, logs and writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from runtime.errors import GanglionError
from training import learners
from training.agent.agent import Agent
from training.algorithms import algorithm_class
from training.algorithms.base import Algorithm
from training.checkpoint import (
    BEST,
    CHECKPOINT,
    CONFIG,
    build_agent,
    load_agent,
    load_checkpoint,
    load_config,
    save_checkpoint,
    save_config,
    save_tensors,
)
from training.config import TrainConfig
from training.device import find_device, on_device
from training.errors import DivergedError
from training.evaluation import Evaluation, Evaluator
from training.interrupts import Interrupted, Interrupts
from training.progress import ProgressLog
from training.rollout import Collector, LastEpisodes, Rollout

if TYPE_CHECKING:
    from training.cluster import ClusterCollector


@dataclass(frozen=True)
class Status:
    """What a progress display needs after each update."""

    steps: int
    total_steps: int
    steps_per_s: float
    episode_return: float
    """Mean of the last 100 episodes; NaN before the first one ends."""
    success_rate: float
    evaluation: Evaluation | None = None
    """Of the deployed action, after the updates that it follows."""


class LocalCollector:
    """Collects in this process and its workers."""

    def __init__(self, config: TrainConfig, agent: Agent, algorithm: Algorithm[Any], steps: int) -> None:
        self._collector, self._algorithm = Collector(config, agent, steps), algorithm

    def collect(self) -> Rollout:
        """What to learn from next."""
        return self._collector.collect(self._algorithm.explore, self._algorithm.watch)

    def logs(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """End the simulations."""
        self._collector.close()


class Trainer:
    """One run. `save` and `load` carry everything but the simulations, which begin new episodes on resume."""

    def __init__(self, config: TrainConfig, run: Path, resume: bool) -> None:
        kind = algorithm_class(config.algo)
        self.device = find_device(config.device)
        torch.manual_seed(config.seed)
        torch.set_num_threads(1)  # the matrices are small, and the simulations need the other cores
        self.config, self.run = config, run
        self.steps = 0
        self.episodes = LastEpisodes()
        with on_device(self.device):
            self.agent = build_agent(config)
            self.algorithm = kind(config, self.agent)
            self.world_model = self.algorithm.world_model
            if resume:
                self.algorithm.open(run)
                self._load(load_checkpoint(run))
                self._best = best_return(run)
            else:
                if config.start:
                    self._take_policy(Path(config.start))
                self._best = -math.inf
                self.algorithm.open(run)
                if learners.rank() == 0:
                    self.save()  # before the settings, which make the folder a run
                    save_config(run, config)

    def _load(self, state: dict[str, Any]) -> None:
        try:
            self.agent.load_state_dict(state["agent"])
            self.world_model.optimizer.load_state_dict(state["world_model"])
            self.algorithm.restore(state["algorithm"])
            self.steps = int(state["steps"])
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise GanglionError(
                f"{self.run / CHECKPOINT} is not of the agent and the algorithm ({self.config.algo}) that config.json "
                f"beside it describes ({reason}); copy the run again or train again"
            ) from error
        torch.manual_seed(self.config.seed + self.steps)

    @torch.no_grad()
    def _bound_noise(self, progress: float) -> None:
        first, decay = self.config.agent.initial_log_std, self.config.noise_decay
        if decay > 0.0:
            self.agent.log_std.clamp_(max=first - decay * min(progress, 1.0))

    def _take_policy(self, run: Path) -> None:
        other, config, _ = load_agent(run)
        try:
            if config.agent.head != self.config.agent.head:
                raise RuntimeError("one head is not the other")
            for part in ("policy", "critic"):
                getattr(self.agent, part).load_state_dict(getattr(other, part).state_dict())
        except RuntimeError as error:
            theirs, mine = (
                f"task {c.task}, hidden {c.agent.hidden}, {c.agent.head} head" for c in (config, self.config)
            )
            raise GanglionError(
                f"the policy of {run} ({theirs}) does not fit this agent ({mine}); start from a run of the same task, "
                "sizes and head"
            ) from error

    def save(self) -> None:
        """Write a checkpoint. Raises GanglionError if it is not finite, or cannot be written; see `save_tensors`."""
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
        """Train to the end of `config.steps`; saves on the way and at the end.

        Ctrl-C and SIGTERM end it after the update that they come in, saved, with Interrupted. Raises GanglionError if
        something is not finite, or cannot be written: the last checkpoint is whole then.
        """
        c, first_of_all = self.config, learners.rank() == 0
        with ExitStack() as stack:
            stack.enter_context(on_device(self.device))
            interrupts = stack.enter_context(Interrupts())
            collector = stack.enter_context(closing(self._collector()))
            if not first_of_all:
                torch.manual_seed(c.seed + self.steps + learners.rank() * learners.APART)
            log = evaluator = None
            if first_of_all:
                log = stack.enter_context(closing(ProgressLog(self.run, self.steps, c.log_every)))
                if c.eval_every:
                    judge = Evaluator(c.task, c.eval_episodes, workers=c.workers)
                    evaluator = stack.enter_context(closing(judge))
            started, first = time.monotonic(), self.steps
            while self.steps < c.steps:
                before = self.steps
                logs = self._update(collector)
                evaluation = None
                if evaluator is not None and self._passed(c.eval_every, before):
                    evaluation = self._evaluate(evaluator)
                    logs |= evaluation.logs()
                status = self._status((self.steps - first) / (time.monotonic() - started), evaluation)
                if log is not None:
                    log.add(self.steps, logs | {"time/fps": status.steps_per_s})
                if report:
                    report(status)
                signum = max(learners.everyone(interrupts.signum))
                if log is not None and (signum or self._passed(c.checkpoint_every, before)):
                    log.flush()
                    self.save()
                if signum:
                    raise Interrupted(signum)

    def _collector(self) -> LocalCollector | ClusterCollector:
        if not self.config.cluster:
            return LocalCollector(self.config, self.agent, self.algorithm, self.steps)
        from training.cluster import ClusterCollector

        return ClusterCollector(self.config, self.agent, self.algorithm, self.steps)

    def _passed(self, every: int, before: int) -> bool:
        """Whether the update that began at step `before` passed a multiple of `every` steps, or is the last."""
        return self.steps // every > before // every or self.steps >= self.config.steps

    def _status(self, speed: float, evaluation: Evaluation | None) -> Status:
        def mean(values: Any) -> float:
            return float(np.mean(values)) if values else math.nan

        returned, solved = mean(self.episodes.returned), mean(self.episodes.success)
        return Status(self.steps, self.config.steps, speed, returned, solved, evaluation)

    def _evaluate(self, evaluator: Evaluator) -> Evaluation:
        """Judge the agent, and keep it if none was better."""
        evaluation = evaluator.run(self.agent)
        if evaluation.episode_return >= self._best:
            self._best = evaluation.episode_return
            state = {"agent": self.agent.state_dict(), "steps": self.steps, "episode_return": self._best}
            save_tensors(self.run / BEST, state)
        return evaluation

    def _update(self, collector: LocalCollector | ClusterCollector) -> dict[str, float]:
        config = self.config
        rollout = collector.collect()
        self.episodes.add(rollout.episodes)
        self.steps += rollout.reward.numel() * learners.count()
        logs: dict[str, float] = {}
        torch.set_num_threads(config.learning_threads)
        if self.steps > config.model_only_steps:  # before the model moves what the policy reads
            logs |= self.algorithm.update(rollout)
            self._bound_noise(self.steps / config.steps)
        logs |= self.world_model.update(rollout, self.steps / config.steps)
        torch.set_num_threads(1)
        logs = means(learners.everyone(logs | collector.logs() | self.episodes.logs()))
        bad = [name for name, value in logs.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(
                f"training diverged at step {self.steps}: {', '.join(bad)} is not finite; "
                "resume from the last checkpoint with smaller learning rates"
            )
        return logs


def means(logs: list[dict[str, float]]) -> dict[str, float]:
    """Of what each learner logged: the mean of a quantity over those that have it."""
    names = dict.fromkeys(name for one in logs for name in one)
    known = {name: [one[name] for one in logs if name in one] for name in names}
    return {name: sum(values) / len(values) for name, values in known.items()}


def best_return(run: Path) -> float:
    """Mean return of the run's best evaluation; minus infinity before the first one."""
    return float(load_checkpoint(run, BEST)["episode_return"]) if (run / BEST).exists() else -math.inf


def train(config: TrainConfig, run: Path, report: Callable[[Status], None] | None = None) -> None:
    """Train a new agent into the folder `run`, with all learners that torchrun started.

    Raises GanglionError if the folder holds a run already.
    """
    with learners.joined():
        if any(learners.everyone((run / CONFIG).exists())):
            raise GanglionError(f"{run} already holds a run; give another folder, or continue it with --resume {run}")
        if config.cluster:  # before there is a run that could not begin
            from training.cluster import prepare

            prepare(config)
        Trainer(config, run, resume=False).fit(report)


def resume(
    run: Path,
    report: Callable[[Status], None] | None = None,
    steps: int | None = None,
    device: str | None = None,
    cluster: str | None = None,
) -> None:
    """Continue a run with its own settings, or to another number of `steps`, or on another `device` or `cluster`.

    There may be more learners than before, or fewer: each has all of the settings' simulations.

    Raises GanglionError if it cannot be loaded, or is finished.
    """
    config = load_config(run)
    if not isinstance(config, TrainConfig):
        raise GanglionError(f"{run} learns from bags, not in simulation")
    cluster = config.cluster if cluster is None else cluster
    steps = config.steps if steps is None else steps
    config = replace(config, steps=steps, device=device or config.device, cluster=cluster)
    with learners.joined():
        if learners.rank() == 0:
            for stale in run.glob("*.tmp"):  # of writes that a kill cut off
                stale.unlink()
        learners.everyone(None)
        trainer = Trainer(config, run, resume=True)
        if trainer.steps >= config.steps:
            raise GanglionError(
                f"{run} is finished: {trainer.steps} of {config.steps} steps; to go on, give it more: "
                f"ganglion train --resume {run} --steps {2 * trainer.steps}"
            )
        if learners.rank() == 0:
            save_config(run, config)
        trainer.fit(report)
