"""The comparison of training speed: the clock, the ratios, and that both sides run with the same settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import throughput
from benchmarks.throughput import Clock, Options, Turn, main
from benchmarks.zoo import WIDTH, settings
from training.algorithms.ppo import PPOOptions


def tiny(algo: str) -> Turn:
    config = replace(settings("cartpole", algo, workers=1), num_envs=2, eval_every=0)
    if isinstance(config.options, PPOOptions):
        short = replace(config.options, epochs=1, minibatches=2, compile=False)
        return Turn("", replace(config, horizon=16, steps=96, options=short), 32, sde=True, episodes=1)
    started = replace(config.options, learning_starts=8, batch_size=4, buffer_size=64, compile=False)  # type: ignore[call-arg]
    return Turn("", replace(config, steps=24, options=started), 16, sde=True, episodes=1)


def test_the_clock_starts_when_it_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 steps from 4 s to 9 s are 200 a second."""
    times = iter((1.0, 4.0, 6.0, 9.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = Clock(500)
    for steps in (400, 800, 1000, 1800):
        clock(steps)
    assert clock.speed == 200.0


def test_ours_is_divided_by_the_faster_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter((400.0, 90.0, 100.0, 600.0, 110.0, 200.0, 420.0, 80.0, 120.0, 0.0, 0.0))
    asked: list[Turn] = []

    def apart(turn: Turn) -> tuple[float, float]:
        asked.append(turn)
        return next(speeds), 50.0 + len(asked)

    monkeypatch.setattr(throughput, "_apart", apart)
    (row,) = main(Options(("ppo",), "cartpole", rounds=3, return_steps=10_000))
    assert row["theirs"] == "SB3, a process each"
    assert row["ratios"] == [4.0, 3.0, 3.5]
    assert row["returns"] == {"ours": [60.0], "SB3, a process each": [61.0]}
    assert throughput.table([row]).splitlines()[-1] == (
        "| ppo | 420 | 120 | a process each | 3.5 (3.0 to 4.0) | 60 | 61 |"
    )
    assert [turn.config.steps for turn in asked] == [3 * 16 * 512] * 9 + [10_000] * 2


def test_more_environments_keep_the_size_of_minibatches() -> None:
    """16 x 512 in 128 minibatches are 64 each, and so are 64 x 512 in 512."""
    usual = throughput._usual("ppo", Options(settings="library", num_envs=64))
    assert isinstance(usual.options, PPOOptions)
    assert (usual.num_envs, usual.horizon, usual.options.minibatches) == (64, 512, 512)


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_ours_runs_with_the_zoo_s_settings(algo: str) -> None:
    speed, returned = throughput._ours(tiny(algo))
    assert speed > 0
    assert returned > 0


@pytest.mark.parametrize("algo", ["ppo", "sac"])
@pytest.mark.filterwarnings("ignore")  # its own
def test_theirs_runs_with_the_same_settings(algo: str) -> None:
    pytest.importorskip("stable_baselines3")
    threads = torch.get_num_threads()
    turn = replace(tiny(algo), who="SB3, one process")
    speed, returned = throughput._theirs(turn)
    assert speed > 0
    assert returned > 0
    model: Any = throughput._model(turn, _env(turn))
    assert (model.gamma, model.n_envs) == (turn.config.gamma, 2)
    hidden = [m.out_features for m in model.policy.modules() if isinstance(m, torch.nn.Linear)]
    assert WIDTH[algo] in hidden
    torch.set_num_threads(threads)


def _env(turn: Turn) -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env(f"ganglion/{turn.config.task}-v0", turn.config.num_envs)
