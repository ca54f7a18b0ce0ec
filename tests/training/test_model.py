"""The generative model's free energy and every gradient of it, in float64 (math: section 1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from runtime.contract import Node
from tests.training.models import GRAPHS, A, D, block_prior, dense, diagonal_prior, draw, make_model
from training.agent.model import GenerativeModel, LogPrecision, Prior, gaussian_energy
from training.agent.networks import Conditional, ObservationModel

B = 3
TIES = [(), (0, 1), (3, 0, 4)]
PRIORS: dict[str, Callable[[GenerativeModel, Tensor], Prior]] = {
    "diagonal": diagonal_prior,
    "blocks": lambda model, drive: block_prior(model, drive, 2),
    "full": lambda model, drive: block_prior(model, drive, model.size),
}
Setup = tuple[GenerativeModel, Tensor, Tensor, Tensor, Prior]


def make(graph: str, prior: str = "diagonal", tied: tuple[int, ...] = ()) -> Setup:
    model = make_model(graph, tied)
    x, mask, _, z = draw(B, model.size, 0.6)
    return model, z, x, mask, PRIORS[prior](model, torch.randn_like(z))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def finite_differences(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-3) -> Tensor:
    """d function (B,) / d at (B, n), of error step^4."""
    columns = []
    for j in range(at.shape[-1]):
        shift = torch.zeros_like(at)
        shift[..., j] = step
        f = [function(at + k * shift) for k in (-2, -1, 1, 2)]
        columns.append((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step))
    return torch.stack(columns, -1)


def jacobians(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """By autograd, row by row."""

    def of_one(row: Tensor) -> Tensor:
        return function(row[None])[0]

    return torch.stack([torch.autograd.functional.jacobian(of_one, row) for row in at])


@pytest.mark.parametrize("tied", TIES)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_inference_gradient(graph: str, prior: str, tied: tuple[int, ...]) -> None:
    """dF/dz = E' Pi e - J' (m lambda eps), against finite differences and autograd."""
    model, z, x, mask, p = make(graph, prior, tied)
    gradient = model.free_energy_gradient(z, x, mask * p.log_precision_x.exp(), p)
    numeric = finite_differences(lambda v: model.free_energy(v, x, mask, p), z)
    assert ((gradient - numeric) / gradient.abs().clamp(min=1.0)).abs().max() < 1e-8
    z.requires_grad_(True)
    close(gradient, torch.autograd.grad(model.free_energy(z, x, mask, p).sum(), z)[0], 1e-11)


@pytest.mark.parametrize("tied", TIES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_jacobians(graph: str, tied: tuple[int, ...]) -> None:
    model, z, _, _, prior = make(graph, tied=tied)
    mean, j = model.predict_with_jacobian(z)
    close(mean, model.predict(z))
    close(j, jacobians(model.predict, z))
    e = model.latent_error_jacobian(z)
    expected = jacobians(lambda v: model.latent_error(v, torch.zeros_like(v)), z)
    assert (e is None) == (not model.conditionals)
    close(torch.eye(model.size).double().expand_as(expected) if e is None else e, expected)
    action = torch.randn(B, A).double()
    drive, hidden = model.transition(z, action)
    close(drive, model.drive(z, action))
    a = model.transition_jacobian(hidden)
    both = jacobians(lambda v: model.drive(v[:, : model.size], v[:, model.size :]), torch.cat((z, action), -1))
    close(a, both[..., : model.size])
    close(model.latent_error(model.prior_mean(prior.drive), prior.drive), torch.zeros_like(z))


def test_vector_products_are_transposed_jacobians() -> None:
    torch.manual_seed(0)
    part = Conditional(4, 7, 3).double()
    u, cotangent = torch.randn(B, 4).double(), torch.randn(B, 3).double()
    _, hidden = part(u)
    jacobian = part.jacobian(hidden)
    close(jacobian, jacobians(lambda v: part(v)[0], u))
    close(part.jacobian(hidden, 2), jacobian[..., :2])
    close(part.vjp(cotangent, hidden), (jacobian.mT @ cotangent.unsqueeze(-1)).squeeze(-1))
    for tied in ((), (0, 1), (4, 0, 2), tuple(range(D))):
        sensor = ObservationModel(6, 7, D, tied).double()
        u, cotangent = torch.randn(B, 6).double(), torch.randn(B, D).double()
        mean, hidden = sensor(u)
        assert torch.equal(mean[:, list(tied)], u[:, : len(tied)])

        def predicted(v: Tensor, s: ObservationModel = sensor) -> Tensor:
            return s(v)[0]

        close(sensor.jacobian(hidden), jacobians(predicted, u))
        back = (sensor.jacobian(hidden).mT @ cotangent.unsqueeze(-1)).squeeze(-1)
        close(sensor.vjp(cotangent, hidden), back)
        close(torch.cat(sensor.split(mean), -1)[:, : len(tied)], u[:, : len(tied)])


@pytest.mark.parametrize("prior", PRIORS)
def test_chain_written_out_equals_the_hierarchy(prior: str) -> None:
    """F = 1/2 e' Pi e - 1/2 log|Pi| + Z/2 log 2 pi + the channels, with the errors of three levels written out."""
    model, z, x, mask, p = make("chain", prior)
    top, middle, bottom = z[:, :3], z[:, 3:7], z[:, 7:]
    errors = torch.cat(
        (
            top - p.drive[:, :3],
            middle - p.drive[:, 3:7] - model.conditionals["middle"](top)[0],
            bottom - p.drive[:, 7:] - model.conditionals["bottom"](middle)[0],
        ),
        -1,
    )
    pi = dense(p.precision) if p.precision.dim() == 4 else p.precision.diag().expand(B, -1, -1)
    latent = 0.5 * torch.einsum("bi,bij,bj->b", errors, pi, errors) - 0.5 * torch.logdet(pi)
    observed = p.log_precision_x.exp()
    error = x - model.observation(bottom)[0]
    seen = 0.5 * (mask * (observed * error**2 - observed.log() + math.log(2 * math.pi))).sum(-1)
    total = latent + 0.5 * model.size * math.log(2 * math.pi) + seen
    close(model.free_energy(z, x, mask, p), total)
    candidates = torch.stack((z, z + 1.0))
    expected = torch.stack([model.free_energy(c, x, mask, p) for c in candidates])
    close(model.free_energy(candidates, x, mask, p), expected)


