"""Judge a bundle in simulation: the controller of the robot, in process, under faults and in randomised worlds."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.contract import Contract, Layout
from runtime.controller import Controller
from runtime.errors import ContractError, GanglionError
from runtime.safety import Status
from sim.env import make_env
from sim.episode import episode
from sim.processes import end_with_parent
from sim.tasks import NOMINAL, TaskInfo, task_class

FAULT_START = 10
"""Faults that do not say when begin at this tick of an episode, when the pose has been seen."""
_RESAMPLES = 2000
_BLOCK = 5  # episodes that a process gets at a time


@dataclass(frozen=True)
class Condition:
    """Under which a bundle is judged."""

    refine: int
    """Refinement steps."""
    world: str
    fault: str


@dataclass(frozen=True)
class _Episode:
    total: float
    success: bool
    acting: float
    """Fraction of the ticks in which the agent acted."""
    metrics: dict[str, float]


def evaluate(
    bundle: Bundle,
    task: str = "",
    episodes: int = 100,
    refine: Sequence[int] = (),
    faults: Sequence[str] = (NOMINAL,),
    worlds: Sequence[str] = (NOMINAL,),
    seed: int = 1_000_000,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    cluster: str = "",
    each: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run `episodes` episodes for every combination of `refine`, `worlds` and `faults`, the same seeds in each.

    Empty, `task` is the one that the bundle was trained for and `refine` the bundle's default. More than one of the
    `workers` share the episodes, or the machines of a Ray `cluster`, which changes no figure. `each` takes a row of
    plain values for every episode as it comes. Returns `{"task", "results": [...]}` with one entry per
    combination: `refine, world, fault, episodes, return_mean, return_ci95, success_rate, active_rate` and the mean of
    each metric of the task over the ticks that it counts. `progress` is called with the episodes done and the total.
    Raises GanglionError if the contract does not fit the task, or a fault, a world or a number of steps is not known.
    """
    if episodes < 1:
        raise GanglionError(f"episodes is {episodes}, expected at least 1")
    name = task or bundle.contract.provenance.task
    match_task(bundle.contract, task_class(name))
    steps = list(refine) or [bundle.contract.refinement.default_steps]
    conditions = [Condition(*c) for c in itertools.product(steps, worlds, faults)]
    judge = _Judge(bundle, name)
    try:
        for condition in conditions:  # all are understood, or none is tried
            judge.prepare(condition)
        blocks = [(c, seed + i, min(_BLOCK, episodes - i)) for c in conditions for i in range(0, episodes, _BLOCK)]
        runs: dict[tuple[Condition, int], list[_Episode]] = {}
        for condition, first, done in _run(judge, blocks, workers, cluster):
            runs[condition, first] = done
            for i, one in enumerate(done if each is not None else ()):
                each({**vars(condition), "seed": first + i, **_row(one)})  # type: ignore[misc]
            if progress is not None:
                progress(sum(map(len, runs.values())), episodes * len(conditions))
    finally:
        judge.env.close()
    results = []
    for condition in conditions:
        own = [e for key in sorted(k[1] for k in runs if k[0] == condition) for e in runs[condition, key]]
        results.append({**vars(condition), **_summary(own, seed)})
    return {"task": name, "results": results}


class _Judge:
    """A controller and an environment for it."""

    def __init__(self, bundle: Bundle, task: str) -> None:
        self.bundle, self.task = bundle, task
        self.env = make_env(task)
        self._columns = match_task(bundle.contract, task_class(task))
        self._controllers: dict[int, Controller] = {}

    def prepare(self, condition: Condition) -> Controller:
        """Set the environment up. Raises GanglionError for what is not known."""
        self.env.set_randomisation(self.env.task.world(condition.world))
        self.env.set_faults(fault_names(condition.fault), FAULT_START / self.env.task.rate_hz)
        if condition.refine not in self._controllers:
            self._controllers[condition.refine] = Controller(self.bundle, condition.refine)
        return self._controllers[condition.refine]

    def run(self, condition: Condition, first: int, count: int) -> list[_Episode]:
        """Episodes of the seeds `first` and on."""
        controller = self.prepare(condition)
        return [self._episode(controller, seed) for seed in range(first, first + count)]

    def _episode(self, controller: Controller, seed: int) -> _Episode:
        ticks = list(episode(controller, self.env, seed, self._columns))
        outcomes = [t.outcome for t in ticks]
        judged = outcomes[self.env.task.judged] or outcomes[-1:]
        return _Episode(
            total=sum(o.reward for o in outcomes),
            success=outcomes[-1].success,
            acting=float(np.mean([t.command.status is Status.ACTIVE for t in ticks])),
            metrics={n: float(np.mean([o.metrics[n] for o in judged])) for n in judged[-1].metrics},
        )


