"""Randomised worlds: tables, draws, and what they do to the physics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import GanglionError
from sim.env import RobotEnv
from sim.randomisation import PARAMETERS, Draw
from sim.tasks import TASKS


@pytest.fixture
def walker() -> Iterator[RobotEnv]:
    env = RobotEnv("a1_walk", TASKS["a1_walk"].randomisation)
    yield env
    env.close()


@given(
    st.floats(0.02, 3.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.sampled_from(["uniform", "log_uniform"]),
    st.integers(0, 10),
)  # fmt: skip
def test_draws_lie_between_nominal_and_range(low: float, width: float, hard: float, how: str, seed: int) -> None:
    high = min(3.0, low + width)
    nominal = PARAMETERS["friction"].nominal
    value = Draw("friction", low, high, how).sample(np.random.default_rng(seed), hard)
    ends = [nominal + hard * (end - nominal) for end in (low, high)]
    assert ends[0] - 1e-9 <= value <= ends[1] + 1e-9


def test_distributions() -> None:
    rng = np.random.default_rng(0)
    even = np.array([Draw("friction", 0.1, 1.0).sample(rng) for _ in range(4000)])
    logarithmic = np.array([Draw("friction", 0.1, 1.0, "log_uniform").sample(rng) for _ in range(4000)])
    assert np.mean(even < 0.55) == pytest.approx(0.5, abs=0.03)
    assert np.mean(logarithmic < 0.1**0.5) == pytest.approx(0.5, abs=0.03)


def test_every_episode_has_its_own_world_and_a_seed_gives_it_again(walker: RobotEnv) -> None:
    def drawn(seed: int) -> dict[str, float]:
        walker.reset(seed=seed)
        return walker.randomiser.values

    first, second = drawn(1), drawn(2)
    assert first == drawn(1)
    names = {d.name for d in walker.task.randomisation}
    assert {n for n in first if first[n] != second[n]} == names - {"push"}
    assert {n for n in first if first[n] != PARAMETERS[n].nominal} == names
    walker.randomiser.difficulty = 0.0
    assert drawn(1) == {n: p.nominal for n, p in PARAMETERS.items()}


def test_what_changes_every_tick() -> None:
    env = RobotEnv("a1_walk", (Draw("motor_strength", 0.5, 1.0, per="step"),))
    env.reset(seed=0)
    seen = []
    for _ in range(20):
        env.step(np.zeros(12))
        seen.append(float(env.sim.motors.strength[0]))
    assert len(set(seen)) == 20
    assert all(0.5 <= s <= 1.0 for s in seen)
    env.close()


@pytest.mark.parametrize(("pause", "shortest", "longest"), [(3.5, 2.0, 5.0), (1.75, 1.0, 2.5)])
def test_pushes_come_at_random_times(walker: RobotEnv, pause: float, shortest: float, longest: float) -> None:
    """A pause lasts 4/7 to 10/7 of the mean one."""
    pushes: list[tuple[float, np.ndarray]] = []
    walker.set_randomisation((Draw("push", 10.0, 10.0), Draw("push_pause", pause, pause)))
    walker.reset(seed=0)
    walker.sim.push = lambda impulse, seconds: pushes.append((walker.time_s, impulse))  # type: ignore[method-assign]
    for _ in range(1000):
        walker.step(np.zeros(12))
    gaps = np.diff([0.0, *(t for t, _ in pushes)])
    assert 9.9 / longest - 1 <= len(pushes) <= 10 / shortest
    assert (gaps >= shortest - 1e-9).all()
    assert (gaps <= longest + 0.02).all()
    np.testing.assert_allclose([np.linalg.norm(i) for _, i in pushes], 10.0)
    assert len({round(float(np.arctan2(i[1], i[0])), 6) for _, i in pushes}) == len(pushes)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_table_fits_its_robot(task: str) -> None:
    env = RobotEnv(task)
    for table in TASKS[task].worlds().values():
        env.set_randomisation(table)
        for seed in range(5):
            env.reset(seed=seed)
            for draw in table:
                assert draw.low <= env.randomiser.values[draw.name] <= draw.high
    env.close()


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_changes_what_happens(name: str) -> None:
    task = "a1_walk"
    others = (Draw("push", 10.0, 10.0),) if name == "push_pause" else ()
    rows = []
    for value in (PARAMETERS[name].nominal, min(PARAMETERS[name].high, 5.0) if name != "friction" else 0.05):
        env = RobotEnv(task, (*others, Draw(name, value, value)))
        env.reset(seed=0)
        rng = np.random.default_rng(1)
        for _ in range(400 if name.startswith("push") else 60):
            observation, *_ = env.step(0.5 * rng.uniform(-1, 1, 12))
        rows.append(observation)
        env.close()
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gravitas", 0.0, 1.0), "there is no parameter 'gravitas'; expected one of command_delay, friction"),
        (("friction", 0.5, 9.0), "randomisation of 'friction' is 0.5 to 9, expected a range within 0.02 to 3"),
        (("friction", 1.0, 0.5), "'friction' is 1 to 0.5"),
        (("friction", float("nan"), 0.5), "'friction' is nan to 0.5"),
        (("payload", 0.0, 1.0, "log_uniform"), "log_uniform from 0; expected above 0"),
        (("payload", 0.0, 1.0, "normal"), "got 'normal' per 'episode', expected one of"),
        (("payload", 0.0, 1.0, "uniform", "day"), "got 'uniform' per 'day'"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        Draw(*arguments)  # type: ignore[arg-type]


def test_a_bolted_robot_cannot_slip() -> None:
    with pytest.raises(GanglionError, match="'friction' cannot be changed: kuka_iiwa is bolted to the world"):
        RobotEnv("kuka_reach", (Draw("friction", 0.5, 1.0),))
