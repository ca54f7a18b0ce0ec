"""How well a bundle that was learned from a bag predicts the part that it did not see, against simpler predictions.

    python -m benchmarks.from_bags BAG [--contract docs/turtlebot3.yaml] [--output runs/from_bags] [--json PATH]

Learns from the first part of every recording, unless the folder holds the run already; exports; predicts every new
reading of the rest one tick ahead; replays the bag. Errors are root mean squares in standard deviations of the part
that was learned from, over the channels of a sensor. The linear autoregression sees the same ticks: for each channel,
its order, its ridge, and whether it reads all sensors or its own alone, with the commands, are those that predict the
last fifth of the learned part best, and it is then fitted on all of that part. By how much the bundle's mean squared
error is below theirs has an interval from blocks of one second, drawn anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console

from export.exporter import export
from runtime.bundle import Bundle
from runtime.contract import Layout
from runtime.files import write_json
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from training.bag_config import BagConfig, LearnOptions
from training.checkpoint import load_agent
from training.cloning import clone
from training.from_bags import load_ticks
from training.recorded import TICKS, Tensors, predict

_ORDERS = (1, 2, 3, 5, 8, 12)
_RIDGES = tuple(10.0 ** np.arange(-4, 5))
_RESAMPLES = 2000


@dataclass(frozen=True)
class Options:
    """Learn from a bag and measure the predictions."""

    bag: Annotated[Path, tyro.conf.Positional]
    """Bag, or folder of bags."""
    contract: Path = Path("docs/turtlebot3.yaml")
    """The robot (.yaml)."""
    output: Path = Path("runs/from_bags")
    """Folder of the run; the bundle is written beside it."""
    learn: LearnOptions = field(default_factory=LearnOptions)
    """How to learn, if the folder holds no run."""
    json: Path | None = None
    """Also write the figures to this file."""


def main(options: Options) -> dict[str, Any]:
    """Print tables in Markdown, write JSON, and return what is written."""
    if not (options.output / "config.json").exists():
        clone(options.bag, options.contract, options.learn, options.output)
    bundle = options.output.with_suffix(".onnx")
    export(options.output, bundle)
    result = measure(options.output)
    replayed = replay(options.bag, Bundle.load(bundle), ReplayOptions(mode="raw")).to_json()
    result["replay"] = {k: replayed[k] for k in ("ticks", "statuses", "action_error", "realtime_factor", "per_joint")}
    Console(soft_wrap=True).print("\n".join(tables(result)), markup=False)
    if options.json:
        write_json(options.json, result)
    return result


def measure(run: Path) -> dict[str, Any]:
    """Errors of the run's agent, of holding, and of the autoregression on the held-out part of its recordings."""
    agent, config, _ = load_agent(run)
    assert isinstance(config, BagConfig)
    ticks = load_ticks(run / TICKS)
    later = ticks.split(config.options.held_out)[1].now_ns
    judged = np.isin(ticks.now_ns, later) & ~ticks.first
    data = Tensors.of(ticks, config)
    x, known = data.x.numpy().astype(np.float64), data.known.numpy() > 0
    forecast = predict(agent, data, config.agent.inference.default_steps)
    predictions = {
        "bundle": forecast.x.double().numpy(),
        "hold": np.concatenate((x[:1], x[:-1])),
        "autoregression": autoregression(x, known, data.previous_action.double().numpy(), ~judged, config.robot.layout),
    }
    squares = {name: np.where(known & judged[:, None], (p - x) ** 2, np.nan)[judged] for name, p in predictions.items()}
    layout, rng = config.robot.layout, np.random.default_rng(0)
    draws = _blocks(int(judged.sum()), round(config.robot.rate_hz), rng)
    sensors = {o.name: _compared(squares, layout.slices[o.name], draws) for o in config.robot.observations}
    channels = {c: _compared(squares, slice(i, i + 1), draws) for i, c in enumerate(layout.channels)}
    return {
        "ticks": {"learned": int((~judged).sum()), "held_out": int(judged.sum())},
        "sensors": sensors,
        "channels": channels,
        "command": _command_error(config, forecast.action, data, judged),
    }


def _command_error(config: BagConfig, action: torch.Tensor, data: Tensors, judged: np.ndarray) -> dict[str, Any]:
    """Root mean square errors per joint in SI units: of the policy, of the last command, and of the mean one."""
    scale = torch.tensor(config.robot.action.scale)
    target, rows = data.target, torch.from_numpy(judged)
    mean = target[~rows].nanmean(0)
    guesses = {"bundle": action, "last command": data.previous_action, "mean command": mean.expand_as(target)}
    return {
        name: dict(zip(config.robot.action.joints, (scale * (g - target)[rows].square().nanmean(0).sqrt()).tolist()))
        for name, g in guesses.items()
    }


