"""Commands to effort, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sim.actuators import DelayLine, Motors
from sim.robots.a1 import A1
from sim.robots.cartpole import CARTPOLE


def test_effort_falls_with_speed_in_the_direction_of_motion() -> None:
    """The A1's motors give 33.5 N·m, and nothing at 21 rad/s."""
    velocity = [0.0, 10.5, 21.0, 42.0, -10.5, 10.5, -42.0]
    wanted = [100.0, 100.0, 100.0, 100.0, 100.0, -100.0, -100.0]
    motors = Motors(A1, A1.joint_names[: len(wanted)])
    effort = motors.effort("effort", wanted, [0.0] * len(wanted), velocity)
    assert effort == pytest.approx([33.5, 16.75, 0.0, 0.0, 33.5, -33.5, 0.0])


def test_pd_drive_by_hand() -> None:
    """80 (0.1 - 0) - 2 * 1 = 6 N·m, and 80 * 1 is cut to 33.5 (1 - 2/21) in the direction of motion."""
    motors = Motors(A1, A1.joint_names[:2])
    command, position, velocity = [0.1, 1.0], [0.0, 0.0], [1.0, 2.0]
    np.testing.assert_allclose(
        motors.effort("position", command, position, velocity), [6.0, 33.5 * (1 - 2 / 21)], rtol=1e-12
    )
    motors.strength[:] = 0.5, 0.8
    motors.friction[:] = 0.3, 0.3
    expected = [3.0 - 0.3, 0.8 * 33.5 * (1 - 2 / 21) - 0.3]
    np.testing.assert_allclose(motors.effort("position", command, position, velocity), expected, rtol=1e-12)


def test_effort_goes_through_where_there_is_no_drive() -> None:
    motors = Motors(CARTPOLE, ("slider_to_cart",))
    assert motors.effort("effort", [7.0], [0.0], [1.0]) == [7.0]
    motors.friction[:] = (1.0,)
    assert motors.effort("effort", [7.0], [0.0], [0.05]) == pytest.approx([6.5])


def test_a_delayed_command_takes_effect_some_steps_later() -> None:
    line = DelayLine()
    line.steps = 3
    seen = []
    for tick in range(4):  # two physics steps a tick
        line.give([float(tick)])
        seen += [line.step()[0] for _ in range(2)]
    assert seen == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0]
    line.reset()
    line.give([9.0])
    assert line.step() == [9.0]
