"""Training speed against Stable-Baselines3: the same task, settings, networks and number of environments, in one run.

    pip install -c constraints.txt ".[bench]"
    python -m benchmarks.throughput [--algos ppo sac] [--rounds 3] [--no-sde] [--json PATH] [--markdown PATH]

Settings are the zoo's for the benchmark (`benchmarks.zoo`), or with `--settings library` those that theirs has where
nothing is told, with the same networks on both sides. Every round gives each of these a turn in
a process of its own: ours, and theirs with all environments in one process and with a process for each. Speed is
environment steps per second, learning included, from the end of the first update on. Ours is divided by the faster of
theirs, round by round; give the machine nothing else to do meanwhile.

With `--return-steps N` both also train for N steps with each of `--seeds`, and their deterministic actions are judged
in `--episodes` episodes.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import tyro
from rich.console import Console

from benchmarks.zoo import library_settings, settings
from runtime.files import write_bytes, write_json
from sim.processes import end_with_parent
from sim.tasks import EXTERNAL, NOMINAL, is_external
from training.algorithms.ppo import PPOOptions
from training.algorithms.sac import SACOptions
from training.config import TrainConfig
from training.evaluation import evaluate
from training.trainer import Status, Trainer

_OURS, _ONE, _EACH = "ours", "SB3, one process", "SB3, a process each"
_LEARNING_STARTS = 1_000  # of SAC where speed is measured


@dataclass(frozen=True)
class Options:
    """Compare training speed."""

    algos: tuple[str, ...] = ("ppo", "sac")
    """Algorithms."""
    task: str = "gym:HalfCheetahBulletEnv-v0"
    """Task with a continuous action, of gymnasium or our own."""
    settings: Literal["zoo", "library"] = "zoo"
    """Whose settings: those tuned for the benchmark, or the defaults of Stable-Baselines3."""
    num_envs: int = 0
    """Environments of PPO, with minibatches as large as before; 0 is as many as the settings say."""
    rounds: int = 3
    """Turns of each."""
    updates: int = 2
    """PPO's updates in a turn that count."""
    sac_steps: int = 2_000
    """SAC's steps in a turn that count."""
    workers: int = 2
    """Our processes."""
    threads: int = 2
    """Threads of torch while learning, of ours; theirs has as many as torch takes."""
    compile: bool = True
    """Compile our gradient steps; the first update, which does it, does not count."""
    bf16: bool = True
    """Let our SAC multiply in bfloat16; theirs multiplies in float32."""
    sde: bool = True
    """With the zoo's settings let theirs explore by noise that depends on the state, as the zoo does; ours never
    does."""
    return_steps: int = 0
    """Steps after which returns are compared too; 0 is not."""
    seeds: tuple[int, ...] = (0,)
    """Of the comparison of returns."""
    episodes: int = 20
    """Likewise, of each seed."""
    json: Path | None = None
    """Also write the figures to this file."""
    markdown: Path | None = None
    """And the table to this one."""


@dataclass(frozen=True)
class Turn:
    """What a process is to do."""

    who: str
    config: TrainConfig
    warm: int
    """Steps before the clock starts."""
    sde: bool
    episodes: int = 0
    """To judge at the end."""


class Clock:
    """Environment steps per second since the first call with at least `warm` steps."""

    def __init__(self, warm: int) -> None:
        self._warm, self._first, self._last = warm, (0, 0.0), (0, 0.0)

    def __call__(self, steps: int) -> None:
        """Note that `steps` are made by now."""
        self._last = (steps, time.perf_counter())
        if not self._first[0] and steps >= self._warm:
            self._first = self._last

    @property
    def speed(self) -> float:
        """Steps per second."""
        (begin, begin_s), (end, end_s) = self._first, self._last
        return (end - begin) / (end_s - begin_s)


def main(options: Options) -> list[dict[str, Any]]:
    """Measure, print a table in Markdown, write JSON, and return what is written."""
    rows = [_measure(algo, options) for algo in options.algos]
    Console(soft_wrap=True).print(table(rows), markup=False)
    if options.json:
        write_json(options.json, {"task": options.task, "settings": options.settings, "rows": rows})
    if options.markdown:
        write_bytes(options.markdown, table(rows).encode())
    return rows


def _measure(algo: str, options: Options) -> dict[str, Any]:
    usual = _usual(algo, options)
    sde = options.sde and options.settings == "zoo"
    config, warm = _short(usual, options)
    speeds: dict[str, list[float]] = {who: [] for who in (_OURS, _ONE, _EACH)}
    for _ in range(options.rounds):
        for who in speeds:
            speeds[who].append(_apart(Turn(who, config, warm, sde))[0])
    theirs = max((_ONE, _EACH), key=lambda who: float(np.median(speeds[who])))
    ratios = [ours / other for ours, other in zip(speeds[_OURS], speeds[theirs])]
    row: dict[str, Any] = {"algo": algo, "speeds": speeds, "theirs": theirs, "ratios": ratios, "returns": {}}
    if options.return_steps:
        for who in (_OURS, theirs):
            longer = (replace(usual, steps=options.return_steps, seed=seed) for seed in options.seeds)
            turns = [Turn(who, c, warm, sde, options.episodes) for c in longer]
            row["returns"][who] = [_apart(turn)[1] for turn in turns]
    return row


