"""Our algorithms on the PyBullet benchmark, against the scores that rl-baselines3-zoo has published.

    python -m benchmarks.pybullet [--envs HalfCheetahBulletEnv-v0 …] [--algos ppo sac] [--seeds 0] [--output FOLDER]

Each run trains with the zoo's settings (see `benchmarks.zoo`) and for as many steps; at its end the deployed action is
judged in 100 episodes. Ctrl-C and SIGTERM save; run again to go on. The folder of each run keeps its learning curve as
progress.jsonl; pybullet.json holds the results and the curves, pybullet.md the table.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from benchmarks.zoo import PUBLISHED, WIDTH, settings
from runtime.files import write_bytes, write_json
from runtime.source import source_commit
from training.algorithms.ppo import PPOOptions
from training.algorithms.sac import SACOptions
from training.checkpoint import load_agent
from training.config import TrainConfig
from training.evaluation import evaluate
from training.interrupts import Interrupted
from training.progress import STEPS, WALL_TIME, read_progress
from training.trainer import Status, resume, train

_CURVE = ("rollout/ep_rew_mean", "eval/mean_reward")


@dataclass(frozen=True)
class Options:
    """Train on the PyBullet benchmark."""

    envs: tuple[str, ...] = ("HalfCheetahBulletEnv-v0", "HopperBulletEnv-v0")
    """Environments of gymnasium."""
    algos: tuple[str, ...] = ("ppo", "sac")
    """Algorithms."""
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    steps: int = 0
    """Environment steps of each run; 0 is as many as published."""
    anneal: bool = False
    """Let all step sizes fall to none over the run, also where the zoo's are constant."""
    ppo_learning_rate: float = 3e-5
    """PPO's first step size; the zoo's is 3e-5."""
    sac_gradient_steps: float = 1.0
    """SAC's gradient steps per environment step; 1 is what the zoo makes."""
    sac_width: int = WIDTH["sac"]
    """Of both hidden layers of SAC's networks."""
    episodes: int = 100
    """Of the deployed action at the end."""
    workers: int = 2
    """Processes that share the simulations."""
    threads: int = 1
    """Threads of torch while it learns; as many as cores on a machine that does nothing else."""
    output: Path = field(default_factory=lambda: Path("runs/pybullet"))
    """Folder of the runs and the results."""


def main(options: Options) -> list[dict[str, Any]]:
    """Train what is not finished, and return one row for every environment, algorithm and seed."""
    rows = []
    for env in options.envs:
        for algo in options.algos:
            for seed in options.seeds:
                rows.append(_run(env, algo, seed, options))
                write_json(options.output / "pybullet.json", rows)
                write_bytes(options.output / "pybullet.md", table(rows).encode())
    Console(soft_wrap=True).print(table(rows), markup=False)
    return rows


def _run(env: str, algo: str, seed: int, options: Options) -> dict[str, Any]:
    """The result of one run, which is trained to its end if it is not yet."""
    run = options.output / f"{env}-{algo}-{seed}"
    result = run / "result.json"
    if not result.exists():
        config = settings_of(env, algo, seed, options)
        report = _Report(run.name)
        if not (run / "config.json").exists():
            train(config, run, report)
        elif load_agent(run)[2] < config.steps:
            resume(run, report, config.steps)
        agent, _, steps = load_agent(run)
        judged = evaluate(agent, config, options.episodes, workers=options.workers)
        found = {"env": env, "algo": algo, "seed": seed, "steps": steps, **asdict(judged)}
        write_json(result, found | {"commit": source_commit()})
    known: dict[str, Any] = json.loads(result.read_text())
    return known | {"published": PUBLISHED.get((env, algo)), "curve": _curve(run)}


def settings_of(env: str, algo: str, seed: int, options: Options) -> TrainConfig:
    """The settings of one run: those of the zoo, but for what the options say."""
    config = settings(f"gym:{env}", algo, seed, options.steps or None, options.threads, options.workers)
    o = config.options
    assert isinstance(o, PPOOptions | SACOptions)
    o = replace(o, anneal=o.anneal or options.anneal)
    if isinstance(o, PPOOptions):
        return replace(config, options=replace(o, learning_rate=options.ppo_learning_rate))
    agent = replace(config.agent, hidden=options.sac_width)
    return replace(config, agent=agent, options=replace(o, gradient_steps=options.sac_gradient_steps))


def _curve(run: Path) -> list[dict[str, float]]:
    """Steps, seconds since the first entry, and the returns of training and of evaluations, where there are any."""
    entries = read_progress(run)
    return [
        {"steps": e[STEPS], "seconds": round(e[WALL_TIME] - entries[0][WALL_TIME], 1)}
        | {name: round(e[name], 1) for name in _CURVE if name in e}
        for e in entries
        if any(name in e for name in _CURVE)
    ]


class _Report:
    """Prints a line a minute."""

    def __init__(self, name: str) -> None:
        self._name, self._last = name, 0.0
        self._console = Console(soft_wrap=True)

    def __call__(self, status: Status) -> None:
        judged = status.evaluation
        if judged is None and time.monotonic() - self._last < 60.0:
            return
        self._last = time.monotonic()
        line = f"{self._name}: {status.steps:,} of {status.total_steps:,}, {status.steps_per_s:.0f} steps/s"
        line += f", return {status.episode_return:.0f}"
        self._console.print(line + (f", deployed {judged.episode_return:.0f}" if judged else ""), markup=False)


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = [
        "| environment | algorithm | seed | steps | return of the deployed action | published |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row["env"], row["algo"], str(row["seed"]), f"{row['steps']:,}",
            f"{row['episode_return']:.0f} ± {row['return_std']:.0f}", str(row["published"] or "–"),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except Interrupted as interrupted:
        sys.exit(f"{interrupted} and saved; give the same command again to go on")
