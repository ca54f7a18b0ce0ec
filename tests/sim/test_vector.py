"""The vectorised environment against single ones."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from runtime.errors import GanglionError
from sim.env import RobotEnv
from sim.randomisation import Draw
from sim.tasks import TASKS
from sim.vector import VectorEnv

N, TICKS = 5, 60


def rollout(task: str, workers: int) -> dict[str, np.ndarray]:
    env = VectorEnv(task, N, workers, seed=7, worlds=[TASKS[task].randomisation])
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


@pytest.mark.parametrize("task", sorted(TASKS))
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


def test_staggered_episodes_end_one_after_the_other() -> None:
    """Pushes of a box last 600 ticks; every environment's second one is a whole one."""
    env = VectorEnv("panda_push", 3, 2, seed=3)
    env.reset(options={"staggered": True})
    still = np.zeros((3, len(TASKS["panda_push"].action.joints)), np.float32)
    ends = [(t, int(i)) for t in range(1, 802) for i in np.flatnonzero(env.step(still)[3])]
    env.close()
    assert ends == [(200, 0), (400, 1), (600, 2), (800, 0)]


def kill(env: VectorEnv, worker: int) -> None:
    pid = env._workers[worker].process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_dead_worker_is_replaced_and_reported() -> None:
    env, alone = VectorEnv("cartpole", 4, 2, seed=3), VectorEnv("cartpole", 4, 1, seed=3)
    actions = np.zeros((4, 1), np.float32)
    last = env.reset()[0].copy()
    alone.reset()
    kill(env, 0)
    with pytest.warns(RuntimeWarning, match=r"worker died \(exit code -9\) and is replaced; environments 0 to 1 begin"):
        observation, reward, terminated, truncated, info = env.step(actions)
    expected, expected_reward, *_ = alone.step(actions)
    assert truncated.tolist() == [True, True, False, False]
    assert not terminated.any()
    np.testing.assert_array_equal(info["final_obs"][:2], last[:2])
    np.testing.assert_array_equal(reward, [0, 0, *expected_reward[2:]])
    np.testing.assert_array_equal(observation[2:], expected[2:])
    assert not np.array_equal(observation[:2], last[:2])
    assert env.deaths == 1
    observation, _, _, truncated, _ = env.step(actions)
    assert not truncated.any()
    assert np.isfinite(observation).all()
    for e in (env, alone):
        e.close()


def test_a_worker_that_dies_again_and_again_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    env = VectorEnv("cartpole", 2, 2)
    env.reset()

    def start(self: object) -> None:
        original(self)  # type: ignore[arg-type]
        kill(env, 0)

    original = type(env._workers[0]).start
    monkeypatch.setattr(type(env._workers[0]), "start", start)
    kill(env, 0)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(GanglionError, match=r"died 3 times in a row .*fewer environments"),
    ):
        env.step(np.zeros((2, 1), np.float32))
    monkeypatch.undo()
    env.close()


def test_a_reset_may_seed_anew() -> None:
    env, other = VectorEnv("cartpole", 3, 1, seed=1), VectorEnv("cartpole", 3, 2, seed=2)
    first = env.reset()[0].copy()
    assert not np.array_equal(first, other.reset()[0])
    np.testing.assert_array_equal(other.reset(seed=1)[0], first)
    np.testing.assert_array_equal(other.reset(seed=[None, 5, None])[0][[0, 2]], first[[0, 2]])
    single = RobotEnv("cartpole")
    np.testing.assert_array_equal(other.reset(seed=[None, 5, None])[0][1], single.reset(seed=5)[0])
    for e in (env, other, single):
        e.close()


def test_environments_take_their_worlds_in_turn() -> None:
    """Three environments, two tables: the second table is that of the second environment."""
    light, heavy = (), (Draw("payload", 5.0, 5.0),)
    action = np.ones((3, 1), np.float32)
    env = VectorEnv("cartpole", 3, 2, seed=4, worlds=[light, heavy])
    bare = [VectorEnv("cartpole", 3, 1, seed=4, worlds=[table]) for table in (light, heavy)]
    for e in (env, *bare):
        e.reset()
    for _ in range(10):
        mixed, lights, heavies = (e.step(action)[0].copy() for e in (env, *bare))
    for e in (env, *bare):
        e.close()
    np.testing.assert_array_equal(mixed, np.stack((lights[0], heavies[1], lights[2])))
    assert not np.array_equal(lights, heavies)


def test_worlds_differ_as_much_as_the_difficulty_allows() -> None:
    table = (Draw("payload", 5.0, 5.0), Draw("motor_strength", 0.5, 0.5))
    action = np.ones((2, 1), np.float32)

    def after(difficulty: float, given: tuple[Draw, ...]) -> np.ndarray:
        env = VectorEnv("cartpole", 2, 1, seed=4, worlds=[given])
        env.set_difficulty(difficulty)
        env.reset()
        for _ in range(10):
            observation = env.step(action)[0].copy()
        env.close()
        return observation

    np.testing.assert_array_equal(
        after(0.0, table), after(1.0, tuple(Draw(d.name, p, p) for d, p in zip(table, (0, 1))))
    )
    half = (Draw("payload", 2.5, 2.5), Draw("motor_strength", 0.75, 0.75))
    np.testing.assert_array_equal(after(0.5, table), after(1.0, half))
    assert not np.array_equal(after(0.5, table), after(1.0, table))


@pytest.mark.parametrize(("count", "workers"), [(2, 3), (1, 0)])
def test_workers_must_fit_the_environments(count: int, workers: int) -> None:
    with pytest.raises(GanglionError, match="workers"):
        VectorEnv("cartpole", count, workers)
