"""Environments of gymnasium, the PyBullet benchmark among them, as tasks."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import ContractError, GanglionError
from sim.env import make_env
from sim.episode import episode
from sim.tasks import task_class
from sim.vector import VectorEnv
from tests.tiny_bundle import write_tiny_bundle

CHEETAH = "gym:HalfCheetahBulletEnv-v0"


def test_the_contract_of_a_benchmark_environment() -> None:
    task = task_class(CHEETAH)
    assert task.action.joints == ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
    assert len(task.observations[0].channels) == 26
    assert (task.rate_hz, task.episode_steps) == (60.0, 1000)
    assert task.robot.name == "HalfCheetahBulletEnv-v0"


def test_steps_are_those_of_the_environment() -> None:
    ours, theirs = make_env(CHEETAH), gymnasium.make("HalfCheetahBulletEnv-v0").unwrapped
    observation, _ = ours.reset(seed=4)
    expected, _ = theirs.reset(seed=4)
    rng = np.random.default_rng(0)
    for _ in range(20):
        np.testing.assert_array_equal(observation, expected)
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        observation, reward, terminated, _, _ = ours.step(action)
        expected, expected_reward, expected_end, _, _ = theirs.step(action)
        assert (reward, terminated) == (float(expected_reward), bool(expected_end))
    assert ours.stamp_ns[0] == round(20 / 60 * 1e9)
    ours.close()
    theirs.close()


def test_actions_are_scaled_to_the_environment_s_range() -> None:
    """Pendulum takes ±2 N·m; three numbers come back."""
    ours, theirs = make_env("gym:Pendulum-v1"), gymnasium.make("Pendulum-v1").unwrapped
    ours.reset(seed=1)
    theirs.reset(seed=1)
    np.testing.assert_allclose(ours.step(np.array([0.5]))[0], theirs.step(np.array([1.0], np.float32))[0], rtol=1e-6)
    assert ours.task.action.scale == (2.0,)
    assert ours.task.episode_steps == 200
    ours.close()


def test_many_at_once_and_with_faults() -> None:
    env = VectorEnv("gym:Pendulum-v1", 3, 2, seed=0)
    env.reset()
    for _ in range(199):
        assert not env.step(np.zeros((3, 1), np.float32))[3].any()
    assert env.step(np.zeros((3, 1), np.float32))[3].all()
    env.close()
    alone = make_env("gym:Pendulum-v1")
    alone.set_faults(("lost:x1",))
    assert np.isnan(alone.reset(seed=0)[0]).tolist() == [False, True, False]
    with pytest.raises(ContractError, match=r"payload=1.*is not understood"):
        alone.set_faults(("payload=1",))
    alone.close()


def test_a_bundle_controls_it(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b.onnx", "gym:Pendulum-v1", 0.3)
    env = make_env("gym:Pendulum-v1")
    ticks = list(episode(Controller(Bundle.load(path)), env, 0))
    assert len(ticks) == 200
    assert all(abs(t.command.values[0]) <= 2.0 for t in ticks)
    env.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:Nope-v0", "gymnasium has no environment 'Nope-v0'"),
        ("gym:NopeBulletEnv-v9", "gymnasium has no environment 'NopeBulletEnv-v9'"),
        ("gym:", "gymnasium has no environment ''"),
        ("gym:CartPole-v1", r"has actions in Discrete\(2\), expected a Box with one axis"),
    ],
)
def test_what_cannot_be_a_task_is_refused(name: str, message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        task_class(name)
