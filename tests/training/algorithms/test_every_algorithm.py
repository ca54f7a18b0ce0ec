"""What holds for every registered algorithm: it trains, its checkpoint continues it, its agent can be deployed."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ganglion.trainer import Train, parse_train
from runtime.errors import GanglionError
from training.algorithms import ALGORITHMS
from training.checkpoint import load_agent
from training.config import TrainConfig
from training.presets import command_line, preset
from training.trainer import Status, Trainer, train

CONTINUOUS, DISCRETE = "cartpole", "cartpole_push"
SMALL: dict[str, Any] = {"buffer_size": 1000, "learning_starts": 64, "batch_size": 32, "critic_hidden": 16}
PAIRS = [
    (name, task)
    for name, kind in ALGORITHMS.items()
    for task, head in ((CONTINUOUS, kind.continuous_head), (DISCRETE, kind.discrete_head))
    if head
]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each task, for algorithms that imitate one."""
    runs = {}
    for task in (CONTINUOUS, DISCRETE):
        runs[task] = tmp_path_factory.mktemp("teacher") / task
        train(small("ppo", task, {}), runs[task])
    return runs


def small(name: str, task: str, teachers: dict[str, Path]) -> TrainConfig:
    """Three rollouts of 64 ticks."""
    config = preset(task, name)
    known = {f.name for f in fields(config.options)}
    changed = {k: v for k, v in SMALL.items() if k in known}
    if "teacher" in known:
        changed["teacher"] = str(teachers[task])
    return replace(
        config, options=replace(config.options, **changed), agent=replace(config.agent, hidden=16), steps=192,
        num_envs=4, horizon=16, sequence=8, overshoot=2, model_epochs=1, model_only_steps=0, workers=1, eval_every=0,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_it_learns_logs_finite_numbers_and_continues_from_its_checkpoint(
    name: str, task: str, teachers: dict[str, Path], tmp_path: Path
) -> None:
    config, run = small(name, task, teachers), tmp_path / "run"
    statuses: list[Status] = []
    trainer = Trainer(config, run, resume=False)
    before = {k: v.clone() for k, v in trainer.agent.policy.state_dict().items()}
    trainer.fit(statuses.append)
    assert statuses[-1].steps == 192
    assert any(not torch.equal(before[k], v) for k, v in trainer.agent.policy.state_dict().items()), "nothing learned"

    again = Trainer(config, run, resume=True)
    assert again.steps == 192
    assert same(trainer.agent.state_dict(), again.agent.state_dict())
    assert same(trainer.algorithm.state(), again.algorithm.state())

    agent, loaded, _ = load_agent(run)
    assert loaded == config
    action = agent.act(torch.randn(5, agent.model.size))
    assert action.shape == (5, 1)
    assert torch.isfinite(action).all()
    if task == DISCRETE:
        assert set(action.flatten().tolist()) <= {-1.0, 1.0}


def same(one: Any, other: Any) -> bool:
    """Whether two nested states hold the same numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_action_that_it_cannot_learn_is_refused(name: str) -> None:
    kind = ALGORITHMS[name]
    for task, head in ((CONTINUOUS, kind.continuous_head), (DISCRETE, kind.discrete_head)):
        if head:
            assert preset(task, name).agent.head == head
        else:
            with pytest.raises(GanglionError, match=rf"{name} learns .* actions, the action of the task '{task}' is"):
                preset(task, name)


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_its_command_gives_its_settings(name: str, task: str) -> None:
    config = replace(preset(task, name), seed=3)
    line = command_line(config)
    assert ("--algo" in line) == (name != "ppo")
    parsed = parse_train(line.split()[2:])
    assert isinstance(parsed, Train)
    assert parsed.config == config