def autoregression(x: np.ndarray, known: np.ndarray, u: np.ndarray, learned: np.ndarray, layout: Layout) -> np.ndarray:
    """Predictions (N, D) of readings x (N, D), where they are `known`, from the past of x and of commands u (N, A)."""
    fitted = np.flatnonzero(learned)
    trained, validated = np.split(fitted, [round(0.8 * len(fitted))])
    held = np.concatenate((x[:1], x[:-1]))
    result = np.zeros_like(x)
    for d in range(x.shape[1]):
        step = x[:, d] - held[:, d]
        own = next(s for s in layout.slices.values() if s.start <= d < s.stop)
        best: tuple[float, np.ndarray, float] | None = None
        for sensors, order in itertools.product((own, slice(None)), _ORDERS):
            phi = _lags(x[:, sensors], u, order)
            for ridge, w in _ridge_fits(phi, step, trained[known[trained, d]]):
                rows = validated[known[validated, d]]
                error = float(((phi[rows] @ w - step[rows]) ** 2).mean())
                if best is None or error < best[0]:
                    best = error, phi, ridge
        assert best is not None
        (_, w), *_ = _ridge_fits(best[1], step, fitted[known[fitted, d]], (best[2],))
        result[:, d] = held[:, d] + best[1] @ w
    return result


def _lags(x: np.ndarray, u: np.ndarray, order: int) -> np.ndarray:
    """1, the last `order` readings, and the last `order` commands, the newest of which was given before the tick."""
    columns = [np.ones((len(x), 1))]
    for lag in range(1, order + 1):
        columns += [np.roll(x, lag, axis=0), np.roll(u, lag - 1, axis=0)]
    phi = np.concatenate(columns, axis=1)
    phi[: order + 1] = 0.0
    return phi


def _ridge_fits(
    phi: np.ndarray, y: np.ndarray, rows: np.ndarray, ridges: tuple[float, ...] = _RIDGES
) -> Iterator[tuple[float, np.ndarray]]:
    """Each ridge with its weights; the constant is not shrunk."""
    gram, moment = phi[rows].T @ phi[rows], phi[rows].T @ y[rows]
    shrunk = np.eye(len(gram))
    shrunk[0, 0] = 1e-9
    for ridge in ridges:
        yield ridge, np.linalg.solve(gram + ridge * shrunk, moment)


def _blocks(count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Rows (resamples, count) of indices: blocks of `length` ticks, drawn anew."""
    blocks = -(-count // length)
    starts = rng.integers(0, max(count - length, 0) + 1, (_RESAMPLES, blocks, 1))
    return (starts + np.arange(length)).reshape(_RESAMPLES, -1)[:, :count]


def _compared(squares: dict[str, np.ndarray], channels: slice, draws: np.ndarray) -> dict[str, Any]:
    """Root mean square errors, and by which share the bundle's squared error is below each other's, with its 95 %
    interval; the differences are drawn, since blocks in which nothing happens have no ratio.
    """
    sums = {n: np.nansum(s[:, channels], axis=1) for n, s in squares.items()}
    count = int((~np.isnan(squares["bundle"][:, channels])).sum())
    row: dict[str, Any] = {n: float(np.sqrt(total.sum() / count)) for n, total in sums.items()}
    for n in ("hold", "autoregression"):
        gain = (sums[n] - sums["bundle"]) / sums[n].sum()
        row[f"below_{n}"] = [float(gain.sum()), *np.quantile(gain[draws].sum(1), (0.025, 0.975)).tolist()]
    return row


def tables(result: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    for what in ("sensors", "channels"):
        yield f"| {what[:-1]} | bundle | hold | autoregression | below hold (95 %) | below autoregression (95 %) |"
        yield "|---|---|---|---|---|---|"
        for name, row in result[what].items():
            errors = (f"{row[n]:.4f}" for n in ("bundle", "hold", "autoregression"))
            shares = ("{:.0%} ({:.0%} to {:.0%})".format(*row[f"below_{n}"]) for n in ("hold", "autoregression"))
            yield f"| {' | '.join((name, *errors, *shares))} |"
        yield ""
    joints = list(next(iter(result["command"].values())))
    yield f"| command, RMSE | {' | '.join(joints)} |"
    yield "|---|" + "---|" * len(joints)
    for name, row in result["command"].items():
        yield f"| {name} | {' | '.join(f'{row[j]:.3f}' for j in joints)} |"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
