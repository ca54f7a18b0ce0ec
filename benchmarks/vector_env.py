"""Environment steps per second: one bare environment, ours in parallel, and gymnasium's AsyncVectorEnv, in one run.

    python -m benchmarks.vector_env [--tasks cartpole gym:HalfCheetahBulletEnv-v0 …] [--envs 4 32] [--json PATH]

Every figure is the median over rounds in which all of them take their turn. Columns:

bare          one environment in one process, stepped in a loop
bare at once  `workers` processes that each do so, at the same time and with nothing in common: what the machine gives
ours          VectorEnv with `envs` environments in `workers` processes
ours / …      its speed over `workers` times the bare one, and over the bare ones at once
async         AsyncVectorEnv, which gives every environment a process: as many as `workers`, and as many as `envs`
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from runtime.files import write_json
from sim.env import TaskEnv, make_env
from sim.tasks import task_class
from sim.vector import VectorEnv


@dataclass(frozen=True)
class Options:
    """Compare the speed of simulation."""

    tasks: tuple[str, ...] = ("cartpole", "kuka_reach", "gym:HalfCheetahBulletEnv-v0", "a1_walk")
    """Tasks."""
    envs: tuple[int, ...] = (4, 32)
    """Environments of ours; each number is measured on its own."""
    workers: int = 2
    """Processes of ours."""
    rounds: int = 5
    """Turns of each."""
    seconds: float = 1.0
    """Length of a turn."""
    json: Path | None = None
    """Also write the figures to this file."""


def main(options: Options) -> dict[str, Any]:
    """Measure, print a table, write JSON, and return what is written."""
    rows: list[dict[str, Any]] = []
    table = Table(
        "task", "envs", "bare", "bare at once", "ours", f"ours / {options.workers} × bare", "ours / bare at once",
        "async few", "async many", "ours / async",
    )  # fmt: skip
    for task, envs in itertools.product(options.tasks, options.envs):
        speeds = _measure(task, envs, options)
        share = speeds["ours"] / (options.workers * speeds["bare"])
        of_possible = speeds["ours"] / speeds["bare at once"]
        gain = speeds["ours"] / max(speeds["async few"], speeds["async many"])
        figures = {"share": share, "share_of_bare_at_once": of_possible, "gain": gain}
        rows.append({"task": task, "envs": envs, **speeds, **figures})
        cells = {name: f"{value:.0f}" for name, value in speeds.items()}
        table.add_row(
            task, str(envs), cells["bare"], cells["bare at once"], cells["ours"], f"{share:.2f}", f"{of_possible:.2f}",
            cells["async few"], cells["async many"], f"{gain:.1f}",
        )  # fmt: skip
    Console(width=140).print(table)
    written = {"workers": options.workers, "rows": rows}
    if options.json:
        write_json(options.json, written)
    return written


def _measure(task: str, envs: int, options: Options) -> dict[str, float]:
    """Median steps per second of each, of `envs` environments where there are many."""
    joints = len(task_class(task).action.joints)
    bare = make_env(task, task_class(task).randomisation)
    ours = VectorEnv(task, envs, options.workers, worlds=[task_class(task).randomisation])
    few, many = (
        gymnasium.vector.AsyncVectorEnv([_Make(task)] * count, shared_memory=True) for count in (options.workers, envs)
    )
    pool = multiprocessing.get_context("spawn").Pool(options.workers, _start_alone, (task,))
    runners: dict[str, Callable[[float], float]] = {
        "bare": _bare(bare, joints),
        "bare at once": lambda seconds: sum(pool.map(_run_alone, [seconds] * options.workers, chunksize=1)),
        "ours": _vector(ours, joints),
        "async few": _vector(few, joints),
        "async many": _vector(many, joints),
    }
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in track(range(options.rounds), task, console=Console(stderr=True), transient=True):
        for name, run in runners.items():
            speeds[name].append(run(options.seconds))
    for env in (bare, ours, few, many):
        env.close()
    pool.terminate()
    return {name: float(np.median(values)) for name, values in speeds.items()}


_alone: Callable[[float], float]
"""Steps the only environment of this process."""


def _start_alone(task: str) -> None:
    global _alone
    _alone = _bare(make_env(task, task_class(task).randomisation), len(task_class(task).action.joints))


def _run_alone(seconds: float) -> float:
    return _alone(seconds)


@dataclass(frozen=True)
class _Make:
    """Makes one environment, in a process of AsyncVectorEnv."""

    task: str

    def __call__(self) -> TaskEnv:
        return make_env(self.task, task_class(self.task).randomisation)


def _bare(env: TaskEnv, joints: int) -> Callable[[float], float]:
    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def run(seconds: float) -> float:
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            _, _, terminated, truncated, _ = env.step(rng.uniform(-1, 1, joints))
            if terminated or truncated:
                env.reset()
            count += 1
        return count / (time.perf_counter() - begin)

    return run


def _vector(env: gymnasium.vector.VectorEnv[Any, Any, Any], joints: int) -> Callable[[float], float]:
    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def run(seconds: float) -> float:
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            env.step(rng.uniform(-1, 1, (env.num_envs, joints)).astype(np.float32))
            count += env.num_envs
        return count / (time.perf_counter() - begin)

    return run


if __name__ == "__main__":
    main(tyro.cli(Options))
