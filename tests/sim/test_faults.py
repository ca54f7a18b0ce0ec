"""Faults in the simulation: every one on every task, and what those of the body do."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import ContractError, GanglionError
from runtime.faults import KINDS
from sim.env import RobotEnv
from sim.faults import BODY_KINDS
from sim.randomisation import PARAMETERS, applies
from sim.tasks import TASKS, Task


def every_fault(task: type[Task]) -> list[str]:
    """One of each kind that the task's robot can have, from the third tick to the fifth."""
    first, second = task.sensors[0].observation, task.sensors[-1].observation
    a, b = f"{first.name}.{first.channels[0]}", f"{second.name}.{second.channels[0]}"
    names = [f"{k}:{f'{a}+{b}' if k == 'swap' else a}{'=0.1' if kind.value else ''}" for k, kind in KINDS.items()]
    joint = task.action.joints[0]
    known = {n: p for n, p in PARAMETERS.items() if applies(p, task)}
    names += [f"motor:{joint}=0.5", f"lock:{joint}"]
    values = {
        n: 0.5 if n == "friction" else p.nominal + 0.5 * min(1.0, p.high - p.nominal) for n, p in PARAMETERS.items()
    }
    names += [f"{n}={values[n]:g}" for n, p in known.items()]
    names += [] if task.robot.fixed_base else ["shove=5"]
    return [f"{name}@0.02-0.04" for name in names]


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_fault_strikes_every_task_and_is_gone_with_the_next_episode(task: str) -> None:
    env = RobotEnv(task)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.3, 0.3, (8, len(env.executed)))

    def episode() -> np.ndarray:
        rows = [env.reset(seed=3)[0]]
        rows += [env.step(a)[0] for a in actions]
        return np.stack(rows)

    nominal = episode()
    assert {f.split(":")[0].split("=")[0] for f in every_fault(TASKS[task])} >= {*KINDS, "motor", "lock"}
    for fault in every_fault(TASKS[task]):
        env.set_faults((fault,))
        struck = episode()
        np.testing.assert_array_equal(struck[:2], nominal[:2], err_msg=fault)
        np.testing.assert_array_equal(struck, episode(), err_msg=fault)
        env.set_faults(())
        np.testing.assert_array_equal(episode(), nominal, err_msg=fault)
    env.close()


def joints_after(env: RobotEnv, faults: tuple[str, ...], ticks: int = 40) -> np.ndarray:
    env.set_faults(faults)
    env.reset(seed=0)
    for _ in range(ticks):
        env.step(np.full(len(env.executed), 0.5))
    return env.sim.joint_states()[0]


def test_a_locked_joint_and_a_weak_motor() -> None:
    env = RobotEnv("kuka_reach")
    free = joints_after(env, ())
    locked = joints_after(env, ("lock:lbr_iiwa_joint_1@0.1",))
    moved = np.abs(locked - free)
    assert moved[0] > 0.1
    assert (moved[1:] < 0.02).all()
    limp = joints_after(env, ("motor:lbr_iiwa_joint_2=0",))
    assert abs(limp[1] - free[1]) > 0.1
    np.testing.assert_array_equal(joints_after(env, ()), free)
    env.close()


def test_a_shove_comes_once_at_its_time() -> None:
    env = RobotEnv("a1_walk", (), ("shove=10@0.5",))
    env.reset(seed=0)
    speeds = []
    for _ in range(80):
        env.step(np.zeros(12))
        speeds.append(float(np.linalg.norm(env.sim.base_state().velocity[:2])))
    assert max(speeds[20:50]) < 0.2
    assert max(speeds[50:]) > 0.4
    env.close()


def test_a_late_sensor_is_seen_in_its_stamp() -> None:
    env = RobotEnv("cartpole", (), ("skew:joint_velocity=-0.02@0.03",))
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.zeros(1))
    assert env.stamp_ns.tolist() == [50_000_000, 50_000_000, 30_000_000, 30_000_000]
    env.close()


@pytest.mark.parametrize(
    ("task", "fault", "message"),
    [
        ("a1_walk", "gremlins=1", "fault 'gremlins=1' is not understood.*one of lost.*motor, lock, shove, friction"),
        ("a1_walk", "lock:knee", "'knee' is no joint; expected one of FR_hip_joint"),
        ("a1_walk", "lock:FR_hip_joint=2", "expected no value"),
        ("a1_walk", "motor:FR_hip_joint", "expected a value after ="),
        ("a1_walk", "motor:FR_hip_joint=7", "got 7.0, expected 0 to 2"),
        ("a1_walk", "payload:trunk=3", "'payload' has no target; expected 'payload=VALUE'"),
        ("a1_walk", "payload=-3", "payload is -3, expected 0 to 50 kg"),
        ("kuka_reach", "shove=5", "kuka_iiwa is bolted to the world"),
        ("kuka_reach", "friction=0.5", "'friction' cannot be changed: kuka_iiwa is bolted"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(task: str, fault: str, message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        RobotEnv(task, (), (fault,))


def test_every_kind_has_a_name_of_its_own() -> None:
    names = [*KINDS, *BODY_KINDS, *PARAMETERS]
    assert len(names) == len(set(names))
    with pytest.raises(ContractError, match="is not understood"):
        RobotEnv("cartpole", (), ("",))
