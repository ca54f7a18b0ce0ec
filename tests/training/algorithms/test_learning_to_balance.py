"""Algorithms learn to keep the pole up at least twice as long as before, in short runs of a smaller goal.

ddpg, td3, sac and nfqca do so in their own files, in float64.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sim.tasks import NOMINAL
from tests.training.algorithms.replayed import episode_length
from training.agent.config import InferenceConfig
from training.augment import NO_FAILURES
from training.config import TrainConfig
from training.presets import preset

_CONTINUOUS = {"ppo": 15_000, "npg": 15_000, "trpo": 15_000, "vpg": 20_000, "a2c": 40_000}
_CONTINUOUS |= {"fqi": 8_000, "offpac": 4_000, "vfe": 4_000}
_DISCRETE = {"ppo": 15_000, "npg": 15_000, "trpo": 15_000, "vpg": 20_000, "a2c": 40_000, "reinforce": 30_000}
_DISCRETE |= {"dqn": 4_000, "fqi": 8_000, "offpac": 4_000, "vfe": 4_000, "svg": 4_000}


def short_run(task: str, algo: str, steps: int) -> TrainConfig:
    """On readings that are held, in the nominal world, without failures."""
    usual = preset(task, algo)
    agent = replace(usual.agent, hidden=32, inference=InferenceConfig("hold"))
    return replace(
        usual, seed=1, gamma=0.98, steps=steps, workers=1, worlds=(NOMINAL,), agent=agent, augmentation=NO_FAILURES,
        refine=(0,), model_epochs=0, model_only_steps=0, eval_every=0,
    )  # fmt: skip


@pytest.mark.parametrize(("algo", "steps"), _CONTINUOUS.items())
def test_it_learns_to_balance(algo: str, steps: int, tmp_path: Path) -> None:
    before, after = episode_length(short_run("cartpole", algo, steps), tmp_path)
    assert after > 2 * before


@pytest.mark.parametrize(("algo", "steps"), _DISCRETE.items())
def test_it_learns_to_balance_by_choices(algo: str, steps: int, tmp_path: Path) -> None:
    before, after = episode_length(short_run("cartpole_push", algo, steps), tmp_path)
    assert after > 2 * before
