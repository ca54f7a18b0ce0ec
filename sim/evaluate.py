"""Judge a bundle in simulation: the controller of the robot, in process, under sensor faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.contract import Contract, Layout
from runtime.controller import Controller, Status
from runtime.errors import ContractError, GanglionError
from sim.env import RobotEnv
from sim.episode import episode
from sim.tasks import Task, task_class

NOMINAL = "nominal"
"""The name of no fault."""
FAULT_START = 10
"""Faults that do not say when begin at this tick of an episode, when the pose has been seen."""
_LAST_TICKS = 50  # metrics are means over the end of an episode
_RESAMPLES = 2000


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
    seed: int = 1_000_000,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run `episodes` episodes for every pair of `refine` and `faults`, the same seeds in each.

    Empty, `task` is the one that the bundle was trained for and `refine` the bundle's default. Returns
    `{"task", "results": [...]}` with one entry per pair: `refine, fault, episodes, return_mean, return_ci95,
    success_rate, active_rate` and the mean of each metric of the task over the last 50 ticks. `progress` is called
    with the episodes done and the total. Raises ContractError if the contract does not fit the task, or a fault or a
    number of steps is not known.
    """
    if episodes < 1:
        raise GanglionError(f"episodes is {episodes}, expected at least 1")
    contract = bundle.contract
    name = task or contract.provenance.task
    columns = match_task(contract, task_class(name))
    steps = list(refine) or [contract.refinement.default_steps]
    controllers = {k: Controller(bundle, k) for k in steps}
    env = RobotEnv(name)
    results: list[dict[str, Any]] = []
    try:
        for fault in faults:  # all are understood, or none is tried
            _strike(env, fault)
        for k in steps:
            for fault in faults:
                _strike(env, fault)
                runs = []
                for i in range(episodes):
                    runs.append(_episode(controllers[k], env, columns, seed + i))
                    if progress is not None:
                        progress(len(results) * episodes + i + 1, len(steps) * len(faults) * episodes)
                results.append({"refine": k, "fault": fault, **_summary(runs, seed)})
    finally:
        env.close()
    return {"task": name, "results": results}


def match_task(contract: Contract, task: type[Task]) -> np.ndarray:
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


def _strike(env: RobotEnv, fault: str) -> None:
    env.set_faults(() if fault == NOMINAL else (fault,), FAULT_START / env.task.rate_hz)


def _episode(controller: Controller, env: RobotEnv, columns: np.ndarray, seed: int) -> _Episode:
    ticks = list(episode(controller, env, seed, columns))
    outcomes = [t.outcome for t in ticks]
    return _Episode(
        total=sum(o.reward for o in outcomes),
        success=outcomes[-1].success,
        acting=float(np.mean([t.command.status is Status.ACTIVE for t in ticks])),
        metrics={n: float(np.mean([o.metrics[n] for o in outcomes[-_LAST_TICKS:]])) for n in outcomes[-1].metrics},
    )


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
