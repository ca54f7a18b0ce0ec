"""What is left of the variational agent when a term of its free energy is off.

    python -m benchmarks.free_energy_terms [--task cartpole] [--seeds 0 1 2] [--steps N] [--output FOLDER]

One run with every term, one without each of the six, and one whose model learns locally, for every seed. At its end
the deployed action is judged in 100 nominal episodes; the model is judged by the surprise of its sensors, the sum of
the terms (a), (b) and (e) over the last tenth of the run where all three count. Runs that are finished are kept.
free_energy_terms.json holds the figures, free_energy_terms.md the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from runtime.files import write_bytes, write_json
from training.algorithms.vfe import VFEOptions
from training.checkpoint import load_agent
from training.config import TrainConfig
from training.evaluation import evaluate
from training.presets import preset
from training.progress import read_progress
from training.trainer import train

VARIANTS: dict[str, dict[str, Any]] = {
    "all terms": {},
    "without (a) perception": {"perception": 0.0},
    "without (b) prediction": {"prediction": 0.0},
    "without (c) preference": {"preference": 0.0},
    "without (d) drift": {"drift": 0.0},
    "without (e) state entropy": {"state_entropy": 0.0},
    "without (f) policy entropy": {"policy_entropy": 0.0},
    "model learned locally": {"model_learning": "local"},
}
"""Options of every run, by what the table calls it."""
_RESULT = "result.json"


@dataclass(frozen=True)
class Options:
    """Switch off one term at a time."""

    task: str = "cartpole"
    """Task."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every variant each."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which to run."""
    steps: int = 0
    """Environment steps of each run; 0 is as many as the task's settings say."""
    episodes: int = 100
    """Of the deployed action at the end."""
    workers: int = 1
    """Processes that share the simulations."""
    output: Path = field(default_factory=lambda: Path("runs/free_energy_terms"))
    """Folder of the runs and the results."""


def main(options: Options) -> list[dict[str, Any]]:
    """Train what is not finished, write the results after each run, and return one row for each variant and seed."""
    rows = []
    for variant in options.variants:
        for seed in options.seeds:
            rows.append(run(variant, seed, options))
            write_json(options.output / "free_energy_terms.json", rows)
            write_bytes(options.output / "free_energy_terms.md", "\n".join(table(rows)).encode() + b"\n")
    Console(soft_wrap=True).print("\n".join(table(rows)), markup=False)
    return rows


def settings(variant: str, seed: int, options: Options) -> TrainConfig:
    """Of one run."""
    usual = preset(options.task, "vfe")
    assert isinstance(usual.options, VFEOptions)
    return replace(
        usual, seed=seed, workers=options.workers, steps=options.steps or usual.steps, eval_every=0,
        options=replace(usual.options, **VARIANTS[variant]),
    )  # fmt: skip


def run(variant: str, seed: int, options: Options) -> dict[str, Any]:
    """The row of one run, trained unless its folder holds the result of as many steps and episodes."""
    config = settings(variant, seed, options)
    folder = options.output / f"{options.task}_{variant.replace(' ', '_')}_{seed}_{config.steps}"
    if (folder / _RESULT).exists():
        kept: dict[str, Any] = json.loads((folder / _RESULT).read_text())
        if kept["episodes"] == options.episodes:
            return kept
    else:
        train(config, folder)
    agent, _, steps = load_agent(folder)
    judged = evaluate(agent, config, options.episodes)
    row = {
        "task": options.task, "variant": variant, "seed": seed, "steps": steps, "episodes": judged.episodes,
        "length": judged.episode_length, "return": judged.episode_return, "solved": judged.success_rate,
        "surprise": surprise(read_progress(folder)),
    }  # fmt: skip
    write_json(folder / _RESULT, row)
    return row


def surprise(lines: list[dict[str, Any]]) -> float | None:
    """Mean of (a) + (b) + (e) over the last tenth of a run's log, nats a tick; None where a term was off."""
    last = lines[-max(1, len(lines) // 10) :]
    names = [f"vfe/{n}" for n in ("perception", "prediction", "state_entropy")]
    sums = [sum(line[n] for n in names) for line in last if all(n in line for n in names)]
    return float(np.mean(sums)) if sums else None


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: each variant's mean over seeds, and the least and the most episodes solved."""
    yield "| terms | seeds | ticks of 500 | episodes solved (least to most) | surprise of the sensors, nats a tick |"
    yield "|---|---|---|---|---|"
    for variant in dict.fromkeys(r["variant"] for r in rows):
        own = [r for r in rows if r["variant"] == variant]
        solved = [r["solved"] for r in own]
        known = [r["surprise"] for r in own if r["surprise"] is not None]
        seen = f"{np.mean(known):.2f}" if known else "–"
        yield (
            f"| {variant} | {len(own)} | {np.mean([r['length'] for r in own]):.0f} | "
            f"{np.mean(solved):.0%} ({min(solved):.0%} to {max(solved):.0%}) | {seen} |"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
