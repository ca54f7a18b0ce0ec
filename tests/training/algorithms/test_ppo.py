"""PPO's update: what its settings change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training.algorithms.ppo import PPO
from training.presets import preset
from training.rollout import Collector
from training.trainer import Trainer


def learner(folder: Path, **options: Any) -> tuple[PPO, Collector]:
    config = replace(preset("cartpole"), num_envs=2, workers=1, horizon=64, device="cpu")
    config = replace(config, options=replace(config.options, **options))
    trainer = Trainer(config, folder, resume=False)
    assert isinstance(trainer.algorithm, PPO)
    return trainer.algorithm, Collector(config, trainer.agent)


def test_the_step_size_follows_the_kl_divergence_unless_none_is_aimed_at(tmp_path: Path) -> None:
    ppo, collector = learner(tmp_path / "a", target_kl=0.0, learning_rate=2e-3)
    rollout = collector.collect(ppo.explore)
    assert ppo.update(rollout)["train/learning_rate"] == 2e-3
    other, _ = learner(tmp_path / "b", target_kl=1e-9, learning_rate=2e-3)
    assert other.update(rollout)["train/learning_rate"] < 2e-3
    collector.close()


def test_every_tick_is_learned_from_once_in_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo, collector = learner(tmp_path, epochs=2, minibatches=3)
    seen: list[torch.Tensor] = []
    losses = ppo._losses

    def record(batch: Any) -> Any:
        seen.append(batch.target)
        return losses(batch)

    monkeypatch.setattr(ppo, "_losses", record)
    rollout = collector.collect(ppo.explore)
    whole, _ = ppo._batch(rollout)
    ppo.update(rollout)
    assert [len(s) for s in seen] == [43, 43, 42] * 2
    for epoch in (seen[:3], seen[3:]):
        assert torch.equal(torch.cat(epoch).sort().values, whole.target.sort().values)
    assert not torch.equal(seen[0], seen[3]), "another order in every pass"
    collector.close()


def test_the_first_loss_has_ratio_one_and_no_divergence(tmp_path: Path) -> None:
    """-E[A] of normalised advantages is zero, and KL(pi_old || pi) is too, before the first step."""
    ppo, collector = learner(tmp_path)
    batch, value = ppo._batch(collector.collect(ppo.explore))
    policy_loss, value_loss, _, kl = ppo._losses(batch)
    assert abs(policy_loss.item()) < 1e-5
    assert abs(kl.item()) < 1e-6
    torch.testing.assert_close(value_loss, (batch.target - value).square().mean())
    collector.close()
