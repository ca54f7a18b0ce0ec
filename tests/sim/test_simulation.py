"""The physics that tasks rely on, against mechanics by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import GanglionError
from sim.robots.a1 import A1
from sim.robots.cartpole import CARTPOLE
from sim.robots.kuka import KUKA
from sim.simulation import GRAVITY, Simulation

HOME = np.array(A1.home)


@pytest.fixture
def a1() -> Iterator[Simulation]:
    sim = Simulation(A1, 100.0, 5)
    sim.reset(HOME)
    yield sim
    sim.close()


def stand(sim: Simulation, ticks: int) -> None:
    for _ in range(ticks):
        sim.step("position", HOME)


def mass(sim: Simulation) -> float:
    """Of the standing robot, from the force on its feet, averaged over a second."""
    stand(sim, 100)
    forces = []
    for _ in range(100):
        stand(sim, 1)
        forces.append(sim.foot_forces().sum())
    return float(np.mean(forces)) / GRAVITY


def test_a_standing_robot_weighs_what_it_is_made_of(a1: Simulation) -> None:
    own = mass(a1)
    assert own == pytest.approx(12.0, abs=1.0), "the data sheet says 12 kg"
    a1.set_payload(3.0)
    assert mass(a1) == pytest.approx(own + 3.0, rel=0.01)
    a1.set_payload(0.0)
    assert mass(a1) == pytest.approx(own, rel=0.01)
    assert not a1.touched_ground()


def test_an_imu_at_rest_feels_gravity_alone(a1: Simulation) -> None:
    stand(a1, 200)
    np.testing.assert_allclose(a1.base_state().angular_velocity, 0.0, atol=0.02)
    up = a1.base_state().rotation[2]
    np.testing.assert_allclose(a1.specific_force(), GRAVITY * up, atol=0.1)


def test_in_free_fall_the_imu_feels_nothing(a1: Simulation) -> None:
    a1.reset(HOME, base=np.array((0.0, 0.0, 3.0)), heading=0.7)
    stand(a1, 20)
    np.testing.assert_allclose(a1.specific_force(), 0.0, atol=0.05)
    assert a1.base_state().position[2] == pytest.approx(3.0 - 0.5 * GRAVITY * 0.2**2, abs=0.02)
    assert not a1.foot_forces().any()


def test_the_base_starts_where_it_is_put(a1: Simulation) -> None:
    a1.reset(HOME, base=np.array((1.0, -2.0, 0.5)), heading=0.7)
    state = a1.base_state()
    np.testing.assert_allclose(state.position, (1.0, -2.0, 0.5), atol=1e-9)
    c, s = np.cos(0.7), np.sin(0.7)
    np.testing.assert_allclose(state.rotation, ((c, -s, 0), (s, c, 0), (0, 0, 1)), atol=1e-9)
    assert not state.velocity.any()


def test_velocities_are_those_of_the_frame_of_the_base(a1: Simulation) -> None:
    """Thrown and spinning, against the change of the pose per time."""
    a1.reset(HOME, base=np.array((0.0, 0.0, 2.0)), heading=0.4)
    a1.push(np.array((6.0, -3.0, 2.0)), 0.02)
    stand(a1, 5)
    before = a1.base_state()
    a1.step("position", HOME)
    after = a1.base_state()
    middle = before.rotation @ before.velocity / 2 + after.rotation @ after.velocity / 2
    np.testing.assert_allclose((after.position - before.position) / 0.01, middle, atol=0.02)
    turned = before.rotation.T @ after.rotation
    spin = np.array((turned[2, 1], turned[0, 2], turned[1, 0])) / 0.01
    np.testing.assert_allclose(spin, (before.angular_velocity + after.angular_velocity) / 2, atol=0.05)


def test_a_push_gives_its_impulse(a1: Simulation) -> None:
    """On a robot that floats, so that nothing else acts but gravity: the whole of it gains impulse / mass."""
    own = mass(a1)
    a1.reset(HOME, base=np.array((0.0, 0.0, 3.0)))
    a1.push(np.array((10.0, 0.0, 0.0)), 0.1)
    for _ in range(30):
        stand(a1, 1)
    before = a1.base_state().position[0]
    stand(a1, 20)
    assert (a1.base_state().position[0] - before) / 0.2 == pytest.approx(10.0 / own, rel=0.15)


def test_a_locked_joint_stays(a1: Simulation) -> None:
    a1.reset(HOME, base=np.array((0.0, 0.0, 3.0)))
    goal = HOME + 0.3
    a1.lock("FL_upper_joint")
    for _ in range(30):
        a1.step("position", goal)
    moved = a1.joint_states()[0] - HOME
    index = A1.joint_names.index("FL_upper_joint")
    assert abs(moved[index]) < 0.01
    assert (np.delete(moved, index) > 0.15).all()
    a1.unlock("FL_upper_joint")
    for _ in range(30):
        a1.step("position", goal)
    assert a1.joint_states()[0][index] - HOME[index] > 0.15


def test_ground_friction_decides_how_far_it_slides(a1: Simulation) -> None:
    def slide(coefficient: float) -> float:
        a1.reset(HOME)
        stand(a1, 50)
        a1.set_friction(coefficient)
        a1.push(np.array((8.0, 0.0, 0.0)), 0.05)
        stand(a1, 60)
        return float(a1.base_state().position[0])

    assert slide(0.05) > 2 * slide(1.0)


def test_servos_obey_a_delay() -> None:
    sim = Simulation(KUKA, 100.0, 2)
    home = np.array(KUKA.home)

    def after(ticks: int) -> float:
        sim.reset(home)
        sim.step("position", home)
        for _ in range(ticks):
            sim.step("position", home + 0.01)
        return float((sim.joint_states()[0] - home)[0])

    prompt = after(3)
    sim.delay.steps = 4  # two ticks
    assert after(2) == pytest.approx(0.0, abs=1e-4)
    assert after(5) == pytest.approx(prompt, rel=0.05)
    sim.close()


def test_a_robot_that_does_not_fit_its_urdf_is_refused() -> None:
    with pytest.raises(GanglionError, match=r"robot 'cartpole': there is no URDF at .*nowhere.urdf; reinstall"):
        Simulation(replace(CARTPOLE, urdf="nowhere.urdf"), 100.0, 1)
    joint = replace(CARTPOLE.joints[0], name="wheel")
    with pytest.raises(GanglionError, match=r"has no joints \['wheel'\]; it has \['cart_to_pole', 'slider_to_cart'\]"):
        Simulation(replace(CARTPOLE, joints=(joint,)), 100.0, 1)
    with pytest.raises(GanglionError, match=r"a1.urdf has no links \['FR_paw'\]"):
        Simulation(replace(A1, feet=("FR_paw",)), 100.0, 1)
