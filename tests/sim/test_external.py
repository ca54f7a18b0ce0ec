"""Environments of gymnasium, the PyBullet benchmark among them, as tasks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

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


def test_choices_are_evenly_spaced_commands_of_one_channel() -> None:
    assert task_class("gym:CartPole-v1").choices == ((-1.0,), (1.0,))
    assert task_class("gym:Acrobot-v1").choices == ((-1.0,), (0.0,), (1.0,))
    assert task_class("gym:CartPole-v1").action.joints == ("joint_0",)
    assert task_class("gym:CartPole-v1").episode_steps == 500
    assert task_class("gym:Pendulum-v1").choices == ()


def test_a_choice_is_its_index_in_the_environment() -> None:
    """Acrobot's torques are -1, 0 and 1 N m at 0, 1 and 2."""
    ours, theirs = make_env("gym:Acrobot-v1"), gymnasium.make("Acrobot-v1").unwrapped
    observation, _ = ours.reset(seed=2)
    expected, _ = theirs.reset(seed=2)
    for index in (0, 2, 1, 1, 2, 0, 2):
        np.testing.assert_array_equal(observation, expected.astype(np.float64))
        observation, reward, _, _, _ = ours.step(np.array(ours.task.choices[index]))
        expected, expected_reward, _, _, _ = theirs.step(index)
        assert reward == float(expected_reward)
    ours.close()
    theirs.close()


class Odd(gymnasium.Env[np.ndarray, Any]):
    """Rewards with the action it was given."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, space: gymnasium.Space[Any], render_mode: str | None = None) -> None:
        self.action_space = space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        return np.zeros(2), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return np.zeros(2), float(action), False, False, {}


@pytest.fixture(autouse=True)
def odd_environments() -> Iterator[None]:
    spaces = {
        "Shifted-v0": gymnasium.spaces.Discrete(4, start=3),
        "Pair-v0": gymnasium.spaces.MultiDiscrete([2, 3]),
    }
    for name, space in spaces.items():
        gymnasium.register(name, partial(Odd, space))
    yield
    for name in spaces:
        del gymnasium.registry[name]


def test_choices_count_from_the_start_of_the_space() -> None:
    env = make_env("gym:Shifted-v0")
    env.reset(seed=0)
    np.testing.assert_allclose(np.array(env.task.choices)[:, 0], [-1, -1 / 3, 1 / 3, 1])
    assert [env.step(np.array(choice))[1] for choice in env.task.choices] == [3.0, 4.0, 5.0, 6.0]
    env.close()


def test_a_command_between_two_choices_is_the_nearest() -> None:
    """As a controller that is ramped in gives it."""
    env = make_env("gym:Shifted-v0")
    env.reset(seed=0)
    assert [env.step(np.array([c]))[1] for c in (-0.7, -0.6, 0.1, 0.6, 0.7)] == [3.0, 4.0, 5.0, 5.0, 6.0]
    env.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:Nope-v0", "gymnasium has no environment 'Nope-v0'"),
        ("gym:NopeBulletEnv-v9", "gymnasium has no environment 'NopeBulletEnv-v9'"),
        ("gym:", "gymnasium has no environment ''"),
        (
            "gym:Pair-v0",
            r"has actions in MultiDiscrete\(\[2 3\]\), expected a Box with one axis or a Discrete",
        ),
        ("gym:FrozenLake-v1", r"has observations in Discrete\(16\), expected a Box with one axis"),
    ],
)
def test_what_cannot_be_a_task_is_refused(name: str, message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        task_class(name)