@pytest.mark.parametrize("graph", GRAPHS)
def test_masked_channel_equals_deleted_row(graph: str) -> None:
    model, z, x, _, prior = make(graph, "full")
    keep = torch.tensor([True, False, True, True, False])
    mask, garbage = keep.double().expand(B, D), torch.where(keep, x, torch.full_like(x, 1e3))
    deleted = gaussian_energy((x - model.predict(z))[:, keep], prior.log_precision_x[keep])
    full = model.free_energy(z, garbage, mask, prior)
    latent = model.free_energy(z, garbage, torch.zeros_like(mask), prior)
    close(full - latent, deleted)
    a, b = (model.free_energy_gradient(z, v, mask * prior.log_precision_x.exp(), prior) for v in (x, garbage))
    assert torch.equal(a, b)


def test_gaussian_energy_by_hand() -> None:
    """-log N(2; 0, 1/4) = 1/2 (4 * 4 - log 4 + log 2 pi); a masked second channel adds nothing."""
    energy = gaussian_energy(torch.tensor([2.0, 9.0]), torch.tensor([math.log(4.0), 1.0]), torch.tensor([1.0, 0.0]))
    assert energy.item() == pytest.approx(0.5 * (16 - math.log(4) + math.log(2 * math.pi)), rel=1e-6)


def parameter_gradients(model: GenerativeModel, z: Tensor, x: Tensor, mask: Tensor, prior: Prior) -> dict[str, Tensor]:
    energy = model.free_energy(z, x, mask, prior).sum()
    named = {n: p for n, p in model.named_parameters() if n.startswith(("conditionals", "observation."))}
    return dict(zip(named, torch.autograd.grad(energy, list(named.values()))))


