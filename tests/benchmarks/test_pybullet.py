"""The runs on the PyBullet benchmark: the zoo's settings, and what a finished run says without being made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.pybullet import Options, main, settings_of
from benchmarks.zoo import settings
from runtime.errors import GanglionError

HOPPER = "HopperBulletEnv-v0"


def test_settings_are_the_zoo_s() -> None:
    """PPO: 512 ticks of 16 environments in minibatches of 128. SAC: eight gradient steps for eight transitions."""
    ppo, sac = (settings(f"gym:{HOPPER}", algo) for algo in ("ppo", "sac"))
    assert ppo.horizon * ppo.num_envs / ppo.options.minibatches == 128  # type: ignore[attr-defined]
    assert (ppo.steps, sac.steps) == (2_000_000, 1_000_000)
    assert sac.horizon * sac.num_envs * sac.options.gradient_steps == 8  # type: ignore[attr-defined]
    constant = [settings("gym:HalfCheetahBulletEnv-v0", algo) for algo in ("ppo", "sac")]
    assert [c.options.anneal for c in (ppo, sac, *constant)] == [True, True, False, False]  # type: ignore[attr-defined]
    with pytest.raises(GanglionError, match="settings of ppo and sac here, not of 'td3'"):
        settings(f"gym:{HOPPER}", "td3")


def test_options_change_what_they_name_and_nothing_else() -> None:
    env = "HalfCheetahBulletEnv-v0"
    assert settings_of(env, "ppo", 0, Options()) == settings(f"gym:{env}", "ppo")
    assert settings_of(env, "sac", 0, Options()) == settings(f"gym:{env}", "sac")
    changed = Options(anneal=True, ppo_learning_rate=1e-4, sac_gradient_steps=0.5, sac_width=64, steps=7)
    ppo, sac = (settings_of(env, algo, 0, changed) for algo in ("ppo", "sac"))
    assert (ppo.steps, ppo.options.anneal, ppo.options.learning_rate) == (7, True, 1e-4)  # type: ignore[attr-defined]
    assert (sac.options.anneal, sac.options.gradient_steps, sac.agent.hidden) == (True, 0.5, 64)  # type: ignore[attr-defined]


def test_a_finished_run_is_told_with_its_curve(tmp_path: Path) -> None:
    run = tmp_path / f"{HOPPER}-ppo-3"
    run.mkdir()
    known = {"env": HOPPER, "algo": "ppo", "seed": 3, "steps": 2_000_000, "episode_return": 2600.4, "return_std": 9.6}
    (run / "result.json").write_text(json.dumps(known))
    curve = [(8192, 100.0, 17.04), (16384, 103.5, 21.0)]
    lines = [{"time/total_timesteps": n, "wall_time": t, "rollout/ep_rew_mean": r} for n, t, r in curve]
    (run / "progress.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (row,) = main(Options((HOPPER,), ("ppo",), (3,), output=tmp_path))
    assert row["published"] == 2575
    assert row["curve"] == [
        {"steps": 8192, "seconds": 0.0, "rollout/ep_rew_mean": 17.0},
        {"steps": 16384, "seconds": 3.5, "rollout/ep_rew_mean": 21.0},
    ]
    assert json.loads((tmp_path / "pybullet.json").read_text()) == [row]
    assert f"| {HOPPER} | ppo | 3 | 2,000,000 | 2600 ± 10 | 2575 |" in (tmp_path / "pybullet.md").read_text()
