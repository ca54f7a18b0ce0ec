"""What the tasks promise, worked by hand."""

from __future__ import annotations

import numpy as np

from sim.env import RobotEnv


def test_the_reach_target_jumps_once_per_episode_and_is_then_held() -> None:
    env = RobotEnv("kuka_reach")
    env.reset(seed=3)
    targets = [env.own.observe(env.sim)[-3:]]
    for _ in range(400):
        env.step(np.zeros(7))
        targets.append(env.own.observe(env.sim)[-3:])
    moved = np.linalg.norm(np.diff(targets, axis=0), axis=1)
    assert np.flatnonzero(moved > 0.01).tolist() == [200], "one jump, in the 201st tick"
    assert (moved[:200] > 0).all(), "drift before it"
    assert (moved[:200] < 0.05 * np.sqrt(3) / 100 + 1e-12).all(), "of at most 5 cm/s per axis"
    assert (moved[201:] == 0).all(), "held after it"
    env.close()


def test_reach_succeeds_if_the_last_half_second_is_within_2_cm() -> None:
    env = RobotEnv("kuka_reach")
    env.reset(seed=3)
    hold = np.zeros(7)
    for tick in range(400):
        if tick >= 300:  # the held target comes to where the arm is
            env.own.target[:] = env.own.observe(env.sim)[14:17] + np.array((0.0, 0.0, 0.015))  # type: ignore[attr-defined]
        info = env.step(hold)[4]
        assert info["success"] == (tick >= 349), "50 ticks after it came"
    assert abs(info["tracking_error_m"] - 0.015) < 1e-3
    env.close()


def test_cartpole_ends_when_the_pole_falls() -> None:
    env = RobotEnv("cartpole")
    env.reset(seed=0)
    ticks, terminated = 0, False
    while not terminated and ticks < 500:
        _, reward, terminated, _, info = env.step(np.ones(1))
        ticks += 1
    assert terminated
    assert ticks < 100
    assert reward == 0.0
    assert not info["success"]
    assert info["angle_rad"] > 0.4
    env.close()
