"""Each kind of reading that cannot be what the contract says gives its own finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import pytest

from runtime.preflight import check
from tests.runtime.windows import (
    A1,
    COUNT,
    JOINTS,
    KUKA,
    readings,
    the,
    window,
    with_imu,
    with_values,
)


def test_not_finite_numbers() -> None:
    def lose(values: np.ndarray) -> np.ndarray:
        values[:, 1] = np.nan
        return values

    one = the(check(with_values(KUKA, "joint_position", lose), KUKA))
    assert (one.level, one.where, one.passing) == ("warning", f"joint_position.{JOINTS[1]}", True)
    assert one.got == "always no finite number"
    every = the(check(with_values(KUKA, "joint_position", lambda v: v * np.nan), KUKA))
    assert (every.level, every.where, every.passing) == ("error", "joint_position", True)

    def flicker(values: np.ndarray) -> np.ndarray:
        values[::7, 1] = np.inf
        return values

    assert the(check(with_values(KUKA, "joint_position", flicker), KUKA)).got == "now and then no finite number"


def test_out_of_range() -> None:
    def most(values: np.ndarray) -> np.ndarray:
        values[10:, 2] = -5000.0
        return values

    found = the(check(with_values(KUKA, "end_effector", most), KUKA))
    assert (found.level, found.where, found.got) == ("error", "end_effector.z", "-5000 m")
    assert found.expected == "-1 to 2 m"

    def few(values: np.ndarray) -> np.ndarray:
        values[:10, 2] = 300.0
        return values

    assert the(check(with_values(KUKA, "end_effector", few), KUKA)).level == "warning"


@pytest.mark.parametrize(
    ("observation", "factor", "guess"),
    [
        ("joint_position", 180 / np.pi, "degrees"),
        ("target", 1000.0, "millimetres"),
    ],
)
def test_units_of_positions(observation: str, factor: float, guess: str) -> None:
    found = [
        f for f in check(with_values(KUKA, observation, lambda v: v * factor), KUKA) if f.where.startswith(observation)
    ]
    assert the(found).level == "error"
    assert found[0].got.endswith(f"which looks like {guess}")


def test_units_of_speeds_that_are_out_of_range() -> None:
    gentle = tuple(
        replace(o, low=(-1.0,) * 7, high=(1.0,) * 7) if o.name == "joint_velocity" else o for o in KUKA.observations
    )
    contract = replace(KUKA, observations=gentle)
    found = [
        f for f in check(with_values(contract, "joint_velocity", lambda v: v * 9.55), contract) if "to 1" in f.expected
    ]
    assert the(found).got.endswith(" rad/s, which looks like degrees per second or turns per minute")
    found = [
        f for f in check(with_values(contract, "joint_velocity", lambda v: v * 57.3), contract) if "to 1" in f.expected
    ]
    assert the(found).got.endswith(" rad/s, which looks like degrees per second")


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda v: -v, "the velocity has the wrong sign"),
        (lambda v: v * 180 / np.pi, "the velocity looks like degrees per second"),
        (lambda v: v * 60 / (2 * np.pi), "the velocity looks like turns per minute"),
        (lambda v: v * -180 / np.pi, "the velocity looks like degrees per second, in the wrong direction"),
        (lambda v: v * 4, "the velocity is about 4 times the change of the position"),
        (lambda v: v * 1e-3, "the joint moves, but the velocity does not tell"),
    ],
)
def test_a_velocity_that_contradicts_the_positions(change: Callable[[np.ndarray], np.ndarray], got: str) -> None:
    found = [f for f in check(with_values(KUKA, "joint_velocity", change), KUKA) if "position" in f.expected]
    assert (the(found).level, found[0].where, found[0].got) == ("error", "joint_velocity", got)


def test_a_velocity_is_not_judged_while_the_joint_stands() -> None:
    values = readings(KUKA, moving=False)
    values[:, KUKA.layout.slices["joint_velocity"]] *= -500.0
    assert check(window(KUKA, values), KUKA) == []


def test_readings_that_repeat_exactly() -> None:
    def freeze(values: np.ndarray) -> np.ndarray:
        values[:, 3] = values[0, 3]
        return values

    found = the(check(with_values(KUKA, "joint_position", freeze), KUKA))
    assert (found.level, found.where) == ("warning", f"joint_position.{JOINTS[3]}")
    assert found.got == "100 readings are exactly the same"
    assert check(with_values(KUKA, "target", lambda v: v[0] + 0 * v), KUKA) == []  # a goal may stand still


# Inertial measurement.


@pytest.mark.parametrize(
    ("size", "got"), [(1.3, "a quaternion of length 1.3"), (0.0, "no orientation: the quaternion is zero")]
)
def test_quaternions(size: float, got: str) -> None:
    def scale(m: Any) -> None:
        m.orientation = Message(x=0.0, y=0.0, z=0.0, w=size)

    found = [f for f in check(with_imu(scale), A1) if "quaternion" in f.got]
    assert the(found).got == got
    assert found[0].level == ("error" if size else "warning")  # the walker can do without


@pytest.mark.parametrize(
    ("factor", "got"),
    [
        (1 / 9.81, "1 m/s² at rest, which looks like g"),
        (1e-3, "0.00981 m/s² at rest, as if gravity were taken off"),
        (2.0, "19.6 m/s² at rest"),
    ],
)
def test_accelerations_at_rest(factor: float, got: str) -> None:
    found = the(check(with_values(A1, "linear_acceleration", lambda v: v * factor), A1))
    assert (found.level, found.where, found.got) == ("error", "linear_acceleration", got)


def test_an_acceleration_in_motion_is_not_judged() -> None:
    swing = 9.0 * np.sin(np.arange(COUNT))[:, None]
    assert check(with_values(A1, "linear_acceleration", lambda v: 0.2 * v + swing), A1) == []


def test_directions_of_gravity() -> None:
    def capsize(m: Any) -> None:
        m.orientation = Message(x=1.0, y=0.0, z=0.0, w=0.0)

    found = check(with_imu(capsize), A1)
    assert [(f.where, f.level) for f in found] == [("gravity", "error"), ("linear_acceleration and gravity", "error")]
    assert found[0].got == "the robot is upside down"
    assert found[1].got == "they see gravity 180° apart"
    sideways = check(with_values(A1, "linear_acceleration", lambda v: v[:, [2, 0, 1]]), A1)
    assert the(sideways).got == "they see gravity 90° apart"
