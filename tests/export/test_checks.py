"""The bounds of the sensor checks, with numbers by hand, and how they are raised."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import export.checks
from export.checks import (
    LARGEST_FALSE_ALARM,
    Bounds,
    Ticks,
    calibrate_bounds,
    calibrate_checks,
    find_bounds,
    find_signatures,
    quiet_in_replay,
    replay,
)
from export.record import Recording
from runtime.bundle import Bundle
from runtime.contract import Node
from runtime.errors import GanglionError
from tests.tiny_bundle import tiny_contract, write_tiny_bundle
from tests.training.models import tied_agent
from training.agent.agent import Agent
from training.agent.config import AgentConfig
from training.agent.sensors import AGES, DISTRUSTED, OFF, READING, REPEATS, SLOW, SensorBelief

N, D = 20_000, 4
SLOW_STD = 0.16012815380508713  # sqrt(0.05 / 1.95), of the slow average of white unit noise
CONTRACT = tiny_contract("cartpole")
CHANNELS = CONTRACT.layout.channels


def nominal(innovation: np.ndarray, slow: np.ndarray, repeats: np.ndarray) -> dict[str, np.ndarray]:
    """What the graph would have answered and carried, for (N, D) each."""
    sensors = np.zeros((N, 5, D))
    sensors[:, SLOW], sensors[:, REPEATS] = slow, repeats
    return {"innovation": innovation, "state.sensors": sensors}


QUIET = nominal(*np.zeros((3, N, D))) | {"verdict": np.zeros((N, D))}


def test_bounds_by_hand() -> None:
    innovation, slow, repeats = np.zeros((3, N, D))
    innovation[:, 1] = np.resize((10.0, -10.0), N)
    innovation[0, 2] = 50.0  # one tick in 20 000 is rarer than one in 10 000
    slow[:, 1] = -5.0 * SLOW_STD
    repeats[:, 0] = 1.0
    repeats[:3, 1] = 2.0
    repeats[3, 1] = 3.0
    repeats[:, 3] = 1000.0  # a sensor that repeats itself when all is well
    sensors = SensorBelief(D)
    sensors.signature[D:, 2] = torch.tensor((0.0, 0.96, 0.28, 0.0)) / SLOW_STD  # at the first age
    bounds = find_bounds(sensors, nominal(innovation, slow, repeats))
    np.testing.assert_allclose(bounds.spike, (4.5, 10.0, 4.5, 4.5), rtol=1e-6)
    np.testing.assert_allclose(bounds.drift, [(4.5, 5.0, 4.8, 4.5), *[(4.5, 5.0, 4.5, 4.5)] * 3], rtol=1e-6)
    np.testing.assert_array_equal(bounds.repeats, (2, 3, 2, OFF))


def test_the_slow_average_is_that_of_the_agent() -> None:
    """What the agent carries of constant innovations of 0.5 is, normalised, 0.5 / SLOW_STD."""
    sensors, carried = SensorBelief(D), SensorBelief(D).initial()
    ones = torch.ones(1, D)
    for tick in range(1000):
        _, _, carried = sensors(tick * ones, ones, ones, 0.5 * ones, ones, carried)
    rows = np.repeat(carried.numpy(), N, axis=0)
    ticks = nominal(np.full((N, D), 0.5), rows[:, SLOW], rows[:, REPEATS])
    sensors.signature.mul_(2.0)  # beyond the least bound
    np.testing.assert_allclose(find_bounds(sensors, ticks).drift, 2.0 * 0.5 / SLOW_STD, rtol=1e-4)
    assert carried[0, READING].tolist() == [999.0] * D


@pytest.mark.usefixtures("own_signatures")
def test_required_observations_are_not_checked(agent: Agent) -> None:
    position, velocity = CONTRACT.observations
    observations = (replace(position, min_valid=2), velocity)
    found = calibrate_bounds(agent, 1, lambda attempt: QUIET, observations)
    for values in vars(found.bounds).values():
        np.testing.assert_array_equal(np.atleast_2d(values == OFF).all(0), (True, True, False, False))
        np.testing.assert_array_equal(np.atleast_2d(values == OFF).any(0), (True, True, False, False))


@torch.no_grad()
def replayable(agent: Agent, ticks: int, seed: int = 0, biased: int | None = None, settled: bool = True) -> Ticks:
    """Ticks of a robot that is what the agent's linear model of tied channels says it is.

    From the middle on, channel `biased` is wrong by 5 standard deviations of its noise. Only that half is returned if
    `settled`.
    """
    model, random = agent.model, torch.Generator().manual_seed(seed)
    std = [(-0.5 * p()).exp() for p in (model.latent_log_precision, model.observation_log_precision)]
    z, action, carried = torch.zeros(1, model.size).double(), torch.zeros(1, 1).double(), agent.initial()
    rows: dict[str, list[np.ndarray]] = {}
    for tick in range(ticks):
        noise = torch.randn(2, 1, model.size, generator=random).double()
        z = model.drive(z, action) + std[0] * noise[0]
        bias = 5 * std[1] * (torch.arange(model.size) == biased) * (tick >= ticks // 2)
        given = {"observation": z + std[1] * noise[1] + bias, "mask": torch.ones_like(z), "previous_action": action}
        given["fresh"] = given["mask"]
        given |= {f"state.{name}": value for name, value in carried.items()}
        belief = agent.infer(given["observation"], given["mask"], action, carried, torch.ones(1, dtype=torch.int64),
                             given["mask"])  # fmt: skip
        carried, found = belief.state, {"innovation": belief.start.innovation, "verdict": belief.start.verdict}
        for name, value in (given | found).items():
            rows.setdefault(name, []).append(value.numpy())
    kept = slice(ticks // 2 if settled else 0, None)
    arrays = {name: np.concatenate(values[kept]) for name, values in rows.items()}
    return arrays | {"tick": np.arange(len(arrays["mask"]))}


@torch.no_grad()
def test_a_channel_that_moves_no_other_is_its_own_signature() -> None:
    agent = tied_agent(3)
    signature = find_signatures(agent, 1, replayable(agent, 200), np.array([False, False, True]))
    patterns = signature.reshape(2, 3, len(AGES), 3)
    for row, column in np.ndindex(3, 3):
        moves = bool((np.abs(patterns[:, row, :, column]).max(0) > 1.0).all())
        assert moves == (row == column != 2)
        assert moves or (np.abs(patterns[:, row, :, column]) < 1e-6).all()


@torch.no_grad()
def test_the_signature_of_a_biased_rate_is_in_its_position() -> None:
    """Against the steady Kalman filter: an offset i of the innovations of i = b - d, d <- A (d + K i)."""
    agent = tied_agent(2, noise=1e-4)
    agent.model.persistence[0, 1] = 0.1
    found = find_signatures(agent, 1, replayable(agent, 1000), np.zeros(2, dtype=bool))
    signature = found.reshape(2, 2, len(AGES), 2)
    together = np.array([[0.04 / 0.36, 0.01 / 0.24], [0.01 / 0.24, 0.0025 / 0.0975]])  # covariance of the averages
    move, covariance = np.array([[1.0, 0.1], [0.0, 1.0]]), np.eye(2)
    for _ in range(2000):
        prior = move @ covariance @ move.T + 1e-4 * np.eye(2)
        variance = prior + 0.09 * np.eye(2)
        gain = prior @ np.linalg.inv(variance)
        covariance = prior - gain @ prior
    std = np.sqrt(np.diag(variance))
    for channel in range(2):
        bias, offset, averages, moved = 3 * std * np.eye(2)[channel], np.zeros(2), np.zeros((2, 2)), []
        for _ in range(max(AGES)):
            innovation = bias - offset
            offset = move @ (offset + gain @ innovation)
            pace = np.array([[0.2], [0.05]])
            averages = (1 - pace) * averages + pace * innovation / std
            weighed = np.linalg.solve(together, averages)
            moved.append(weighed / np.sqrt((averages * weighed).sum()))
        expected = np.stack([moved[age - 1] for age in AGES], -1)
        np.testing.assert_allclose(signature[..., channel], expected, atol=2e-2)
    assert signature[1, 0, -1, 1] < -1.0, "the belief follows the rate, and the position disagrees"


@torch.no_grad()
def test_calibrated_checks_tell_a_biased_rate_from_a_biased_position() -> None:
    """Either way the position disagrees in the end."""
    agent = tied_agent(5, noise=1e-4)
    agent.model.persistence[0, 1] = 0.1
    position, _ = CONTRACT.observations
    five: dict[str, Any] = {"channels": tuple("abcde"), "mean": (0.0,) * 5, "scale": (1.0,) * 5, "low": (-9.0,) * 5}
    every = (replace(position, **five, high=(9.0,) * 5, min_valid=0),)
    found = calibrate_bounds(agent, 1, lambda attempt: replayable(agent, 1500, attempt), every)
    assert not found.switched_off.any()
    for channel in (0, 1):
        blamed = [replayable(agent, 300, 100 + seed, channel)["verdict"] == DISTRUSTED for seed in range(2)]
        late = np.concatenate([b[50:] for b in blamed])
        assert late[:, channel].mean() > 0.9, f"channel {channel}: {late.mean(0)}"


def bounds_of_spikes(*spike: float) -> Bounds:
    """Of the single ticks alone."""
    return replace(Bounds.off(len(spike)), spike=np.array(spike))


def test_a_replay_finds_what_was_found_in_flight() -> None:
    agent = tied_agent(3)
    bounds_of_spikes(2.5, 3.0, OFF).put(agent.sensors)
    episodes = [replayable(agent, ticks, seed=ticks, settled=False) for ticks in (200, 50, 120)]
    flown = {name: np.concatenate([e[name] for e in episodes]) for name in episodes[0]}
    assert {0.0, DISTRUSTED} == set(np.unique(flown["verdict"]))
    np.testing.assert_array_equal(replay(agent, 1, flown), flown["verdict"])


def test_bounds_are_raised_until_a_replay_is_quiet() -> None:
    """The largest innovation of channel 0 is m standard deviations: the first 2.0 * 1.1^n above it keeps quiet."""
    agent = tied_agent(3)
    Bounds.off(3).put(agent.sensors)
    flown = replayable(agent, 500, settled=False)
    largest = np.abs(flown["innovation"][:, 0]).max()
    raised = quiet_in_replay(agent, 1, flown, bounds_of_spikes(2.0, OFF, OFF))
    raises = math.ceil(math.log(largest / 2.0) / math.log(1.1))
    assert 3 < raises < 10
    np.testing.assert_allclose(raised.spike, (2.0 * 1.1**raises, OFF, OFF))
    assert (raised.drift >= OFF).all()


def test_signatures_need_episodes_that_last() -> None:
    agent = tied_agent(2)
    short = {name: values[:30] for name, values in replayable(agent, 100).items()}
    with pytest.raises(GanglionError, match="no nominal episode was seen to last 40 ticks"):
        find_signatures(agent, 1, short, np.zeros(2, dtype=bool))


@pytest.fixture
def agent() -> Agent:
    return Agent(AgentConfig(nodes=(Node("state", D),), hidden=4), D, 1)


@pytest.fixture
def own_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake ticks cannot be replayed, neither for signatures nor for bounds."""
    monkeypatch.setattr(export.checks, "find_signatures", lambda *_: SensorBelief(D).signature.numpy())
    monkeypatch.setattr(export.checks, "quiet_in_replay", lambda agent, steps, nominal, bounds: bounds)


