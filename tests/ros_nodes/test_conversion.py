"""Readings to ROS messages and back: what a simulated robot publishes is what a controller reads."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.time import Time

from ros_nodes.conversion import MESSAGE_TYPES, _tilt, sensor_message
from runtime.messages import KINDS, deliver, gravity_direction, topics
from runtime.sample import Sample
from sim.env import make_env
from sim.tasks import TASKS


@pytest.mark.parametrize("task", [*sorted(TASKS), "gym:Pendulum-v1"])
def test_every_task_s_readings_survive_the_way_over_messages(task: str) -> None:
    env = make_env(task)
    observation, _ = env.reset(seed=0)
    sample = Sample(SimpleNamespace(layout=env.layout, observations=env.task.observations))
    for message_type, observations in topics(env.task.observations).values():
        readings = [(o, observation[env.layout.slices[o.name]]) for o in observations]
        message = sensor_message(message_type, readings, Time(seconds=7))
        assert isinstance(message, MESSAGE_TYPES[message_type])
        deliver(message, observations, sample, 5)
    np.testing.assert_allclose(sample.values, observation, rtol=0, atol=1e-12)
    assert (sample.stamp_ns == 5).all()
    env.close()


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_an_orientation_without_yaw_shows_the_same_gravity(x: float, y: float, z: float) -> None:
    length = float(np.linalg.norm((x, y, z)))
    if length > 1e-3:
        gravity = np.array((x, y, z)) / length
        quaternion = _tilt(gravity)
        assert np.linalg.norm(quaternion) == pytest.approx(1.0)
        np.testing.assert_allclose(gravity_direction(quaternion), gravity, atol=1e-12)


def test_every_kind_has_a_message() -> None:
    assert {k.message_type for k in KINDS.values()} == {*MESSAGE_TYPES}
