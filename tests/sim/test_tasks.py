"""What the tasks promise, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sim.env import RobotEnv
from sim.simulation import BaseState
from sim.tasks.a1_walk import A1Walk


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


def test_walking_is_judged_in_the_frame_of_its_heading() -> None:
    """A robot that is moved at the commanded velocity makes no error, whatever its heading."""
    env = RobotEnv("a1_walk")
    task = env.own
    assert isinstance(task, A1Walk)
    env.reset(seed=1)
    c, s = np.cos(0.8), np.sin(0.8)
    rotation = np.array(((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0)))
    task.command = np.array((0.3, -0.2, 0.4))
    state = BaseState(np.array((0, 0, 0.28)), rotation, np.array((0.3, -0.2, 0.0)), np.array((0.0, 0.0, 0.4)))
    env.sim.base_state = lambda: state  # type: ignore[method-assign]
    metrics = task.outcome(env.sim, np.zeros(12)).metrics
    assert metrics["velocity_error_m_s"] == pytest.approx(0.0, abs=1e-12)
    assert metrics["yaw_rate_error_rad_s"] == pytest.approx(0.0, abs=1e-12)
    slow = state._replace(velocity=np.array((0.0, -0.2, 0.0)))
    env.sim.base_state = lambda: slow  # type: ignore[method-assign]
    assert task.outcome(env.sim, np.zeros(12)).metrics["velocity_error_m_s"] == pytest.approx(0.3)
    env.close()


def test_a_walking_command_is_drawn_anew_and_reached_slowly() -> None:
    env = RobotEnv("a1_walk")
    env.reset(seed=2)
    commands = [np.zeros(3)]
    for _ in range(1000):
        env.own.advance(env.sim, env.np_random)
        commands.append(env.own.command)  # type: ignore[attr-defined]
    changes = np.abs(np.diff(commands, axis=0))
    assert (changes <= np.array((0.015, 0.015, 0.02)) + 1e-12).all()
    assert (np.linalg.norm(np.array(commands)[:, :2], axis=1) <= 0.6 + 1e-9).all()
    moving = np.flatnonzero(changes.max(1) > 0).tolist()
    assert {0, 499} <= {*moving} <= {*range(41), *range(499, 581), 999}
    env.close()


@pytest.mark.parametrize(("task", "tilt", "height"), [("a1_walk", 0.9, 0.28), ("a1_stand", 0.0, 0.15)])
def test_a_legged_robot_falls_by_tilt_or_height(task: str, tilt: float, height: float) -> None:
    env = RobotEnv(task)
    env.reset(seed=0)
    c, s = np.cos(tilt), np.sin(tilt)
    rotation = np.array(((1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c)))
    state = BaseState(np.array((0, 0, height)), rotation, np.zeros(3), np.zeros(3))
    env.sim.base_state = lambda: state  # type: ignore[method-assign]
    outcome = env.own.outcome(env.sim, np.zeros(12))
    assert outcome.terminated
    assert not outcome.success
    env.close()


def test_a_standing_robot_holds_its_home_pose() -> None:
    env = RobotEnv("a1_stand")
    env.reset(seed=0)
    for _ in range(300):
        info = env.step(np.zeros(12))[4]
    assert info["success"]
    assert info["tilt_rad"] < 0.1
    env.close()


def test_husky_drives_forwards_and_turns_by_its_wheels() -> None:
    env = RobotEnv("husky_goto")
    env.reset(seed=0)
    start = env.sim.base_state()
    for _ in range(200):
        env.step(np.full(2, 0.5))
    end = env.sim.base_state()
    forward = (end.position - start.position) @ start.rotation
    assert forward[0] == pytest.approx(1.0, abs=0.2)  # 2 s at half of 1 m/s
    assert abs(forward[1]) < 0.1
    for _ in range(200):
        env.step(np.array((-0.5, 0.5)))
    left, right = env.sim.joint_states()[1].reshape(2, 2).T  # front and rear of each side
    np.testing.assert_allclose((left, right), ((-3.03, -3.03), (3.03, 3.03)), atol=0.05)  # half of 1 m/s over 0.165 m
    assert env.sim.base_state().angular_velocity[2] > 0.3
    env.close()


@pytest.mark.parametrize(("goal", "told"), [((0.3, -0.4), (0.3, -0.4)), ((-1.8, 2.4), (-0.6, 0.8))])
def test_the_goal_or_the_next_metre_to_it_is_told_in_the_frame_of_the_robot(
    goal: tuple[float, float], told: tuple[float, float]
) -> None:
    env = RobotEnv("husky_goto")
    env.reset(seed=3)
    base = env.sim.base_state()
    env.own.goal = base.position + base.rotation @ np.array((*goal, 0.0))  # type: ignore[attr-defined]
    np.testing.assert_allclose(env.own.observe(env.sim)[-3:], (*told, 0.0), atol=1e-9)
    env.close()


def test_a_pushed_box_moves_and_the_push_is_solved_at_the_goal() -> None:
    env = RobotEnv("panda_push")
    env.reset(seed=0)
    task = env.own
    where = env.sim.box_position("box")
    np.testing.assert_allclose(task.observe(env.sim)[17:20], where, atol=1e-12)
    for _ in range(60):
        info = env.step(np.zeros(7))[4]
    assert not info["success"]
    env.sim.place_box("box", task.goal, 0.0)  # type: ignore[attr-defined]
    for _ in range(60):
        info = env.step(np.zeros(7))[4]
    assert info["success"]
    assert info["box_error_m"] < 0.01
    env.close()


def test_swinging_up_is_solved_upright_for_a_second() -> None:
    env = RobotEnv("cartpole_swingup")
    env.reset(seed=0)
    assert abs(abs(env.sim.joint_states()[0][1]) - np.pi) < 0.11
    env.sim.joint_states = lambda: (np.array((0.0, 0.1)), np.zeros(2))  # type: ignore[method-assign]
    solved = [env.own.outcome(env.sim, np.zeros(1)).success for _ in range(100)]
    assert solved == [False] * 99 + [True]
    env.sim.joint_states = lambda: (np.array((4.5, 0.1)), np.zeros(2))  # type: ignore[method-assign]
    assert env.own.outcome(env.sim, np.zeros(1)).terminated
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
