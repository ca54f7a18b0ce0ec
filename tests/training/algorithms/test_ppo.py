"""PPO: clipping, the dual of the KL penalty, and what the settings of an update change."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import GanglionError
from training.algorithms.on_policy import make_batch
from training.algorithms.ppo import PPO, PPOOptions, clipped_objective, dual_ascent, following
from training.gradient_step import adam_state
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


def test_an_annealed_step_size_falls_in_a_straight_line_to_none(tmp_path: Path) -> None:
    """Four rollouts: the whole, 3/4, half, a quarter, and nothing after the run; also where another goes on."""
    config = replace(preset("cartpole"), num_envs=2, workers=1, horizon=16, steps=128, device="cpu")
    options = replace(config.options, anneal=True, target_kl=0.0, learning_rate=2e-3, minibatches=2, epochs=3)  # type: ignore[call-arg]
    first, other = (Trainer(replace(config, options=options), tmp_path / n, resume=False).algorithm for n in "ab")
    collector = Collector(config, first.agent)
    rollout = collector.collect(first.explore)
    collector.close()
    rates = [first.update(rollout)["train/learning_rate"] for _ in range(2)]
    other.restore(first.state())
    rates += [other.update(rollout)["train/learning_rate"] for _ in range(3)]
    assert rates == pytest.approx([2e-3, 1.5e-3, 1e-3, 0.5e-3, 0.0])
    with pytest.raises(GanglionError, match=r"cannot both anneal and follow a target_kl of 0\.02; add --target-kl 0"):
        PPOOptions(anneal=True)


def test_every_tick_is_learned_from_once_in_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo, collector = learner(tmp_path, epochs=2, minibatches=3)
    seen: list[torch.Tensor] = []
    step = ppo._step

    def record(batch: Any, *rest: Any) -> Any:
        seen.append(batch.target)
        return step(batch, *rest)

    monkeypatch.setattr(ppo, "_step", record)
    rollout = collector.collect(ppo.explore)
    whole = make_batch(ppo.agent, rollout, ppo.options, ppo.config.gamma)
    ppo.update(rollout)
    assert [len(s) for s in seen] == [43, 43, 42] * 2
    for epoch in (seen[:3], seen[3:]):
        assert torch.equal(torch.cat(epoch).sort().values, whole.target.sort().values)
    assert not torch.equal(seen[0], seen[3]), "another order in every pass"
    collector.close()


def test_the_first_loss_has_ratio_one_and_no_divergence(tmp_path: Path) -> None:
    """-E[A] of normalised advantages is zero, and KL(pi_old || pi) is too, before the first step."""
    ppo, collector = learner(tmp_path, target_kl=1e-9, learning_rate=2e-3)
    batch = make_batch(ppo.agent, collector.collect(ppo.explore), ppo.options, ppo.config.gamma)
    first = ppo._step(batch, adam_state(ppo.optimizer), torch.tensor(0.0))
    assert first.clip_fraction.item() == 0.0
    assert abs(first.policy_loss.item()) < 1e-5
    assert first.learning_rate.item() == pytest.approx(2e-3), "a divergence of zero is not followed"
    torch.testing.assert_close(first.value_loss, (batch.target - batch.value).square().mean())
    collector.close()


def test_the_step_size_follows_a_divergence_within_its_bounds() -> None:
    """Above twice the target divided by 1.5, below half of it times 1.5, from 1e-5 to 3e-3."""
    for kl, start, expected in (
        (0.05, 1e-3, 1e-3 / 1.5), (0.005, 1e-3, 1.5e-3), (0.03, 1e-3, 1e-3), (0.0, 1e-3, 1e-3),
        (0.05, 1.2e-5, 1e-5), (0.005, 2.9e-3, 3e-3),
    ):  # fmt: skip
        found = following(torch.tensor(start), torch.tensor(kl), 0.02).item()
        assert found == pytest.approx(expected), (kl, start)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"), [(1.5, 1.0, 1.2), (1.5, -1.0, -1.5), (0.5, 1.0, 0.5), (0.5, -1.0, -0.8)]
)
def test_clipped_objective_corners(ratio: float, advantage: float, expected: float) -> None:
    assert clipped_objective(torch.tensor(ratio), torch.tensor(advantage), 0.2).item() == pytest.approx(expected)


@pytest.mark.parametrize(("wanted", "x", "multiplier"), [(2.0, 1.0, 1.0), (4.0, 1.0, 3.0), (0.5, 0.5, 0.0)])
def test_the_dual_converges_on_a_quadratic(wanted: float, x: float, multiplier: float) -> None:
    """Max -(x - w)^2/2 with KL = x^2/2 <= 1/2. The Lagrangian is largest at x = w/(1 + lambda): x = 1 and
    lambda = w - 1 where the bound is active, x = w and lambda = 0 where it is not."""
    lam = 0.3
    for _ in range(400):
        lam = dual_ascent(lam, 0.5 * (wanted / (1 + lam)) ** 2, target=0.5, rate=0.5)
        assert lam >= 0.0
    assert lam == pytest.approx(multiplier, abs=1e-6)
    assert wanted / (1 + lam) == pytest.approx(x, abs=1e-6)


def test_the_multiplier_never_falls_below_zero() -> None:
    assert dual_ascent(0.1, 0.0, target=1.0, rate=0.5) == 0.0
    assert dual_ascent(0.1, 2.0, target=1.0, rate=0.5) == pytest.approx(0.6)


def test_a_compiled_step_teaches_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiler's front end alone: what it traces, not the C++ that it writes, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++")
    plain, collector = learner(tmp_path / "a", epochs=1)
    traced, _ = learner(tmp_path / "b", epochs=1, compile=True)
    assert traced._step != traced._eager_step
    rollout = collector.collect(plain.explore)
    for ppo in (plain, traced):
        torch.manual_seed(1)
        ppo.update(rollout)
    mine, theirs = plain.agent.state_dict(), traced.agent.state_dict()
    for name in mine:
        torch.testing.assert_close(theirs[name], mine[name], rtol=1e-5, atol=1e-6)
    collector.close()


def test_without_a_compiler_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    ppo, collector = learner(tmp_path, compile=True)
    assert ppo._step == ppo._eager_step
    collector.close()
