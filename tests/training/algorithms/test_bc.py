"""Cloning: what a pupil learns of a teacher, who drives, and which teachers are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from runtime.errors import GanglionError
from tests.training.algorithms.rollouts import plain
from training.agent.situation import Situation
from training.algorithms.bc import BC, cloning_loss, load_teacher, nearest_choice
from training.checkpoint import build_agent
from training.presets import preset
from training.rollout import Collector
from training.trainer import Trainer

GAIN = [[0.7, -1.2, 0.3, 2.0]]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained agent of the cart-pole that pushes all the same."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    trainer = Trainer(plain("cartpole", "ppo"), run, resume=False)
    torch.manual_seed(5)
    with torch.no_grad():
        trainer.agent.policy.get_parameter("4.weight").normal_()
    trainer.save()
    return run


def test_a_linear_gaussian_teacher_is_recovered() -> None:
    """A = K s + 0.3 e: least squares finds K to 0.3/sqrt(20000) = 0.002, the likelihood the deviation to 0.5 %."""
    torch.manual_seed(0)
    pupil = build_agent(plain("cartpole", "ppo"))
    pupil.policy = nn.Sequential(nn.Linear(4, 1))
    z = torch.randn(20_000, 4)
    action = z @ torch.tensor(GAIN).T + 0.3 * torch.randn(20_000, 1)
    optimizer = torch.optim.LBFGS(
        [*pupil.policy.parameters(), pupil.log_std], max_iter=100, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cloning_loss(pupil, Situation(z, z), action)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert pupil.policy.get_parameter("0.weight").flatten().tolist() == pytest.approx(GAIN[0], abs=0.008)
    assert pupil.policy.get_parameter("0.bias").item() == pytest.approx(0.0, abs=0.008)
    assert pupil.log_std.exp().item() == pytest.approx(0.3, rel=0.02)


def test_the_nearest_choice() -> None:
    choices = torch.tensor([[-1.0], [0.0], [1.0]])
    assert nearest_choice(choices, torch.tensor([[-3.0], [-0.4], [0.6], [0.1]])).tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("task", ["cartpole", "cartpole_push"])
def test_the_teacher_drives_but_where_the_pupil_does_and_advises_everywhere(task: str, teacher: Path) -> None:
    """Two of four simulations each. The belief of a teacher that holds readings is the observation, so its advice is
    its policy there; a discrete pupil takes the nearest choice."""
    config = replace(plain(task, "bc", teacher=str(teacher), pupil_share=0.5), num_envs=4, horizon=16)
    algorithm = BC(config, build_agent(config))
    collector = Collector(config, algorithm.agent)
    rollout = collector.collect(algorithm.explore, algorithm.watch)
    collector.close()
    advice = torch.stack(list(algorithm._advice))
    acted = load_teacher(str(teacher), config).act(rollout.x.flatten(0, 1)).unflatten(0, (16, 4)).detach()
    expected = (acted.squeeze(-1) > 0).long() if task == "cartpole_push" else acted
    torch.testing.assert_close(advice, expected)
    torch.testing.assert_close(rollout.action[:, 2:], advice[:, 2:])
    assert not torch.equal(rollout.action[:, :2], advice[:, :2])
    before = cloning_loss(algorithm.agent, rollout.now.flat(), advice.flatten(0, 1)).item()
    for _ in range(5):
        algorithm.update(rollout)
    assert cloning_loss(algorithm.agent, rollout.now.flat(), advice.flatten(0, 1)).item() < before


def test_a_missing_or_unfit_teacher_is_refused(teacher: Path, tmp_path: Path) -> None:
    config = preset("cartpole", "bc")
    with pytest.raises(GanglionError, match=r"bc learns from a teacher and none is given; add --teacher RUN"):
        Trainer(config, tmp_path / "a", resume=False)
    with pytest.raises(GanglionError, match=r"nowhere is not a training run"):
        load_teacher(str(tmp_path / "nowhere"), config)
    with pytest.raises(GanglionError, match=r"has other sensors or actions than the task 'kuka_reach'"):
        load_teacher(str(teacher), preset("kuka_reach", "bc"))
