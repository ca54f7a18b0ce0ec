"""The offline benchmarks' own arithmetic; what they measure takes minutes and is in the docs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.from_bags import autoregression, tables
from benchmarks.off_policy import spearman
from runtime.contract import Layout
from sim.tasks import task_class


def test_ranks_are_correlated() -> None:
    assert spearman([1.0, 5.0, 9.0], [0.1, 0.2, 7.0]) == pytest.approx(1.0)
    assert spearman([1.0, 5.0, 9.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert spearman([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]) == pytest.approx(0.8)


def test_an_autoregression_finds_a_linear_process() -> None:
    """x_t = M x_{t-1} + 0.5 u_t + noise of 0.01: what is left of the prediction is the noise."""
    task = task_class("cartpole")
    layout, rng = Layout(task.observations, task.action), np.random.default_rng(0)
    matrix = np.diag([0.9, 0.8, 0.7, -0.5]) + 0.1 * np.eye(4, k=1)
    x, u = np.zeros((600, 4)), rng.standard_normal((600, 1))
    for t in range(1, 600):
        x[t] = matrix @ x[t - 1] + 0.5 * u[t] + 0.01 * rng.standard_normal(4)
    learned = np.arange(600) < 400
    predicted = autoregression(x, np.ones_like(x, bool), u, learned, layout)
    np.testing.assert_allclose((predicted - x)[~learned].std(0), 0.01, rtol=0.2)


def test_tables_tell_every_sensor_and_joint() -> None:
    row = {"bundle": 1.0, "hold": 2.0, "autoregression": 1.5, "below_hold": [0.75, 0.5, 0.9],
           "below_autoregression": [0.5, -0.1, 0.7]}  # fmt: skip
    lines = list(tables({"sensors": {"imu": row}, "channels": {"imu.x": row}, "command": {"bundle": {"vx": 0.25}}}))
    assert "| imu | 1.0000 | 2.0000 | 1.5000 | 75% (50% to 90%) | 50% (-10% to 70%) |" in lines
    assert "| bundle | 0.250 |" in lines
