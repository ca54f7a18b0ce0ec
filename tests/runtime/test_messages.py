from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace as Message

import numpy as np
import pytest

from runtime.contract import Observation
from runtime.errors import ContractError
from runtime.messages import KINDS, deliver, gravity_direction, topics
from runtime.sample import NEVER, Sample
from tests.tiny_bundle import tiny_contract

KUKA = tiny_contract("kuka_reach")


def observation(kind: str, channels: tuple[str, ...]) -> Observation:
    n = len(channels)
    return Observation(kind, kind, "topic", channels, "-", (0.0,) * n, (1.0,) * n, (-9.0,) * n, (9.0,) * n, 1.0, 0)


def test_joint_state_by_name_in_any_order() -> None:
    sample = Sample(KUKA)
    message = Message(
        name=["gripper", "lbr_iiwa_joint_7", "lbr_iiwa_joint_1"],
        position=[9.0, 0.7, 0.1],
        velocity=[9.0, 0.07, 0.01],
    )
    deliver(message, KUKA.observations[:2], sample, 5)
    assert sample.values[[6, 0, 13, 7]].tolist() == [0.7, 0.1, 0.07, 0.01]
    assert np.flatnonzero(sample.stamp_ns != NEVER).tolist() == [0, 6, 7, 13]


def test_joint_state_without_velocities_leaves_them_missing() -> None:
    sample = Sample(KUKA)
    deliver(Message(name=["lbr_iiwa_joint_1"], position=[0.1], velocity=[]), KUKA.observations[:2], sample, 5)
    assert np.flatnonzero(sample.stamp_ns != NEVER).tolist() == [0]


def xyz(x: float, y: float, z: float, **more: float) -> Message:
    return Message(x=x, y=y, z=z, **more)


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        ("point", Message(point=xyz(1, 2, 3)), [1, 2, 3]),
        ("orientation", Message(orientation=xyz(1, 2, 3, w=4)), [1, 2, 3, 4]),
        ("angular_velocity", Message(angular_velocity=xyz(1, 2, 3)), [1, 2, 3]),
        ("linear_acceleration", Message(linear_acceleration=xyz(1, 2, 3)), [1, 2, 3]),
        ("twist", Message(linear=xyz(1, 2, 3), angular=xyz(4, 5, 6)), [1, 2, 3, 4, 5, 6]),
        ("planar_twist", Message(linear=xyz(1, 2, 3), angular=xyz(4, 5, 6)), [1, 2, 6]),
        ("gravity", Message(orientation=xyz(0, 0, 0, w=1)), [0, 0, -1]),
        ("gravity", Message(orientation=xyz(2, 0, 0, w=2)), [0, -1, 0]),  # rolled by 90°, and not normalised
        ("gravity", Message(orientation=xyz(0, 1, 0, w=1)), [1, 0, 0]),  # nose down
        ("gravity", Message(orientation=xyz(0, 0, 1, w=1)), [0, 0, -1]),  # yaw does not count
    ],
)
def test_vectors(kind: str, message: Message, expected: list[float]) -> None:
    channels = KINDS[kind].channels
    assert channels is not None
    one = observation(kind, channels)
    sample = Sample(replace(KUKA, observations=(one,)))
    deliver(message, (one,), sample, 3)
    np.testing.assert_allclose(sample.values, expected, atol=1e-15)
    assert (sample.stamp_ns == 3).all()


def test_an_orientation_without_length_tells_nothing() -> None:
    assert np.isnan(gravity_direction(np.zeros(4))).all()


def test_an_array_is_taken_whole_or_not_at_all() -> None:
    one = observation("array", ("a", "b"))
    sample = Sample(replace(KUKA, observations=(one,)))
    deliver(Message(data=[1.0, 2.0, 3.0]), (one,), sample, 3)
    assert (sample.stamp_ns == NEVER).all()
    deliver(Message(data=[1.0, 2.0]), (one,), sample, 4)
    assert sample.values.tolist() == [1.0, 2.0]


def test_topics_are_shared_by_observations() -> None:
    found = topics(KUKA.observations)
    assert {name: (kind, [o.name for o in group]) for name, (kind, group) in found.items()} == {
        "joint_states": ("sensor_msgs/msg/JointState", ["joint_position", "joint_velocity"]),
        "end_effector": ("geometry_msgs/msg/PointStamped", ["end_effector"]),
        "target": ("geometry_msgs/msg/PointStamped", ["target"]),
    }


def test_one_topic_cannot_carry_two_types() -> None:
    wrong = replace(observation("point", ("x", "y", "z")), topic="joint_states")
    with pytest.raises(ContractError, match="'joint_states' would carry both"):
        topics((*KUKA.observations, wrong))


def test_unknown_kind_and_wrong_channels() -> None:
    with pytest.raises(ContractError, match="has kind 'smell', expected one of joint_position"):
        topics((observation("smell", ("x",)),))
    with pytest.raises(ContractError, match=r"has channels \['x', 'y'\], expected \['x', 'y', 'z'\]"):
        topics((observation("point", ("x", "y")),))


@pytest.mark.parametrize("size", [1e-200, 0.05, 1e3, 1.7e308, float("inf"), float("nan")])
def test_an_orientation_that_is_no_unit_quaternion_tells_nothing(size: float) -> None:
    assert np.isnan(gravity_direction(np.array([0.0, 0.0, 0.0, size]))).all()
