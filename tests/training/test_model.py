"""The generative model's free energy and its local gradient, in float64 (math: section 1)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from runtime.contract import Node
from training.agent.model import GenerativeModel, gaussian_energy

SINGLE = (Node("state", 6),)
CHAIN = (Node("top", 3), Node("middle", 4, ("top",)), Node("bottom", 6, ("middle",)))
DIAMOND = (
    Node("top", 3),
    Node("left", 4, ("top",)),
    Node("right", 2, ("top",)),
    Node("join", 5, ("left", "right")),
)
GRAPHS = {"square": (Node("state", 5),), "single": SINGLE, "chain": CHAIN, "diamond": DIAMOND}
D, A, B = 5, 2, 3


def make(graph: str) -> tuple[GenerativeModel, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    model = GenerativeModel(GRAPHS[graph], D, A, 7).double()
    with torch.no_grad():  # random precisions, so that none of them is accidentally one
        for name, parameter in model.named_parameters():
            if "log_precision" in name:
                parameter.normal_(2.0, 0.5)
    z, drive = torch.randn(2, B, model.size, dtype=torch.float64)
    x = torch.randn(B, D, dtype=torch.float64)
    mask = (torch.rand(B, D) > 0.4).double()
    return model, z, x, mask, drive


@pytest.mark.parametrize("graph", GRAPHS)
def test_local_gradient_equals_finite_differences(graph: str) -> None:
    model, z, x, mask, drive = make(graph)
    step = 1e-3
    numeric = torch.zeros_like(z)
    for j in range(model.size):
        shift = torch.zeros_like(z)
        shift[:, j] = step
        f = [model.free_energy(z + k * shift, x, mask, drive) for k in (-2, -1, 1, 2)]
        numeric[:, j] = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)  # error of order step^4
    gradient = model.free_energy_gradient(z, x, model.observation_precision(mask), drive)
    scale = gradient.abs().clamp(min=1.0)
    assert ((gradient - numeric) / scale).abs().max() < 1e-8


@pytest.mark.parametrize("graph", GRAPHS)
def test_local_gradient_equals_autograd(graph: str) -> None:
    model, z, x, mask, drive = make(graph)
    z.requires_grad_(True)
    (expected,) = torch.autograd.grad(model.free_energy(z, x, mask, drive).sum(), z)
    torch.testing.assert_close(
        model.free_energy_gradient(z, x, model.observation_precision(mask), drive), expected, rtol=1e-12, atol=1e-12
    )


def test_chain_written_out_equals_the_hierarchy() -> None:
    """F of a chain is the sum over levels of 1/2 eps' Lambda eps - 1/2 log|Lambda| + n/2 log 2 pi."""
    model, z, x, mask, drive = make("chain")
    precision = model.latent_log_precision().exp()
    top, middle, bottom = z[:, :3], z[:, 3:7], z[:, 7:]
    errors = torch.cat(
        (
            top - drive[:, :3],
            middle - drive[:, 3:7] - model.conditionals["middle"](top)[0],
            bottom - drive[:, 7:] - model.conditionals["bottom"](middle)[0],
        ),
        -1,
    )
    latent = 0.5 * (precision * errors**2 - precision.log() + math.log(2 * math.pi)).sum(-1)
    observed = model.observation_log_precision().exp()
    error = x - model.observation(bottom)[0]
    seen = 0.5 * (mask * (observed * error**2 - observed.log() + math.log(2 * math.pi))).sum(-1)
    torch.testing.assert_close(model.free_energy(z, x, mask, drive), latent + seen, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("graph", GRAPHS)
def test_masked_channel_equals_deleted_row(graph: str) -> None:
    model, z, x, _, drive = make(graph)
    keep = torch.tensor([True, False, True, True, False])
    mask = keep.double().expand(B, D)
    garbage = torch.where(keep, x, torch.full_like(x, 1e3))
    log_precision = model.observation_log_precision()[keep]
    deleted = gaussian_energy((x - model.predict(z))[:, keep], log_precision)
    full = model.free_energy(z, garbage, mask, drive)
    latent = model.free_energy(z, garbage, torch.zeros_like(mask), drive)
    torch.testing.assert_close(full - latent, deleted, rtol=1e-12, atol=1e-12)
    a, b = (model.free_energy_gradient(z, values, model.observation_precision(mask), drive) for values in (x, garbage))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gaussian_energy_by_hand() -> None:
    """-log N(2; 0, 1/4) = 1/2 (4 * 4 - log 4 + log 2 pi); a masked second channel adds nothing."""
    energy = gaussian_energy(torch.tensor([2.0, 9.0]), torch.tensor([math.log(4.0), 1.0]), torch.tensor([1.0, 0.0]))
    assert energy.item() == pytest.approx(0.5 * (16 - math.log(4) + math.log(2 * math.pi)), rel=1e-6)


def test_log_precision_gradient_vanishes_at_the_sample_variance() -> None:
    """dF/dl = 1/2 (e^l eps^2 - 1): zero on average where the variance is the mean square."""
    errors = torch.tensor([[1.0], [3.0], [-2.0]], dtype=torch.float64)
    log_precision = (-errors.square().mean().log()).clone().requires_grad_(True)
    gaussian_energy(errors, log_precision.reshape(1)).sum().backward()
    assert log_precision.grad is not None
    assert abs(log_precision.grad.item()) < 1e-12


@pytest.mark.parametrize("graph", GRAPHS)
def test_curvature_is_the_hessian_diagonal_of_the_linear_part(graph: str) -> None:
    model, z, x, mask, drive = make(graph)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "outer_weight" in name:
                parameter.zero_()
    expected = torch.stack(
        [
            torch.autograd.functional.hessian(
                lambda v, i=i: model.free_energy(v, x[i], mask[i], drive[i]), z[i]
            ).diagonal()
            for i in range(B)
        ]
    )
    torch.testing.assert_close(model.curvature(model.observation_precision(mask)), expected, rtol=1e-10, atol=1e-10)


def test_latents_with_enough_room_are_anchored_to_their_channels() -> None:
    model = make("single")[0]
    assert torch.equal(model.anchors[:D], torch.eye(D))
    assert model.retention.tolist() == pytest.approx([1.0] * D + [0.9])
    assert make("diamond")[0].anchors.sum() == D
    narrow = GenerativeModel((Node("state", 3),), D, A, 7)
    assert narrow.anchors.sum() == 0


def test_prediction_stays_finite_however_long_the_sensors_are_gone() -> None:
    model = make("single")[0]
    with torch.no_grad():
        for parameter in model.dynamics.parameters():
            parameter.fill_(3.0)
        z = torch.ones(1, model.size, dtype=torch.float64)
        for _ in range(2000):
            z = model.drive(z, torch.ones(1, A, dtype=torch.float64))
    assert z.abs().max() <= 20.0
