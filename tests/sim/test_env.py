from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sim.env  # noqa: F401  registers the tasks
from runtime.errors import GanglionError
from sim.env import RobotEnv
from sim.tasks import TASKS

TICKS = 40


def episode(env: RobotEnv, seed: int, ticks: int = TICKS) -> bytes:
    """Every number that an episode of drawn actions gives."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    out = [observation.tobytes()]
    for _ in range(ticks):
        observation, reward, terminated, _, info = env.step(rng.uniform(-1, 1, env.action_space.shape))
        out += [observation.tobytes(), np.float64(reward).tobytes(), repr(sorted(info.items())).encode()]
        if terminated:
            break
    return b"".join(out)


@pytest.fixture(params=sorted(TASKS))
def env(request: pytest.FixtureRequest) -> Iterator[RobotEnv]:
    env = RobotEnv(request.param)
    yield env
    env.close()


# Observations are SI values with noise: their ranges are in the contract, not in the space.
@pytest.mark.filterwarnings(
    "ignore:.*A Box observation space (minimum|maximum) value is (-)?infinity:UserWarning",
    "ignore:.*Casting input x to numpy array:UserWarning",
)
def test_gymnasium_accepts_every_task(env: RobotEnv) -> None:
    check_env(env, skip_render_check=True)


def test_same_seed_same_bytes_whatever_came_before(env: RobotEnv) -> None:
    first = episode(env, 5)
    episode(env, 6, ticks=17)
    assert episode(env, 5) == first
    other = RobotEnv(env.task.name)
    episode(other, 99, ticks=3)
    assert episode(other, 5) == first
    other.close()
    assert episode(env, 6) != first


@pytest.mark.parametrize("task", sorted(TASKS))
def test_registered_with_gymnasium(task: str) -> None:
    env = gymnasium.make(f"ganglion/{task}-v0", disable_env_checker=True)
    observation, _ = env.reset(seed=1)
    plain = RobotEnv(task)
    np.testing.assert_array_equal(observation, plain.reset(seed=1)[0])
    assert env.spec is not None
    assert env.spec.max_episode_steps == TASKS[task].episode_steps
    env.close()
    plain.close()


def test_observations_lie_in_the_ranges_of_the_contract(env: RobotEnv) -> None:
    low = np.array([v for o in env.task.observations for v in o.low])
    high = np.array([v for o in env.task.observations for v in o.high])
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert observation.shape == low.shape
        assert (observation > low).all()
        assert (observation < high).all()


def test_commands_are_limited_as_on_the_robot() -> None:
    env = RobotEnv("kuka_reach")
    env.reset(seed=0)
    start = env.sim.joint_states()[0]
    for _ in range(10):
        env.advance(np.full(7, 100.0))
    moved = env.sim.joint_states()[0] - start
    assert (moved > 0.05).all()
    assert (moved <= 10 * 0.015 + 1e-6).all()  # ten ticks at 1.5 rad/s
    env.close()


@pytest.mark.parametrize("action", [np.zeros(3), np.full(7, np.nan)])
def test_bad_actions_are_refused(action: np.ndarray) -> None:
    env = RobotEnv("kuka_reach")
    env.reset(seed=0)
    with pytest.raises(GanglionError, match=r"the action must be \(7,\) finite numbers"):
        env.step(action)
    env.close()


def test_unknown_task() -> None:
    with pytest.raises(GanglionError, match="no task 'juggle'; expected one of a1_stand, a1_walk, cartpole"):
        RobotEnv("juggle")
