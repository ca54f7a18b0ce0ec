from __future__ import annotations

import gymnasium
import numpy as np
import pybullet_envs_gymnasium  # noqa: F401  registers the benchmark
import pytest

from sim.env import make_env
from sim.walkers import hasten


@pytest.mark.parametrize("name", ["HalfCheetah", "Hopper", "Ant", "Humanoid"])
def test_a_hastened_walker_observes_and_earns_the_same_to_the_last_bit(name: str) -> None:
    plain, fast = (gymnasium.make(f"{name}BulletEnv-v0").unwrapped for _ in range(2))
    hasten(fast)
    rng = np.random.default_rng(0)
    touched = 0
    for episode in range(2):  # the scene adds its parts between the first and the second
        expected, got = (env.reset(seed=episode)[0] for env in (plain, fast))
        np.testing.assert_array_equal(got, expected)
        for _ in range(100):
            action = rng.uniform(-1.2, 1.2, plain.action_space.shape).astype(np.float32)
            one, other = plain.step(action), fast.step(action)
            np.testing.assert_array_equal(other[0], one[0])
            assert other[1:4] == one[1:4]
            touched += int(fast.get_wrapper_attr("robot").feet_contact.any())
    assert touched
    plain.close()
    fast.close()


def test_what_is_no_walker_stays_as_it_is() -> None:
    env = gymnasium.make("ReacherBulletEnv-v0").unwrapped
    before = set(vars(env.get_wrapper_attr("robot")))
    hasten(env)
    assert set(vars(env.get_wrapper_attr("robot"))) == before
    hasten(gymnasium.make("Pendulum-v1").unwrapped)


def test_the_benchmark_s_tasks_are_hastened() -> None:
    env = make_env("gym:HopperBulletEnv-v0")
    assert "calc_state" in vars(env._env.robot)  # type: ignore[attr-defined]
    env.close()
