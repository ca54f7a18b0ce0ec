"""The vectorised environment against single ones."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from runtime.errors import GanglionError
from sim.env import RobotEnv
from sim.vector import VectorEnv

N, TICKS = 5, 60


def rollout(task: str, workers: int) -> dict[str, np.ndarray]:
    env = VectorEnv(task, N, workers, seed=7)
    rng = np.random.default_rng(0)
    rows: dict[str, list[np.ndarray]] = {"observation": [env.reset()[0].copy()], "reward": [], "done": [], "final": []}
    for _ in range(TICKS):
        actions = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(actions)
        rows["observation"].append(observation.copy())
        rows["reward"].append(reward.copy())
        rows["done"].append(terminated | truncated)
        rows["final"].append(info["final_obs"].copy())
    env.close()
    return {k: np.stack(v) for k, v in rows.items()}


@pytest.mark.parametrize("task", ["cartpole", "kuka_reach"])
def test_same_bytes_whatever_the_number_of_workers(task: str) -> None:
    one, three = rollout(task, 1), rollout(task, 3)
    assert all(np.array_equal(one[k], three[k]) for k in one)


def test_same_as_single_environments_with_correct_final_observations() -> None:
    got = rollout("cartpole", 2)
    assert got["done"].any(), "random pushes drop the pole"
    seeds = [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(7).spawn(N)]
    rng = np.random.default_rng(0)
    actions = np.stack([rng.uniform(-1, 1, (N, 1)).astype(np.float32) for _ in range(TICKS)])
    for i in range(N):
        env = RobotEnv("cartpole")
        expected = env.reset(seed=seeds[i])[0]
        for t in range(TICKS):
            assert np.array_equal(got["observation"][t, i], expected)
            expected, reward, terminated, truncated, _ = env.step(actions[t, i])
            assert got["reward"][t, i] == reward
            assert got["done"][t, i] == (terminated or truncated)
            if terminated or truncated:
                assert np.array_equal(got["final"][t, i], expected)
                expected = env.reset()[0]
        env.close()


def test_a_dead_worker_is_one_clear_error() -> None:
    env = VectorEnv("cartpole", 2, 2)
    env.reset()
    pid = env._workers[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(GanglionError, match="worker died"):
        env.step(np.zeros((2, 1), np.float32))
    env.close()


@pytest.mark.parametrize(("count", "workers"), [(2, 3), (1, 0)])
def test_workers_must_fit_the_environments(count: int, workers: int) -> None:
    with pytest.raises(GanglionError, match="workers"):
        VectorEnv("cartpole", count, workers)