def _usual(algo: str, options: Options) -> TrainConfig:
    """The settings of a whole run."""
    if options.settings == "zoo":
        usual = settings(options.task, algo, 0, None, options.threads, options.workers)
    else:
        usual = library_settings(options.task, algo, 0, options.threads, options.workers)
    usual = replace(usual, worlds=(NOMINAL,))
    if options.num_envs and isinstance(usual.options, PPOOptions):
        minibatches = max(1, usual.options.minibatches * options.num_envs // usual.num_envs)
        usual = replace(usual, num_envs=options.num_envs, options=replace(usual.options, minibatches=minibatches))
    faster = {"compile": options.compile} | ({"bf16": options.bf16} if algo == "sac" else {})
    return replace(usual, options=replace(usual.options, **faster))


def _short(config: TrainConfig, options: Options) -> tuple[TrainConfig, int]:
    """A run that is long enough to measure speed, and its steps before the clock starts."""
    quiet = replace(config, eval_every=0)
    if isinstance(config.options, SACOptions):
        warm = 2 * _LEARNING_STARTS
        o = replace(config.options, learning_starts=_LEARNING_STARTS)
        return replace(quiet, steps=warm + options.sac_steps, options=o), warm
    warm = config.num_envs * config.horizon
    return replace(quiet, steps=(1 + options.updates) * warm), warm


def _apart(turn: Turn) -> tuple[float, float]:
    """Speed and mean return of a turn in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=end_with_parent) as pool:
        act: Callable[[Turn], tuple[float, float]] = _ours if turn.who == _OURS else _theirs
        return pool.submit(act, turn).result()


def _ours(turn: Turn) -> tuple[float, float]:
    clock = Clock(turn.warm)

    def note(status: Status) -> None:
        clock(status.steps)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(turn.config, Path(folder), resume=False)
        trainer.fit(note)
        if not turn.episodes:
            return clock.speed, 0.0
        return clock.speed, evaluate(trainer.agent, turn.config, turn.episodes).episode_return


def _theirs(turn: Turn) -> tuple[float, float]:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

    c, clock = turn.config, Clock(turn.warm)

    class Note(BaseCallback):  # type: ignore[misc]
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            clock(self.num_timesteps)

    kind = DummyVecEnv if turn.who == _ONE else SubprocVecEnv
    env = make_vec_env(partial(_environment, c.task), c.num_envs, seed=c.seed, vec_env_cls=kind)
    if c.algo == "ppo":
        env = VecNormalize(env, gamma=c.gamma)
    model = _model(turn, env)
    model.learn(c.steps, callback=Note())
    clock(model.num_timesteps)
    returned = 0.0
    if turn.episodes:
        if isinstance(env, VecNormalize):
            env.training = env.norm_reward = False
        returned = float(evaluate_policy(model, env, turn.episodes)[0])
    env.close()
    return clock.speed, returned


def _environment(task: str) -> gymnasium.Env[Any, Any]:
    """As theirs takes it, in whatever process."""
    import pybullet_envs_gymnasium  # noqa: F401  registers the benchmark

    import sim.env  # noqa: F401  registers our own tasks

    return gymnasium.make(task.removeprefix(EXTERNAL) if is_external(task) else f"ganglion/{task}-v0")


def _model(turn: Turn, env: Any) -> Any:
    """Theirs, with the settings of ours."""
    from stable_baselines3 import PPO, SAC

    c, o, width = turn.config, turn.config.options, [turn.config.agent.hidden] * 2
    common = {"gamma": c.gamma, "use_sde": turn.sde, "seed": c.seed, "device": "cpu"}
    if isinstance(o, PPOOptions):
        activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[c.agent.activation]
        networks = {"activation_fn": activation, "net_arch": {"pi": width, "vf": width}, "ortho_init": not turn.sde}
        return PPO(
            "MlpPolicy", env, learning_rate=o.learning_rate, n_steps=c.horizon, n_epochs=o.epochs,
            batch_size=c.num_envs * c.horizon // o.minibatches, gae_lambda=o.gae_lambda, clip_range=o.clip,
            ent_coef=o.entropy, max_grad_norm=o.max_grad_norm, sde_sample_freq=4 if turn.sde else -1,
            policy_kwargs={**networks, "log_std_init": -2.0 if turn.sde else c.agent.initial_log_std}, **common,
        )  # fmt: skip
    assert isinstance(o, SACOptions)
    return SAC(
        "MlpPolicy", env, learning_rate=o.learning_rate, buffer_size=o.buffer_size, tau=o.tau,
        learning_starts=o.learning_starts, batch_size=o.batch_size, train_freq=c.horizon,
        gradient_steps=round(o.gradient_steps * c.num_envs * c.horizon),
        policy_kwargs={"net_arch": width, "log_std_init": -3.0}, **common,
    )  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown: medians, with the least and the most of the rounds; returns are means of the seeds."""
    lines = [
        "| algorithm | ours, steps/s | SB3, steps/s | of it | ours / SB3 | return, ours | return, SB3 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        theirs = row["theirs"]
        ours, other = (f"{np.median(row['speeds'][who]):,.0f}" for who in (_OURS, theirs))
        low, middle, high = (f(row["ratios"]) for f in (min, np.median, max))
        returns = [f"{np.mean(row['returns'][w]):.0f}" if w in row["returns"] else "–" for w in (_OURS, theirs)]
        cells = (row["algo"], ours, other, theirs.removeprefix("SB3, "), f"{middle:.1f} ({low:.1f} to {high:.1f})")
        lines.append(f"| {' | '.join((*cells, *returns))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
