"""What all algorithms with a replay buffer share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.algorithms.replayed import GAMMA, make, make_batch, make_rollout, settings, weights
from training.algorithms.off_policy import OffPolicy, StepByStep, adam, bellman_target, minibatches
from training.gradient_step import descend
from training.replay_buffer import FILE
from training.trainer import Trainer, resume

NAMES = ["ddpg", "td3", "sac", "nfqca"]


def test_a_target_bootstraps_through_a_time_limit_but_never_past_an_end() -> None:
    """gamma = 0.9, v(s') = 10, r = 1: 10 where the episode went on or a time limit cut it, 1 where it ended."""
    batch = make_batch(make("ddpg"), 2)
    batch.reward = torch.ones(2)
    batch.terminated = torch.tensor([0.0, 1.0])
    assert bellman_target(batch, GAMMA, torch.full((2,), 10.0)).tolist() == pytest.approx([10.0, 1.0])
    assert bellman_target(batch, GAMMA, torch.full((3, 2), 10.0)).shape == (3, 2), "for several critics too"


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_an_end_changes_nothing(name: str) -> None:
    """The same update, bit for bit, whatever s' holds where the episode ended; elsewhere it matters."""
    after = []
    for where in (None, 1.0, 0.0):
        algorithm = make(name, learning_starts=0)
        rollout = make_rollout(algorithm)
        if where is not None:
            rollout.after.x[rollout.terminated == where] = 3.0
            rollout.after.z[rollout.terminated == where] = -3.0
        torch.manual_seed(0)
        with torch.no_grad():
            algorithm.critics.float()
            algorithm.agent.float()
            for part in ("target_critics", "target_policy"):
                if hasattr(algorithm, part):
                    getattr(algorithm, part).float()
        algorithm.update(rollout)
        after.append(weights(algorithm.critics, algorithm.agent.policy))
    assert torch.equal(after[0], after[1])
    assert not torch.equal(after[0], after[2])


def test_actions_are_uniform_until_learning_starts() -> None:
    algorithm = make("ddpg", learning_starts=65, noise_std=0.0)
    s = make_batch(algorithm, 4000).now
    before = weights(algorithm.agent.policy)
    assert algorithm.update(make_rollout(algorithm)) == {}, "64 transitions are too few"
    assert torch.equal(weights(algorithm.agent.policy), before)
    tried = algorithm.explore(s)
    assert tried.shape == (4000, 1)
    assert tried.abs().max() <= 1.0
    assert tried.mean().item() == pytest.approx(0.0, abs=0.04)
    assert tried.var().item() == pytest.approx(1 / 3, rel=0.06)
    algorithm.buffer.add(make_rollout(algorithm))
    with torch.no_grad():
        torch.testing.assert_close(algorithm.explore(s), algorithm.agent.act(s.z))


@pytest.mark.parametrize(("share", "expected"), [(1.0, 64), (0.25, 16), (2.0, 128), (0.001, 1)])
def test_gradient_steps_are_per_environment_step(share: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = make("ddpg", learning_starts=0, gradient_steps=share, batch_size=17)
    sizes: list[int] = []

    def learn(batch: Any) -> dict[str, torch.Tensor]:
        sizes.append(len(batch))
        return {"critic_loss": torch.tensor(float(len(sizes)))}

    monkeypatch.setattr(algorithm, "learn", learn)
    logs = algorithm.update(make_rollout(algorithm))
    assert sizes == [17] * expected
    assert algorithm.updates == expected
    assert logs["train/critic_loss"] == pytest.approx((expected + 1) / 2), "the mean over the steps"
    assert logs["train/learning_rate"] == algorithm.options.learning_rate


def test_minibatches_go_through_all_rows_before_any_again() -> None:
    torch.manual_seed(0)
    batches = list(minibatches(10, 4, 7))
    assert [len(b) for b in batches] == [4, 4, 2, 4, 4, 2, 4]
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:6])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert first.tolist() != second.tolist()


def test_a_step_computes_no_gradient_of_what_it_does_not_learn() -> None:
    mine, others = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0], requires_grad=True)
    descend(adam([mine], 0.1), (mine * others).sum())
    assert others.grad is None
    assert mine.tolist() == pytest.approx([0.9, 1.9]), "Adam's first step is its learning rate"


def part_of(trainer: Trainer) -> OffPolicy[Any]:
    """Its algorithm."""
    assert isinstance(trainer.algorithm, OffPolicy)
    return trainer.algorithm


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_killed_goes_on_with_its_experience(name: str, tmp_path: Path) -> None:
    config = settings(name, learning_starts=64, batch_size=16, buffer_size=1000, gradient_steps=0.1)
    config = replace(config, num_envs=4, horizon=16, steps=192, checkpoint_every=128, eval_every=0)
    trainer = Trainer(config, tmp_path / "run", resume=False)
    killed = Trainer.save

    def save(self: Trainer) -> None:
        killed(self)
        if self.steps >= 128:
            raise SystemExit  # nothing closes the buffer, and no later checkpoint is written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "save", save)
        with pytest.raises(SystemExit):
            trainer.fit()
    assert (tmp_path / "run" / FILE).exists()
    mine, again = part_of(trainer), part_of(Trainer(config, tmp_path / "run", resume=True))
    seen = mine.buffer.everything()
    assert len(again.buffer) == len(seen) == 128
    torch.testing.assert_close(again.buffer.everything().now.x, seen.now.x)
    if isinstance(mine, StepByStep):
        assert isinstance(again, StepByStep)
        assert again.updates == mine.updates > 0
    for key, part in mine.parts.items():
        torch.testing.assert_close(again.parts[key].state_dict(), part.state_dict(), rtol=0, atol=0)
    resume(tmp_path / "run")
    assert len(part_of(Trainer(config, tmp_path / "run", resume=True)).buffer) == 192