def test_bounds_go_into_the_agent(agent: Agent) -> None:
    drift = np.arange(len(AGES) * D).reshape(len(AGES), D)
    Bounds(np.array([4.0, 5, 6, OFF]), drift, np.array([2, 3, 4, OFF])).put(agent.sensors)
    state = agent.state_dict()
    assert state["sensors.spike"].tolist() == [4, 5, 6, OFF]
    assert state["sensors.drift"].tolist() == drift.tolist()
    assert state["sensors.repeats"].tolist() == [2, 3, 4, OFF]


@pytest.mark.usefixtures("own_signatures")
def test_noisy_checks_are_raised_and_in_the_end_switched_off(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channel 0 is gated by any bound below 4 * 1.1^2, channel 1 by any, channel 2 frozen by less than 4 repeats."""
    monkeypatch.setattr(
        export.checks, "find_bounds", lambda *_: Bounds(np.full(D, 4.0), np.full((len(AGES), D), 4.5), np.full(D, 2.0))
    )
    made = []

    def bundle_of(agent: Agent) -> Bundle:
        s = agent.sensors
        made.append(s.spike.tolist())
        verdicts = {
            CHANNELS[0]: 2.0 * bool(s.spike[0] < 4.8),
            CHANNELS[1]: 2.0 * bool(s.spike[1] < OFF),
            CHANNELS[2]: 1.0 * bool(s.repeats[2] < 4),
        }
        return Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "cartpole", 0.3, verdicts=verdicts))

    said: list[str] = []
    _, checks = calibrate_checks(agent, bundle_of, "cartpole", 0, said.append, ticks=1000)
    assert len(made) == 1 + 1 + 15 + 1  # off, first bounds, fifteen raises, switched off
    assert made[-2][1] == pytest.approx(4.0 * 1.1**10 * 1.5**5)
    assert made[0] == [OFF] * D
    assert said[-1] == f"switch a sensor check off, it is wrong too often: {CHANNELS[1]}"
    assert said[:-1] == [f"calibrate the sensor checks, attempt {i}" for i in range(1, len(made) + 1)]
    one, two, three, four = (checks.channels[c] for c in CHANNELS)
    assert one.spike == pytest.approx(4.84)
    assert one.drift == pytest.approx(4.5 * 1.1**2)
    assert one.repeats == 2
    assert (two.spike, two.drift, two.repeats) == (0, 0, 2)
    assert (three.spike, three.drift, three.repeats) == (4, 4.5, 4)  # 2, ceil(2.2) = 3, ceil(3.3) = 4
    assert (four.spike, four.drift, four.repeats) == (4, 4.5, 2)
    assert all(c.gate_false_alarm == c.frozen_false_alarm == 0 for c in checks.channels.values())
    assert checks.ticks > 40
    np.testing.assert_allclose(agent.sensors.spike, (4.84, OFF, 4, 4))


@pytest.mark.usefixtures("own_signatures")
def test_bounds_keep_quiet_also_in_episodes_that_no_attempt_has_seen(agent: Agent) -> None:
    """The tails of channel 0 grow with every masking: bounds from ticks without any are too low."""
    flown: list[tuple[np.ndarray, int]] = []

    def fly(attempt: int) -> Ticks:
        rng, spike = np.random.default_rng(attempt), agent.sensors.spike.numpy().copy()
        innovation = rng.standard_normal((N, D))
        if spike[0] < OFF:
            innovation[:, 0] *= np.where(rng.random(N) < 0.01, 3.0, 1.0)
        flown.append((spike, attempt))
        sensors = nominal(innovation, *np.zeros((2, N, D)))
        return sensors | {"verdict": 2.0 * (np.abs(innovation) > spike)}

    found = calibrate_bounds(agent, 1, fly, CONTRACT.observations)
    assert [attempt for _, attempt in flown] == list(range(len(flown)))
    assert (flown[0][0] == OFF).all()
    first, last = flown[1][0], flown[-1][0]
    np.testing.assert_allclose(found.bounds.spike, last, rtol=1e-6)
    assert last[0] == pytest.approx(1.1 ** (len(flown) - 2) * first[0])
    assert last[0] > first[0]
    np.testing.assert_array_equal(last[1:], first[1:])
    assert not found.switched_off.any()
    assert found.gate.max() < LARGEST_FALSE_ALARM / 2
    unseen = np.mean([(fly(attempt)["verdict"] > 0).mean(0) for attempt in range(1000, 1005)], 0)
    assert unseen.max() < LARGEST_FALSE_ALARM


@pytest.mark.usefixtures("own_signatures")
def test_a_rate_that_is_just_under_the_goal_is_not_trusted(agent: Agent) -> None:
    """14 alarms in 20 000 ticks are 0.07 %, and two raises end them."""

    def fly(attempt: int) -> Ticks:
        verdict = np.zeros((N, D))
        verdict[:14, 2] = 2.0 * bool(agent.sensors.spike[2] < 5.0)
        return nominal(*np.zeros((3, N, D))) | {"verdict": verdict}

    found = calibrate_bounds(agent, 1, fly, CONTRACT.observations)
    np.testing.assert_allclose(found.bounds.spike, (4.5, 4.5, 4.5 * 1.1**2, 4.5))


@pytest.mark.usefixtures("own_signatures")
def test_rare_false_alarms_are_measured_and_left(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two alarms in 5000 ticks of one channel: 0.04 %."""
    monkeypatch.setattr(
        export.checks, "find_bounds", lambda *_: Bounds(np.full(D, 4.0), np.full((len(AGES), D), 4.5), np.full(D, OFF))
    )
    verdict = np.zeros((5000, D))
    verdict[[7, 2000], 3] = 2
    recording = Recording(np.arange(5000), {"verdict": verdict})
    monkeypatch.setattr(export.checks, "record_healthy", lambda *_, **__: recording)
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "cartpole"))
    _, checks = calibrate_checks(agent, lambda agent: bundle, "cartpole", 0, lambda stage: None)
    assert [checks.channels[c].gate_false_alarm for c in CHANNELS] == [0, 0, 0, 4e-4]
    assert {c.repeats for c in checks.channels.values()} == {0}
    assert checks.ticks == 5000