@pytest.mark.parametrize("tied", [(), (3, 0)])
@pytest.mark.parametrize("prior", ["diagonal", "full"])
@pytest.mark.parametrize("graph", ["single", "chain", "diamond"])
def test_learning_gradient(graph: str, prior: str, tied: tuple[int, ...]) -> None:
    """dF/dtheta_n = -(d mu_n / d theta_n)' Lambda_n eps_n, and finite differences of F."""
    model, z, x, mask, p = make(graph, prior, tied)
    weighted = p.weigh(model.latent_error(z, p.drive))
    parts: list[tuple[str, Conditional, Tensor, Tensor]] = []
    for node in model.nodes:
        if node.parents:
            parents = torch.cat([z[:, model.slices[n]] for n in node.parents], -1)
            own = weighted[:, model.slices[node.name]]
            parts.append((f"conditionals.{node.name}", model._conditional(node.name), parents, own))
    free = [i for i in range(D) if i not in tied]
    assert model.observation.free is not None
    error = (mask * p.log_precision_x.exp() * (x - model.predict(z)))[:, free]
    observed = torch.cat([z[:, model.slices[n]] for n in model.observed], -1)
    parts.append(("observation.free", model.observation.free, observed, error))
    gradients = parameter_gradients(model, z, x, mask, p)
    assert len(gradients) == 5 * len(parts)
    for name, part, inputs, weighted_error in parts:
        for key, value in part.named_parameters():

            def mean(v: Tensor, f: Conditional = part, k: str = key, u: Tensor = inputs) -> Tensor:
                result: Tensor = functional_call(f, {k: v}, (u,))[0]
                return result

            jacobian = torch.autograd.functional.jacobian(mean, value.detach())
            formula = -torch.einsum("bo,bo...->...", weighted_error, jacobian)
            close(gradients[f"{name}.{key}"], formula, 1e-11)

            def energy(flat: Tensor, v: Tensor = value) -> Tensor:
                kept = v.detach().clone()
                with torch.no_grad():
                    v.copy_(flat.reshape(v.shape))
                    result = model.free_energy(z, x, mask, p).sum()
                    v.copy_(kept)
                return result

            numeric = finite_differences(energy, value.detach().flatten().clone()).reshape(value.shape)
            assert ((formula - numeric) / formula.abs().clamp(min=1.0)).abs().max() < 1e-8


def test_learning_is_local_to_the_node() -> None:
    """Of the diamond's left node: neither its sibling, nor its child, nor the sensors change its gradient."""
    model, z, x, mask, prior = make("diamond")
    before = parameter_gradients(model, z, x, mask, prior)
    elsewhere = z.clone()
    elsewhere[:, 7:] += 1.0
    after = parameter_gradients(model, elsewhere, x + 1.0, mask, prior)
    left = [n for n in before if n.startswith("conditionals.left")]
    assert len(left) == 5
    assert all(torch.equal(before[n], after[n]) for n in left)
    assert not torch.equal(before["conditionals.join.outer_bias"], after["conditionals.join.outer_bias"])


def test_log_precision_gradient() -> None:
    """dF/dl = 1/2 (e^l eps^2 - 1), and through l = largest - softplus(raw): times -sigmoid(raw)."""
    model, z, x, mask, _ = make("chain")
    drive = torch.randn_like(z)
    model.free_energy(z, x, mask, diagonal_prior(model, drive)).sum().backward()
    cases = (
        (model.latent_log_precision, model.latent_error(z, drive), torch.ones_like(z)),
        (model.observation_log_precision, x - model.predict(z), mask),
    )
    for module, error, seen in cases:
        by_hand = (0.5 * seen * (module().exp() * error.square() - 1)).sum(0)
        assert module.raw.grad is not None
        close(module.raw.grad, -module.raw.sigmoid() * by_hand)


