"""Critics that are computed together are the critics one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from training.agent.situation import Situation
from training.q_networks import QNetworks, polyak


def by_hand(networks: QNetworks, k: int, inputs: Tensor) -> Tensor:
    rows = inputs
    for layer, (weight, bias) in enumerate(zip(networks.weights, networks.biases)):
        rows = rows @ weight[k] + bias[k]
        if layer < 2:
            rows = rows * (rows > 0)
    return rows


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_network_is_its_own_two_layer_perceptron(count: int) -> None:
    torch.manual_seed(0)
    networks = QNetworks(5, 7, 4, count).double()
    inputs = torch.randn(6, 5, dtype=torch.float64)
    together = networks(inputs)
    assert together.shape == (count, 6, 4)
    for k in range(count):
        torch.testing.assert_close(together[k], by_hand(networks, k, inputs), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(networks(inputs, 1), together[:1], rtol=1e-12, atol=1e-12)


def test_the_gradient_of_a_network_is_that_of_its_own_loss() -> None:
    torch.manual_seed(0)
    networks = QNetworks(5, 7, 1, 2).double()
    inputs, target = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    parameters = list(networks.parameters())
    together = torch.autograd.grad((networks(inputs) - target).square().mean((1, 2)).sum(), parameters)
    for k in range(2):
        alone = torch.autograd.grad(mse_loss(by_hand(networks, k, inputs), target), parameters)
        for both, one in zip(together, alone):
            torch.testing.assert_close(both[k], one[k], rtol=1e-12, atol=1e-12)
            assert (one[1 - k] == 0).all()


def test_networks_begin_unlike_each_other() -> None:
    networks = QNetworks(5, 7, 1, 2)
    assert not torch.equal(networks.weights[0][0], networks.weights[0][1])


def test_values_read_the_belief_the_observation_and_the_action() -> None:
    torch.manual_seed(0)
    z, x, action = torch.randn(6, 3), torch.randn(6, 2), torch.randn(6, 1)
    networks = QNetworks(6, 7, 1, 2)
    torch.testing.assert_close(networks.q(Situation(z, x), action), networks(torch.cat((z, x, action), 1))[..., 0])
    choosing = QNetworks(5, 7, 4, 2)
    assert choosing.choices(Situation(z, x)).shape == (2, 6, 4)


def test_polyak_takes_on_a_share() -> None:
    """0.25 of 8 and 0.75 of 4 are 5."""
    target, source = QNetworks(2, 3), QNetworks(2, 3)
    with torch.no_grad():
        for a, b in zip(target.parameters(), source.parameters()):
            a.fill_(4.0)
            b.fill_(8.0)
    polyak(target, source, 0.25)
    assert all((p == 5.0).all() for p in target.parameters())
    assert all((p == 8.0).all() for p in source.parameters())