Block = tuple[Condition, int, int]
"""Condition, first seed, and number of episodes."""
_judge: _Judge
"""Of a worker process."""


def _run(
    judge: _Judge, blocks: list[Block], workers: int, cluster: str
) -> Iterator[tuple[Condition, int, list[_Episode]]]:
    """Every block's episodes, in any order."""
    if cluster:
        from runtime.fleet import connect, spread

        connect(cluster)
        for index, episodes in spread(_run_there, (judge.bundle, judge.task), blocks):
            yield *blocks[index][:2], episodes
        return
    if workers <= 1:
        for condition, first, count in blocks:
            yield condition, first, judge.run(condition, first, count)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (judge.bundle, judge.task)) as pool:
        waiting = {pool.submit(_run_block, block): block for block in blocks}
        try:
            for future in as_completed(waiting):
                condition, first, _ = waiting[future]
                yield condition, first, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_judges: dict[tuple[bytes, str], _Judge] = {}
"""Of a worker of a cluster, the last one, by the bundle's model and the task."""


def _run_there(shared: tuple[Bundle, str], block: Block) -> list[_Episode]:
    bundle, task = shared
    key = hashlib.sha256(bundle.model).digest(), task
    if key not in _judges:
        for former in _judges.values():
            former.env.close()
        _judges.clear()
        _judges[key] = _Judge(bundle, task)
    return _judges[key].run(*block)


def _row(episode: _Episode) -> dict[str, Any]:
    return {"return": episode.total, "success": episode.success, "active_rate": episode.acting, **episode.metrics}


def _start_worker(bundle: Bundle, task: str) -> None:
    global _judge
    end_with_parent()
    _judge = _Judge(bundle, task)


def _run_block(block: Block) -> list[_Episode]:
    return _judge.run(*block)


def fault_names(fault: str) -> tuple[str, ...]:
    """What `TaskEnv.set_faults` takes for one fault, or for `nominal`."""
    return () if fault == NOMINAL else (fault,)


def match_task(contract: Contract, task: type[TaskInfo]) -> np.ndarray:
    """Columns (D,) of the task's observation that are the contract's channels, in the contract's order.

    Raises ContractError that names every difference if the bundle was made for another robot or rate.
    """
    offered = Layout(task.observations, task.action).channels
    differences = []
    missing = [c for c in contract.layout.channels if c not in offered]
    if missing:
        differences.append(f"the contract observes {missing}, which the task does not have")
    for what, got, expected in (
        ("commands the joints", contract.action.joints, task.action.joints),
        ("commands a", contract.action.kind, task.action.kind),
        ("runs at (Hz)", contract.rate_hz, task.rate_hz),
    ):
        if got != expected:
            differences.append(f"the contract {what} {got!r}, the task {expected!r}")
    if differences:
        raise ContractError(
            f"the bundle for '{contract.robot}' does not fit the task '{task.name}': {'; '.join(differences)}; "
            "choose the task that it was trained for"
        )
    return np.array([offered.index(c) for c in contract.layout.channels], dtype=np.int64)


def _summary(runs: list[_Episode], seed: int) -> dict[str, Any]:
    returns = np.array([r.total for r in runs])
    low, high = _bootstrap(returns, seed)
    return {
        "episodes": len(runs),
        "return_mean": float(returns.mean()),
        "return_ci95": [low, high],
        "success_rate": float(np.mean([r.success for r in runs])),
        "active_rate": float(np.mean([r.acting for r in runs])),
        **{name: float(np.mean([r.metrics[name] for r in runs])) for name in runs[0].metrics},
    }


def _bootstrap(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the mean of (n,) values, from resampled means."""
    rng = np.random.default_rng(seed)
    means = rng.choice(values, (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