def test_log_precision_comes_to_rest_at_the_sample_variance() -> None:
    torch.manual_seed(0)
    errors = 0.4 * torch.randn(500, 3).double()
    module = LogPrecision(3, 0.0, 0.01).double()
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure() -> Tensor:
        optimizer.zero_grad()
        energy = gaussian_energy(errors, module()).mean()
        energy.backward()
        return energy

    optimizer.step(closure)
    close((-module()).exp(), errors.square().mean(0), 1e-6)


def test_log_precision_is_bounded_and_moves_with_its_context_by_at_most_two() -> None:
    torch.manual_seed(0)
    module = LogPrecision(4, 4.0, 0.01, context=3).double()
    context = 100 * torch.randn(50, 3).double()
    close(module(context), module().expand(50, 4))
    assert module().tolist() == pytest.approx([4.0] * 4, rel=1e-6)
    torch.nn.init.normal_(module.by_state.weight)  # type: ignore[union-attr]
    assert (module(context) - module()).abs().max() > 0.5
    assert (module(context) - module()).abs().max() <= 2.0
    with torch.no_grad():
        module.raw.fill_(-1e3)
    assert (module() <= -2 * math.log(0.01)).all()


@pytest.mark.parametrize("graph", ["single", "chain"])
def test_gradient_for_the_prior_covariance_and_mean(graph: str) -> None:
    """dF/dSigma = 1/2 [S^-1 - S^-1 e e' S^-1]; dF/dmu = -S^-1 e; and Sigma = <e e'> is the fixed point."""
    model, _, _, _, random = make(graph, "full")
    count = 4 * model.size
    x, mask, _, z = draw(count, model.size)
    drive = torch.randn(count, model.size).double().requires_grad_(True)
    error = model.latent_error(z, drive).detach()

    def gradient(covariance: Tensor) -> Tensor:
        covariance.requires_grad_(True)
        precision = torch.linalg.inv(covariance)
        prior = Prior(drive, precision[:, None], torch.logdet(precision), random.log_precision_x)
        return torch.autograd.grad(model.free_energy(z, x, mask, prior).sum(), covariance, retain_graph=True)[0]

    sigma = torch.linalg.inv(random.precision[:1, 0]).expand(count, -1, -1).contiguous()
    inverse = torch.linalg.inv(sigma)
    outer = error.unsqueeze(-1) * error.unsqueeze(-2)
    close(gradient(sigma), 0.5 * (inverse - inverse @ outer @ inverse), 1e-9)
    sample = outer.mean(0).expand(count, -1, -1).contiguous()
    close(gradient(sample).mean(0), torch.zeros(model.size, model.size).double(), 1e-9)
    prior = Prior(drive, inverse[:, None].detach(), torch.logdet(inverse).detach(), random.log_precision_x)
    (for_mean,) = torch.autograd.grad(model.free_energy(z, x, mask, prior).sum(), drive)
    close(for_mean, -(inverse @ error.unsqueeze(-1)).squeeze(-1), 1e-10)


def test_latents_that_are_tied_remember_and_others_leak() -> None:
    """The tied latents are the first of the observed nodes: right's in the fork follow left's."""
    model = GenerativeModel(GRAPHS["fork"], D, A, 7, (3, 0, 4, 1))
    assert model.anchored.tolist() == [False, False, True, True, True, True, False, False]
    assert model.persistence.diagonal().tolist() == pytest.approx([0.9, 0.9, 1, 1, 1, 1, 0.9, 0.9])
    assert not make_model("chain").anchored.any()


def test_prediction_stays_finite_however_long_the_sensors_are_gone() -> None:
    model = GenerativeModel((Node("state", 6),), D, A, 7, (0, 1))
    with torch.no_grad():
        for parameter in model.dynamics.parameters():
            parameter.fill_(3.0)
        z = torch.ones(1, model.size)
        for _ in range(2000):
            z = model.drive(z, torch.ones(1, A))
    assert z.abs().max() == 20.0
