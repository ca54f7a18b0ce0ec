"""The diagnosis from the responses of a robot that is a matrix: readings change by `wires @ commands`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.wiring import diagnose, left_pose, right, strokes, suspects
from sim.tasks import TASKS

ARM, CART = TASKS["kuka_reach"].action, TASKS["cartpole"].action
A, B, C = ARM.joints[:3]
THREE = replace(
    ARM, joints=(A, B, C), scale=(1.0,) * 3, offset=(0.0,) * 3, low=(-1.0,) * 3, high=(1.0,) * 3, max_rate=(1.0,) * 3
)
STROKE = np.array([0.05, -0.05, 0.05])


def verdict(wires: list[list[float]], noise: float = 1e-4) -> list[tuple[str, str, str]]:
    response = (np.array(wires) * STROKE).T
    return [(f.level, f.where, f.got) for f in diagnose(THREE, STROKE, response, np.full(3, noise))]


def test_a_right_robot() -> None:
    assert verdict([[0.9, 0.1, 0], [0, 1.1, 0], [-0.2, 0, 1.0]]) == []


@pytest.mark.parametrize(
    ("wires", "where", "got"),
    [
        ([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], A, "it moves the wrong way"),
        ([[1, 0, 0], [0, 0, 1], [0, 1, 0]], f"{B} and {C}", "they are swapped"),
        ([[1, 0, 0], [0, 0, -1], [0, 1, 0]], f"{B} and {C}", "they are swapped, one backwards"),
        ([[1, 0, 0], [0, 0, -1], [0, -1, 0]], f"{B} and {C}", "they are swapped, both backwards"),
        ([[0, 0, 0], [0, 1, 0], [0, 0, 1]], A, "nothing moves when it is commanded"),
        ([[2.5, 0, 0], [0, 1, 0], [0, 0, 1]], A, "it moves 2.5 times as far"),
        (
            [[57.3, 0, 0], [0, 1, 0], [0, 0, 1]],
            A,
            "it moves 57 times as far, which looks like degrees on one side and radians on the other",
        ),
        ([[0.4, 0, 0], [0, 1, 0], [0, 0, 1]], A, "it moves 0.4 times as far"),
    ],
)
def test_what_is_wrong(wires: list[list[float]], where: str, got: str) -> None:
    assert verdict(wires) == [("error", where, got)]


def test_three_joints_in_a_circle_are_each_named() -> None:
    found = verdict([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert found == [
        ("error", A, f"{B} moves in its place"),
        ("error", B, f"{C} moves in its place"),
        ("error", C, f"{A} moves in its place"),
    ]


def test_a_joint_that_moves_along_is_a_warning() -> None:
    assert verdict([[1, 0, 0], [0.8, 1, 0], [0, 0, 1]]) == [("warning", A, f"{B} moves along")]


def test_what_noise_could_do_is_no_motion() -> None:
    found = verdict([[1, 0, 0], [0, 1, 0], [0, 0, 0.6]], noise=0.007)
    assert [f[1] for f in found] == [C]


def test_the_scale_of_efforts_is_not_judged_but_their_sign_is() -> None:
    stroke = np.array([1.0])
    assert diagnose(CART, stroke, np.array([[7.0]]), np.array([0.1])) == []
    assert diagnose(CART, stroke, np.array([[-0.7]]), np.array([0.1]))[0].got == "it moves the wrong way"
    assert diagnose(CART, stroke, np.array([[0.3]]), np.array([0.1]))[0].got == "nothing moves when it is commanded"


def test_strokes_are_small_and_go_where_there_is_room() -> None:
    base = np.array([0.9, -0.9, 0.0])
    assert strokes(THREE, base).tolist() == [-0.05, 0.05, 0.05]
    narrow = replace(THREE, low=(0.0,) * 3, high=(0.04,) * 3)  # the fingers of a gripper
    assert strokes(narrow, np.zeros(3)) == pytest.approx([0.002] * 3)
    assert strokes(CART, np.zeros(1)) == pytest.approx([1.0])  # of 10 N


def test_suspects_keep_the_robot_where_it_is() -> None:
    pose = np.array([0.3, -1.3, 0.8])
    flipped, swapped = pose * [1, -1, 1], pose[[0, 2, 1]]
    (one,) = suspects(np.array([False, True, False]))
    assert one.command(flipped).tolist() == pose.tolist()
    exchanged, both = suspects(np.array([False, True, True]))
    assert exchanged.command(swapped).tolist() == pose.tolist()
    assert both.command(pose * [1, -1, -1]).tolist() == pose.tolist()
    (every,) = suspects(np.array([True, True, True]))
    assert every.command(-pose).tolist() == pose.tolist()
    assert suspects(np.array([False, False, False])) == []
    assert right(3).command(pose).tolist() == pose.tolist()


def test_a_pose_that_is_left_for_another_reason() -> None:
    assert (left_pose([A, B]).level, left_pose([A, B]).where) == ("error", f"{A}, {B}")
