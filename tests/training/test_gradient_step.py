"""A gradient step made of tensors alone is that of torch's own clipping and optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.gradient_step import adam_state, clipped, descend, follow


def test_a_gradient_is_shortened_to_the_longest_and_a_short_one_is_left() -> None:
    """(3) and (4) have the common length 5."""
    long = clipped([torch.tensor([3.0]), torch.tensor([[4.0]])], 1.0)
    assert [g.item() for g in long] == pytest.approx([0.6, 0.8], rel=1e-6)
    short = clipped([torch.tensor([3.0]), torch.tensor([[4.0]])], 10.0)
    assert [g.item() for g in short] == [3.0, 4.0]


def test_steps_are_those_of_torch_and_its_optimizer_goes_on_from_them() -> None:
    torch.manual_seed(0)
    theirs = nn.Linear(3, 2)
    ours = copy.deepcopy(theirs)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.1, eps=1e-5) for m in (theirs, ours)]
    inputs = torch.randn(4, 3)
    for step in range(6):
        if step == 3:
            optimizers[1].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
        optimizers[0].zero_grad()
        theirs(inputs).square().sum().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizers[0].step()
        if step % 2:
            descend(optimizers[1], ours(inputs).square().sum(), longest=0.5)
        else:
            adam_state(optimizers[1]).descend(ours(inputs).square().sum(), longest=0.5)
    adam_state(optimizers[1]).descend(0.0 * ours(inputs).sum())
    optimizers[0].zero_grad(set_to_none=False)
    optimizers[0].step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)
    assert optimizers[1].state_dict()["state"][0]["step"].item() == 7


def test_what_the_loss_does_not_depend_on_stays_and_no_other_gradient_is_computed() -> None:
    used, unused, other = (nn.Parameter(torch.tensor(1.0)) for _ in range(3))
    optimizer = torch.optim.SGD([used, unused], lr=0.5)
    descend(optimizer, (used * other).square())
    assert (used.item(), unused.item()) == (0.0, 1.0), "1 - 0.5 times 2"
    assert other.grad is None
    used.requires_grad_(False)
    descend(optimizer, unused.square())
    assert (used.item(), unused.item()) == (0.0, 0.0), "what is frozen stays too"
    with torch.no_grad():
        unused.fill_(1.0)
    follow(optimizer, [None, torch.tensor(-4.0)], longest=1.0)
    assert used.item() == 0.0
    assert unused.item() == pytest.approx(1.5)
