"""The bounds of the sensor checks, with numbers by hand, and how they are raised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import export.checks
from export.checks import LARGEST_FALSE_ALARM, Bounds, Ticks, calibrate_bounds, calibrate_checks, find_bounds
from export.record import Recording
from runtime.bundle import Bundle
from runtime.contract import Node
from tests.tiny_bundle import tiny_contract, write_tiny_bundle
from training.agent.agent import Agent
from training.agent.config import AgentConfig
from training.agent.sensors import OFF, READING, REPEATS, SLOW, SensorBelief

N, D = 20_000, 4
SLOW_STD = 0.1005037815259212  # sqrt(0.02 / 1.98), of the slow average of white unit noise
CONTRACT = tiny_contract("cartpole")
CHANNELS = CONTRACT.layout.channels


def nominal(innovation: np.ndarray, slow: np.ndarray, repeats: np.ndarray) -> dict[str, np.ndarray]:
    """What the graph would have answered and carried, for (N, D) each."""
    sensors = np.zeros((N, 4, D))
    sensors[:, SLOW], sensors[:, REPEATS] = slow, repeats
    return {"innovation": innovation, "state.sensors": sensors}


def test_bounds_by_hand() -> None:
    innovation, slow, repeats = np.zeros((3, N, D))
    innovation[:, 1] = np.resize((10.0, -10.0), N)  # 1.1 times the quantile
    innovation[0, 2] = 50.0  # one tick in 20 000 is rarer than one in 10 000
    slow[:, 1] = -5.0 * SLOW_STD
    repeats[:, 0] = 1.0
    repeats[:3, 1] = 2.0
    repeats[3, 1] = 3.0
    repeats[:, 3] = 1000.0  # a sensor that repeats itself when all is well
    bounds = find_bounds(nominal(innovation, slow, repeats), CONTRACT.observations)
    np.testing.assert_allclose(bounds.spike, (4.0, 11.0, 4.0, 4.0))
    np.testing.assert_allclose(bounds.drift, (4.5, 6.0, 4.5, 4.5))
    np.testing.assert_array_equal(bounds.repeats, (2, 3, 2, OFF))


def test_the_slow_average_is_that_of_the_agent() -> None:
    """What the agent carries of constant innovations of 0.5 is, normalised, 0.5 / SLOW_STD."""
    sensors, carried = SensorBelief(D), SensorBelief(D).initial()
    ones = torch.ones(1, D)
    for tick in range(1000):
        _, carried = sensors(tick * ones, ones, ones, 0.5 * ones, carried)
    rows = np.repeat(carried.numpy(), N, axis=0)
    bounds = find_bounds(nominal(np.full((N, D), 0.5), rows[:, SLOW], rows[:, REPEATS]), CONTRACT.observations)
    np.testing.assert_allclose(bounds.drift, 1.2 * 0.5 / SLOW_STD, rtol=1e-4)
    assert carried[0, READING].tolist() == [999.0] * D


def test_required_observations_are_not_checked() -> None:
    position, velocity = CONTRACT.observations
    observations = (replace(position, min_valid=2), velocity)
    bounds = find_bounds(nominal(*np.zeros((3, N, D))), observations)
    for values in vars(bounds).values():
        np.testing.assert_array_equal(values == OFF, (True, True, False, False))


@pytest.fixture
def agent() -> Agent:
    return Agent(AgentConfig(nodes=(Node("state", D),), hidden=4), D, 1)


def test_bounds_go_into_the_agent(agent: Agent) -> None:
    Bounds(np.array([4.0, 5, 6, OFF]), np.arange(D), np.array([2, 3, 4, OFF])).put(agent.sensors)
    state = agent.state_dict()
    assert state["sensors.spike"].tolist() == [4, 5, 6, OFF]
    assert state["sensors.drift"].tolist() == [0, 1, 2, 3]
    assert state["sensors.repeats"].tolist() == [2, 3, 4, OFF]


def test_noisy_checks_are_raised_and_in_the_end_switched_off(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channel 0 is gated by any bound below 4 * 1.25^2, channel 1 by any, channel 2 frozen by less than 4 repeats."""
    monkeypatch.setattr(
        export.checks, "find_bounds", lambda *_: Bounds(np.full(D, 4.0), np.full(D, 4.5), np.full(D, 2.0))
    )
    made = []

    def bundle_of(agent: Agent) -> Bundle:
        s = agent.sensors
        made.append(s.spike.tolist())
        verdicts = {
            CHANNELS[0]: 2.0 * bool(s.spike[0] < 4.0 * 1.25**2),
            CHANNELS[1]: 2.0 * bool(s.spike[1] < OFF),
            CHANNELS[2]: 1.0 * bool(s.repeats[2] < 4),
        }
        return Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "cartpole", 0.3, verdicts=verdicts))

    said: list[str] = []
    _, checks = calibrate_checks(agent, bundle_of, "cartpole", 0, said.append, episodes=2)
    assert len(made) == 1 + 1 + 5 + 1  # off, first bounds, five raises, switched off
    assert made[0] == [OFF] * D
    assert said == [f"switch a sensor check off, it is wrong too often: {CHANNELS[1]}"]
    one, two, three, four = (checks.channels[c] for c in CHANNELS)
    assert (one.spike, one.drift, one.repeats) == (6.25, 4.5 * 1.25**2, 2)
    assert (two.spike, two.drift, two.repeats) == (0, 0, 2)
    assert (three.spike, three.drift, three.repeats) == (4, 4.5, 4)  # 2, ceil(2.5) = 3, ceil(3.75) = 4
    assert (four.spike, four.drift, four.repeats) == (4, 4.5, 2)
    assert all(c.gate_false_alarm == c.frozen_false_alarm == 0 for c in checks.channels.values())
    assert checks.ticks > 40
    np.testing.assert_allclose(agent.sensors.spike, (6.25, OFF, 4, 4))


