"""The classical trust region method on functions whose minima are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.trust_region import Region, constrained_minimum, minimise

HESSIAN = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
SLOPE = torch.tensor([-5.0, -5.0], dtype=torch.float64)
START = torch.zeros(2, dtype=torch.float64)


def quadratic(x: Tensor) -> Tensor:
    """Least at H x = -g: x = (1, 2)."""
    return SLOPE @ x + 0.5 * x @ HESSIAN @ x


def valley(x: Tensor) -> Tensor:
    """Rosenbrock's, least at (1, 1)."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_a_quadratic_is_its_own_model() -> None:
    """rho = 1 in every step; the radius 0.1 doubles until the minimum (1, 2) lies inside."""
    path = minimise(quadratic, START, 0.1, 20)
    assert [ratio for _, ratio, _ in path] == pytest.approx([1.0] * len(path), abs=1e-9)
    assert [radius for _, _, radius in path] == pytest.approx([0.1 * 2 ** (k + 1) for k in range(len(path))])
    steps = torch.stack([START, *[x for x, _, _ in path]]).diff(dim=0).norm(dim=1)
    assert steps[:-1].tolist() == pytest.approx([0.1 * 2**k for k in range(len(path) - 1)])
    assert path[-1][0].tolist() == pytest.approx([1.0, 2.0], abs=1e-9)


@pytest.mark.parametrize(("ratio", "factor"), [(-1.0, 0.25), (0.2499, 0.25), (0.25, 1.0), (0.7499, 1.0), (0.75, 2.0)])
def test_the_radius_shrinks_under_eta_1_and_grows_from_eta_2_on(ratio: float, factor: float) -> None:
    assert Region().radius(3.0, ratio) == pytest.approx(3.0 * factor)


def test_a_step_that_the_model_promised_too_much_for_is_refused() -> None:
    """f = x + 10 x^4 at 0 has the model x: the step -1 is promised a reduction of 1 and brings one of -9, rho = -9."""
    (x, ratio, radius), *_ = minimise(lambda x: (x + 10 * x**4).sum(), torch.zeros(1, dtype=torch.float64), 1.0, 1)
    assert ratio == pytest.approx(-9.0)
    assert (x.item(), radius) == (0.0, 0.25)


def test_the_step_is_the_newton_step_inside_and_on_the_boundary_outside() -> None:
    newton = torch.linalg.solve(HESSIAN, -SLOPE)
    torch.testing.assert_close(constrained_minimum(SLOPE, HESSIAN, 10.0), newton)
    assert constrained_minimum(SLOPE, HESSIAN, 0.3).norm().item() == pytest.approx(0.3)
    downhill = constrained_minimum(SLOPE, -HESSIAN, 2.0)
    torch.testing.assert_close(downhill, 2.0 * torch.ones(2, dtype=torch.float64) / 2**0.5)


def test_the_valley_is_followed_to_its_end() -> None:
    path = minimise(valley, torch.tensor([-1.2, 1.0], dtype=torch.float64), 1.0, 100)
    assert path[-1][0].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert any(ratio < 0.25 for _, ratio, _ in path), "some steps were refused"
    values = [valley(x).item() for x, _, _ in path]
    assert values == sorted(values, reverse=True), "none that was taken went up"
