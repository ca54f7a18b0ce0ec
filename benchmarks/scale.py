"""Rollouts on a Ray cluster against our own vector environment, on one machine.

    pip install -c constraints.txt ".[scale]"
    python -m benchmarks.scale [--task cartpole] [--actors 1 2 4 8] [--rounds 3] [--json PATH] [--markdown PATH]

The same settings and the same simulations, on-policy, without learning: policies go out, rollouts come back. Every
round gives each of these a turn: `--workers` processes that share the simulations, as without a cluster, and each
number of actors on a Ray cluster that is started here. Speed is environment steps per second over `--rollouts` rollouts
after a first one. Ratios are to the former, round by round; give the machine nothing else to do meanwhile.

What `benchmarks.scale_model` expects of each number of actors stands beside its speed; then follows what it expects of
clusters up to a thousand cores, with an actor of `--num-envs` simulations on each, and of learning.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray
import torch
import tyro
from rich.console import Console

from benchmarks.scale_model import Costs, extrapolated, measure
from runtime.files import write_bytes, write_json
from runtime.fleet import connect
from runtime.source import source_commit
from training.algorithms import algorithm_class
from training.checkpoint import build_agent
from training.cluster import ClusterCollector
from training.presets import preset
from training.rollout import Rollout
from training.trainer import LocalCollector


@dataclass(frozen=True)
class Options:
    """Measure how rollouts scale with actors."""

    task: str = "cartpole"
    """Task."""
    actors: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of actors."""
    workers: int = 2
    """Processes without a cluster."""
    num_envs: int = 64
    """Simulations, shared by the actors or the processes."""
    horizon: int = 64
    """Ticks of a rollout."""
    rollouts: int = 5
    """That count, in each turn."""
    rounds: int = 3
    """Turns of each."""
    cluster: str = "local"
    """Address of the cluster; local starts one here."""
    sizes: tuple[int, ...] = (1, 8, 64, 256, 1000)
    """Cores of the clusters that the model is asked about."""
    json: Path | None = None
    """Also write the figures to this file."""
    markdown: Path | None = None
    """And the table to this one."""


class Collects(Protocol):
    """Gives rollouts."""

    def collect(self) -> Rollout:
        """The next one."""


def main(options: Options) -> list[dict[str, Any]]:
    """Measure, print a table in Markdown, and return a row for the processes and one for each number of actors."""
    torch.set_num_threads(1)
    o = options
    config = replace(preset(o.task), num_envs=o.num_envs, horizon=o.horizon, workers=o.workers, device="cpu")
    agent = build_agent(config)
    algorithm = algorithm_class(config.algo)(config, agent)
    connect(o.cluster)

    def turn(actors: int) -> float:
        if not actors:
            with closing(LocalCollector(config, agent, algorithm, 0)) as collector:
                return _speed(collector, o.rollouts)
        with closing(ClusterCollector(replace(config, cluster=o.cluster, actors=actors), agent, algorithm, 0)) as there:
            return _speed(there, o.rollouts)

    counts = (0, *o.actors)
    speeds: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(o.rounds):
        for count in counts:
            speeds[count].append(turn(count))
    costs, cores = measure(config, agent, algorithm), int(ray.cluster_resources()["CPU"])
    rows = [
        {"actors": n, "speeds": s, "ratios": [a / b for a, b in zip(s, speeds[0])], "model": _model(costs, n, cores, o)}
        for n, s in speeds.items()
    ]
    hours = costs.core_hours(o.num_envs, o.horizon)
    paper = extrapolated(costs, o.sizes, o.num_envs, o.horizon)
    text = f"{table(rows, o.workers)}\n{paper}\n{hours:.3g} core-hours for a million steps\n"
    Console(soft_wrap=True).print(text, markup=False)
    if o.json:
        head = {"task": o.task, "num_envs": o.num_envs, "horizon": o.horizon, "commit": source_commit()}
        write_json(o.json, head | {"rows": rows, "costs": asdict(costs), "core_hours": hours})
    if o.markdown:
        write_bytes(o.markdown, text.encode())
    return rows


def _model(costs: Costs, actors: int, cores: int, options: Options) -> float | None:
    """Expected steps per second without learning, of actors."""
    if not actors:
        return None
    phases = costs.phases(actors, cores, options.num_envs, options.horizon)
    return options.num_envs * options.horizon / (phases["simulating"] + phases["exchanging"])


def _speed(collector: Collects, rollouts: int) -> float:
    """Steps per second."""
    collector.collect()
    started = time.perf_counter()
    steps = sum(collector.collect().reward.numel() for _ in range(rollouts))
    return steps / (time.perf_counter() - started)


def table(rows: list[dict[str, Any]], workers: int) -> str:
    """In Markdown: medians, and the range of the ratios."""
    lines = ["| who simulates | steps/s | of the processes | steps/s of the model |", "|---|---|---|---|"]
    for row in rows:
        who = f"{row['actors']} actors" if row["actors"] else f"{workers} processes"
        ratios = row["ratios"]
        share = f"{np.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%})" if row["actors"] else "–"
        model = f"{row['model']:,.0f}" if row["model"] else "–"
        lines.append(f"| {who} | {np.median(row['speeds']):,.0f} | {share} | {model} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
