"""Block-diagonal algebra against dense matrices, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.training.models import dense, draw, make_agent
from training.agent import blocks
from training.agent.config import InferenceConfig

shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))  # batch, blocks, their size


def positive(batch: int, count: int, size: int) -> Tensor:
    root = torch.randn(batch, count, size, size).double()
    return root @ root.mT + 0.1 * torch.eye(size).double()


def diagonal_blocks(matrix: Tensor, count: int) -> Tensor:
    size = matrix.shape[-1] // count
    return torch.stack([matrix[:, i * size : (i + 1) * size, i * size : (i + 1) * size] for i in range(count)], 1)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def saturate(matrix: Tensor, largest: float) -> Tensor:
    covariance = blocks.Covariance.saturated(matrix, largest)
    close(covariance.inverse() @ covariance.matrix, torch.eye(matrix.shape[-1]).to(matrix).expand_as(matrix), 1e-7)
    return covariance.matrix


def log_determinant(matrix: Tensor) -> Tensor:
    return blocks.Covariance.saturated(matrix, math.inf).log_det()


@given(shapes, st.integers(1, 5), st.integers(0, 2**31))
def test_every_operation_equals_dense_algebra(shape: tuple[int, int, int], channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    batch, count, size = shape
    matrix, z = positive(*shape), count * size
    full, vector = dense(matrix), torch.randn(batch, z).double()
    rows, jacobian = torch.randn(batch, z, z).double(), torch.randn(batch, channels, z).double()
    weights = torch.rand(batch, channels).double()
    close(blocks.times(matrix, vector), (full @ vector.unsqueeze(-1)).squeeze(-1))
    stacked = torch.randn(3, batch, z).double()
    close(blocks.times(matrix, stacked), torch.stack([(full @ v.unsqueeze(-1)).squeeze(-1) for v in stacked]))
    close(blocks.congruence(rows, matrix), diagonal_blocks(rows @ full @ rows.mT, count))
    close(blocks.gram(jacobian, weights, count), diagonal_blocks(jacobian.mT @ weights.diag_embed() @ jacobian, count))
    close(blocks.spread(jacobian, matrix), (jacobian @ full @ jacobian.mT).diagonal(dim1=-2, dim2=-1))
    close(log_determinant(matrix), torch.logdet(full), 1e-8)
    inverse = blocks.symmetric_inverse(matrix)
    close(dense(inverse) @ full, torch.eye(z).double().expand(batch, z, z), 1e-8)
    assert torch.equal(inverse, inverse.mT)


def test_size_one_is_a_diagonal() -> None:
    torch.manual_seed(0)
    variances, vector, rows = torch.rand(3, 4).double() + 0.1, torch.randn(3, 4).double(), torch.randn(3, 4, 4).double()
    matrix = variances.reshape(3, 4, 1, 1)
    close(blocks.times(matrix, vector), variances * vector, 1e-15)
    close(blocks.congruence(rows, matrix).flatten(1), (rows.square() * variances.unsqueeze(-2)).sum(-1), 1e-15)
    close(blocks.spread(rows, matrix), (rows.square() * variances.unsqueeze(-2)).sum(-1), 1e-15)
    close(blocks.gram(rows, vector, 4).flatten(1), (rows.square() * vector.unsqueeze(-1)).sum(-2), 1e-15)
    close(log_determinant(matrix), variances.log().sum(-1), 1e-14)
    close(blocks.symmetric_inverse(matrix).flatten(1), 1 / variances, 1e-15)


def test_the_inverse_has_the_gradient_of_an_inverse() -> None:
    torch.manual_seed(0)
    matrix = positive(2, 2, 3).requires_grad_(True)
    assert torch.autograd.gradcheck(blocks.inverse, (matrix,))
    assert torch.autograd.gradcheck(log_determinant, (matrix,))


def test_identity() -> None:
    assert torch.equal(dense(blocks.identity(3, 2)), torch.eye(6)[None])


def test_saturation_by_hand() -> None:
    """Variances 40 and 4, correlation 0.5, at most 10: the first row and column are halved, the correlation stays."""
    covariance = 0.5 * math.sqrt(40 * 4)
    matrix = torch.tensor([[[[40.0, covariance], [covariance, 4.0]]]]).double()
    half = covariance / 2
    close(saturate(matrix, 10.0), torch.tensor([[[[10.0, half], [half, 4.0]]]]).double(), 1e-6)
    assert half / math.sqrt(10 * 4) == pytest.approx(0.5)


@given(shapes, st.floats(0.1, 20.0), st.integers(0, 2**31))
def test_saturation_keeps_correlations_and_what_is_below_the_bound(
    shape: tuple[int, int, int], largest: float, seed: int
) -> None:
    torch.manual_seed(seed)
    matrix = 5.0 * positive(*shape)
    saturated = saturate(matrix, largest)
    before, after = (m.diagonal(dim1=-2, dim2=-1) for m in (matrix, saturated))
    close(after, before.clamp(max=largest))
    scaled = [m / (v.unsqueeze(-1) * v.unsqueeze(-2)).sqrt() for m, v in ((matrix, before), (saturated, after))]
    close(scaled[0], scaled[1])


def test_log_determinant_holds_where_the_determinant_itself_underflows() -> None:
    """det = 1e-6^8 = 1e-48 is below the smallest float32."""
    matrix = 1e-6 * torch.eye(8).reshape(1, 1, 8, 8)
    assert torch.linalg.det(matrix).item() == 0.0
    assert log_determinant(matrix).item() == pytest.approx(-48 * math.log(10), rel=1e-6)


@pytest.mark.parametrize(("graph", "size"), [("single", 1), ("single", 3), ("chain", 2)])
def test_runs_in_blocks_stay_sound_and_guarded(graph: str, size: int) -> None:
    agent = make_agent(graph, InferenceConfig("gauss_newton", covariance_block=size))
    count, state, steps = agent.model.size // size, agent.initial(16), torch.full((16,), 2)
    with torch.no_grad():
        for tick in range(60):
            x, mask, action, _ = draw(16, agent.model.size)
            mask = mask * float(tick % 30 < 15)  # and half of the time without any sensor
            belief = agent.infer(x, mask, action, state, steps)
            before = agent.model.free_energy(belief.start.z, x, mask, belief.start.prior)
            assert (belief.free_energy <= before + 1e-10 * before.abs()).all()
            state = belief.state
            assert state["P"].shape == (16, count, size, size)
            assert torch.linalg.eigvalsh(state["P"]).min() > 0
            assert state["z"].isfinite().all()
