"""Importance weights of further steps on a rollout."""

from __future__ import annotations

import pytest
import torch

from runtime.errors import GanglionError
from tests.training.algorithms.rollouts import TASKS, learner, plain, random_rollout
from training.algorithms.vpg import VPG, VPGOptions


@pytest.mark.parametrize("task", TASKS)
def test_the_first_step_needs_no_importance_weights_and_later_ones_do(task: str) -> None:
    """Ratio one at theta' = theta: one step is the same with either kind of weight, three are not."""
    ended: dict[tuple[str, int], torch.Tensor] = {}
    for importance in ("step", "trajectory"):
        for epochs in (1, 3):
            algorithm = learner(plain(task, "vpg", importance=importance, epochs=epochs, learning_rate=0.05))
            assert isinstance(algorithm, VPG)
            algorithm.update(random_rollout(algorithm.agent))
            policy = algorithm.agent.policy.parameters()
            ended[importance, epochs] = torch.cat([p.detach().flatten() for p in policy])
    assert torch.equal(ended["step", 1], ended["trajectory", 1])
    assert not torch.equal(ended["step", 3], ended["trajectory", 3])


def test_an_unknown_importance_is_refused() -> None:
    with pytest.raises(GanglionError, match=r"importance is 'none', expected one of step, trajectory"):
        VPGOptions(importance="none")