def test_bounds_keep_quiet_also_in_episodes_that_no_attempt_has_seen() -> None:
    """The tails of channel 0 grow with every masking: bounds from ticks without any are too low."""
    flown: list[tuple[Bounds, int]] = []

    def fly(bounds: Bounds, attempt: int) -> Ticks:
        rng = np.random.default_rng(attempt)
        innovation = rng.standard_normal((N, D))
        if bounds.spike[0] < OFF:
            innovation[:, 0] *= np.where(rng.random(N) < 0.01, 3.0, 1.0)
        flown.append((bounds, attempt))
        sensors = nominal(innovation, *np.zeros((2, N, D)))
        return sensors | {"verdict": 2.0 * (np.abs(innovation) > bounds.spike)}

    found = calibrate_bounds(fly, CONTRACT.observations)
    assert [attempt for _, attempt in flown] == list(range(len(flown)))
    assert all((b == OFF).all() for b in vars(flown[0][0]).values())
    first, last = flown[1][0], flown[-1][0]
    assert found.bounds is last
    assert last.spike[0] == 1.25 ** (len(flown) - 2) * first.spike[0] > first.spike[0]
    np.testing.assert_array_equal(last.spike[1:], first.spike[1:])
    assert not found.switched_off.any()
    assert found.gate.max() < LARGEST_FALSE_ALARM / 2
    unseen = np.mean([(fly(last, attempt)["verdict"] > 0).mean(0) for attempt in range(1000, 1005)], 0)
    assert unseen.max() < LARGEST_FALSE_ALARM


def test_a_rate_that_is_just_under_the_goal_is_not_trusted() -> None:
    """14 alarms in 20 000 ticks are 0.07 %, and one raise ends them."""

    def fly(bounds: Bounds, attempt: int) -> Ticks:
        verdict = np.zeros((N, D))
        verdict[:14, 2] = 2.0 * (bounds.spike[2] < 5.0)
        return nominal(*np.zeros((3, N, D))) | {"verdict": verdict}

    np.testing.assert_array_equal(calibrate_bounds(fly, CONTRACT.observations).bounds.spike, (4.0, 4.0, 5.0, 4.0))


def test_rare_false_alarms_are_measured_and_left(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two alarms in 5000 ticks of one channel: 0.04 %."""
    monkeypatch.setattr(
        export.checks, "find_bounds", lambda *_: Bounds(np.full(D, 4.0), np.full(D, 4.5), np.full(D, OFF))
    )
    verdict = np.zeros((5000, D))
    verdict[[7, 2000], 3] = 2
    recording = Recording(np.arange(5000), {"verdict": verdict})
    monkeypatch.setattr(export.checks, "record_nominal", lambda *_: recording)
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "cartpole"))
    _, checks = calibrate_checks(agent, lambda agent: bundle, "cartpole", 0, pytest.fail)
    assert [checks.channels[c].gate_false_alarm for c in CHANNELS] == [0, 0, 0, 4e-4]
    assert {c.repeats for c in checks.channels.values()} == {0}
    assert checks.ticks == 5000
