"""Sensors against what they are said to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.contract import Observation
from sim.sensors import Sensor, SensorSuite

TICK_S = 0.01


def sensor(name: str = "a", channels: tuple[str, ...] = ("x",), **errors: Any) -> Sensor:
    n = len(channels)
    observation = Observation(
        name, "point", "t", channels, "m", (0.0,) * n, (1.0,) * n, (-9.0,) * n, (9.0,) * n, 1.0, 0
    )
    return Sensor(observation, lambda sim, task: np.zeros(n), **errors)


def readings(suite: SensorSuite, clean: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Readings, times when they were true, and times of arrival, each (T, D), of what is true (T, D)."""
    rng = np.random.default_rng(seed)
    rows = []
    for tick, row in enumerate(clean):
        (suite.reset if tick == 0 else suite.advance)(row, rng)
        rows.append((suite.values.copy(), suite.measured_s.copy(), suite.received_s.copy()))
    values, measured, received = (np.stack(column) for column in zip(*rows, strict=True))
    return values, measured, received


RAMP = np.arange(40.0)[:, None]
"""One metre per tick."""


def test_a_perfect_sensor_reads_what_is_true_now() -> None:
    values, measured, received = readings(SensorSuite((sensor(),), TICK_S), RAMP)
    np.testing.assert_array_equal(values, RAMP)
    np.testing.assert_allclose(measured, TICK_S * RAMP)
    np.testing.assert_allclose(received, TICK_S * RAMP)


def test_white_noise_per_channel_and_its_factor() -> None:
    suite = SensorSuite((sensor(channels=("x", "y"), noise=(0.1, 0.0)), sensor("b", noise=(0.3,))), TICK_S)
    values, _, _ = readings(suite, np.zeros((4000, 3)))
    np.testing.assert_allclose(values.std(0), [0.1, 0.0, 0.3], rtol=0.05)
    suite.noise_factor = 2.0
    values, _, _ = readings(suite, np.zeros((4000, 3)))
    np.testing.assert_allclose(values.std(0), [0.2, 0.0, 0.6], rtol=0.05)


def test_quantised_readings_are_multiples_of_the_step() -> None:
    values, _, _ = readings(SensorSuite((sensor(quantum=0.25),), TICK_S), np.linspace(-1, 1, 33)[:, None])
    np.testing.assert_array_equal(values, np.round(np.linspace(-1, 1, 33)[:, None] / 0.25) * 0.25)


def test_latency_shows_what_was_true_between_ticks() -> None:
    """15 ms are one and a half ticks; before the first tick all stood still."""
    values, measured, received = readings(SensorSuite((sensor(latency_s=0.015),), TICK_S), RAMP)
    np.testing.assert_allclose(values[2:, 0], RAMP[2:, 0] - 1.5)
    np.testing.assert_allclose(values[:2, 0], [0.0, 0.0])
    np.testing.assert_allclose(measured[2:, 0], TICK_S * (RAMP[2:, 0] - 1.5))
    np.testing.assert_allclose(received, TICK_S * RAMP)


def test_a_slow_sensor_repeats_itself_and_arrives_at_its_own_rate() -> None:
    """25 Hz at a control rate of 100 Hz."""
    values, measured, received = readings(SensorSuite((sensor(rate_hz=25.0),), TICK_S), RAMP)
    expected = np.floor(RAMP / 4) * 4
    np.testing.assert_allclose(values, expected)
    np.testing.assert_allclose(measured, TICK_S * expected)
    np.testing.assert_allclose(received, TICK_S * expected)


def test_a_slow_and_late_sensor() -> None:
    """25 Hz and 15 ms late: what was true at tick 4 n arrives in tick 4 n + 2."""
    values, measured, received = readings(SensorSuite((sensor(rate_hz=25.0, latency_s=0.015),), TICK_S), RAMP)
    arrivals = np.flatnonzero(np.diff(received[:, 0])) + 1
    assert arrivals.tolist() == list(range(2, 40, 4))
    np.testing.assert_allclose(values[arrivals, 0], arrivals - 2)
    np.testing.assert_allclose(measured[arrivals, 0], TICK_S * (arrivals - 2))


def test_jitter_stays_within_its_bound_and_never_goes_back() -> None:
    _, measured, received = readings(SensorSuite((sensor(latency_s=0.01, jitter_s=0.008),), TICK_S), RAMP)
    age = received[5:, 0] - measured[5:, 0]
    assert (age >= 0.01 - 1e-9).all()
    assert (age <= 0.018 + 1e-9).all()
    assert age.std() > 1e-3
    assert (np.diff(measured[5:, 0]) >= 0).all()


def test_latency_may_be_added_to_every_sensor() -> None:
    suite = SensorSuite((sensor(),), TICK_S)
    suite.extra_latency_s = 0.02
    values, _, _ = readings(suite, RAMP)
    np.testing.assert_allclose(values[2:, 0], RAMP[2:, 0] - 2)


def test_a_bias_starts_and_walks() -> None:
    """Variance after T seconds: bias^2 + walk^2 T."""
    suite = SensorSuite((sensor(bias=0.3, bias_walk=0.4),), TICK_S)
    ends = np.array([readings(suite, np.zeros((101, 1)), seed)[0][[0, -1], 0] for seed in range(600)])
    np.testing.assert_allclose(ends.std(0), [0.3, 0.5], rtol=0.08)


def test_velocity_from_the_encoder_s_own_readings() -> None:
    suite = SensorSuite((sensor(quantum=0.5), sensor("v", differenced="a")), TICK_S)
    clean = np.stack((0.3 * np.arange(6.0), np.full(6, 30.0)), 1)
    values, _, _ = readings(suite, clean)
    np.testing.assert_allclose(values[:, 0], [0.0, 0.5, 0.5, 1.0, 1.0, 1.5])
    np.testing.assert_allclose(values[:, 1], [0.0, 50.0, 0.0, 50.0, 0.0, 50.0])


def test_a_direction_has_length_one() -> None:
    suite = SensorSuite((sensor(channels=("x", "y", "z"), noise=(0.2,) * 3, direction=True),), TICK_S)
    values, _, _ = readings(suite, np.tile([0.0, 0.6, 0.8], (50, 1)))
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1.0, rtol=1e-12)
    assert values.std() > 0.01


@pytest.mark.parametrize("errors", [{}, {"latency_s": 0.003, "jitter_s": 0.01, "rate_hz": 30.0, "bias": 0.1}])
def test_the_same_seed_gives_the_same_readings(errors: dict[str, Any]) -> None:
    suite = SensorSuite((sensor(noise=(0.1,), **errors),), TICK_S)
    first, _, _ = readings(suite, RAMP, 3)
    readings(suite, RAMP, 4)
    np.testing.assert_array_equal(readings(suite, RAMP, 3)[0], first)
