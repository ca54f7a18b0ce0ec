"""The trot against the robot that it is for, and against what a trot is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from runtime.contract import Layout
from sim.env import RobotEnv
from sim.robots.a1 import A1, FOOT_RADIUS, HIPS, LEGS, STANCE_HEIGHT
from sim.simulation import Simulation
from sim.tasks import TASKS
from training.agent.gait import FEATURES, Trot, TrotConfig
from training.checkpoint import build_agent
from training.presets import preset, trot

TASK = TASKS["a1_walk"]
CONFIG = trot(TASK, Layout(TASK.observations, TASK.action))
STILL = torch.zeros(1, Layout(TASK.observations, TASK.action).size)
COMMAND = torch.tensor([[0.4, -0.2, 0.5]])


def at(phase: torch.Tensor) -> torch.Tensor:
    """The state of a gait at the phase (B, 1)."""
    return torch.nn.functional.pad(phase, (0, 7))


@pytest.fixture
def gait() -> Trot:
    return Trot(CONFIG)


def test_feet_of_the_simulated_robot_go_where_they_are_sent(gait: Trot) -> None:
    """Inverse kinematics here, forward kinematics in PyBullet down to the knees, and the shanks by hand."""
    sim = Simulation(A1, 100.0, 5)
    rng = np.random.default_rng(0)
    for _ in range(20):
        feet = torch.tensor(CONFIG.offsets)[None, :, None] * torch.tensor([0.0, 1.0, 0.0])
        feet = feet + torch.tensor([0.0, 0.0, -0.26]) + torch.tensor(rng.uniform(-0.08, 0.08, (1, 4, 3))).float()
        angles = gait.joints(feet)[0].double().numpy()
        sim.reset(angles)
        knees = np.array([sim.link_position(f"{leg}_lower") for leg in LEGS])
        hip, thigh, knee = angles.reshape(4, 3).T
        down = 0.2 * np.stack((-np.sin(thigh + knee), np.zeros(4), -np.cos(thigh + knee)), 1)
        turned = np.stack((down[:, 0], -down[:, 2] * np.sin(hip), down[:, 2] * np.cos(hip)), 1)  # about x
        reached = knees + turned - sim.base_state().position
        wanted = feet[0].numpy() + np.array([(*HIPS[leg], 0.0) for leg in LEGS])
        np.testing.assert_allclose(reached, wanted, atol=1e-3)
    sim.close()


def test_feet_on_the_ground_move_against_the_command(gait: Trot) -> None:
    """While it carries, a foot moves at -(v + w x r), so that it does not slip."""
    step = 1e-3
    for phase in (0.05, 0.2, 0.5, 0.7):
        now, later = (gait.feet(torch.tensor([[p]]), COMMAND)[0] for p in (phase, phase + step))
        speed = (later - now) / (step / CONFIG.frequency_hz)
        own = (phase + np.array(CONFIG.phases)) % 1.0
        for leg in np.flatnonzero(own < CONFIG.duty - step):
            x, y = CONFIG.hips[leg][0], CONFIG.hips[leg][1] + CONFIG.offsets[leg]
            expected = (-(0.4 - 0.5 * y), -(-0.2 + 0.5 * x), 0.0)
            np.testing.assert_allclose(speed[leg].numpy(), expected, atol=2e-3)
            assert now[leg, 2] == pytest.approx(FOOT_RADIUS - STANCE_HEIGHT)


def test_legs_swing_in_diagonal_pairs_and_are_lifted(gait: Trot) -> None:
    phases = torch.linspace(0, 1, 201)[:, None]
    heights = gait.feet(phases, COMMAND.expand(201, 3))[..., 2] + STANCE_HEIGHT - FOOT_RADIUS
    torch.testing.assert_close(heights[:, 0], heights[:, 3])
    torch.testing.assert_close(heights[:, 1], heights[:, 2])
    assert heights.max() == pytest.approx(CONFIG.lift, rel=1e-3)
    assert ((heights > 1e-6).float().mean(0) - (1 - CONFIG.duty)).abs().max() < 0.02
    assert not ((heights[:, 0] > 1e-3) & (heights[:, 1] > 1e-3)).any(), "one pair always carries"


def test_nothing_jumps_when_the_cycle_begins_anew(gait: Trot) -> None:
    phases = (torch.arange(400) / 400)[:, None]
    angles = gait.joints(gait.feet(phases, COMMAND.expand(400, 3)))
    assert (angles - angles.roll(1, 0)).abs().max() < 0.05
    late = at(torch.tensor([[0.99]]))
    assert gait.advanced(late, STILL)[0, 0].item() == pytest.approx(0.99 + 0.03 - 1.0)


def test_the_error_that_lasts_is_averaged_over_a_third_of_a_second(gait: Trot) -> None:
    """Standing while 0.2 m/s are asked for: after t seconds -0.2 (1 - e^(-3 t)). A push counts as 0.3 m/s at most."""
    z = STILL.clone()
    z[0, Layout(TASK.observations, TASK.action).slices["command"]] = torch.tensor([0.2, 0.0, -0.1]) / 0.5
    state = gait.initial()
    for _ in range(50):
        state = gait.advanced(state, z)
    rest = 1 - (1 - 0.03) ** 50
    torch.testing.assert_close(state[:, 1:3], torch.tensor([[-0.2, 0.0]]))
    torch.testing.assert_close(state[:, 3:6], rest * torch.tensor([[-0.2, 0.0, 0.1]]))
    pushed = gait.advanced(gait.initial(), 10 * z)
    assert pushed[0, 3:6].tolist() == pytest.approx([-0.3 * 0.03, 0.0, 0.3 * 0.03])


def test_the_feet_go_with_a_shove_and_ahead_of_it(gait: Trot) -> None:
    """A shove is what is beyond 0.15 m/s, over 0.05 s. The feet step with half of it, and 0.1 s of it ahead."""
    z = STILL.clone()
    z[0, Layout(TASK.observations, TASK.action).slices["command"]] = torch.tensor([-0.4, -0.1, 0.0]) / 0.5
    state = gait.advanced(gait.initial(), z)
    torch.testing.assert_close(state[:, 6:], 0.2 * torch.tensor([[0.4 - 0.15, 0.0]]))
    phase, shove = torch.tensor([[0.3]]), torch.tensor([[0.5, -2.0]])
    angles = gait(torch.cat((at(phase)[:, :6], shove), -1), STILL, torch.zeros(1, 15)) * torch.tensor(TASK.action.scale)
    feet = gait.feet(phase, torch.tensor([[0.25, -1.0, 0.0]])) + torch.tensor([0.05, -0.12, 0.0])
    expected = gait.joints(feet) - gait.sag(phase, feet, gait.joints(feet))
    torch.testing.assert_close(angles + torch.tensor(TASK.action.offset), expected)


def test_actions_are_normalised_as_the_contract_says(gait: Trot) -> None:
    layout = Layout(TASK.observations, TASK.action)
    z = torch.zeros(1, layout.size)
    z[:, layout.slices["command"]] = COMMAND / 0.5
    phase = torch.tensor([[0.3]])
    shift, bend = torch.tensor([[0.2, -0.1, 0.4]]), torch.linspace(-0.5, 0.5, 12)[None]
    angles = gait(at(phase), z, torch.cat((shift, bend), -1)) * torch.tensor(TASK.action.scale)
    feet = gait.feet(phase, COMMAND + 0.3 * shift)
    expected = gait.joints(feet) - gait.sag(phase, feet, gait.joints(feet)) + 0.3 * bend
    torch.testing.assert_close(angles + torch.tensor(TASK.action.offset), expected)


def test_the_weight_turns_every_joint_as_far_as_its_lever_says(gait: Trot) -> None:
    """A foot rises by dz for a turn dq of a joint, so weight w against stiffness k turns it by w dz / dq / k."""

    def height(q: torch.Tensor, offset: float) -> torch.Tensor:
        reach = 0.2 * (torch.cos(q[1]) + torch.cos(q[1] + q[2]))
        return offset * torch.sin(q[0]) - reach * torch.cos(q[0])

    phase = torch.tensor([[0.3]])  # of the first and the last leg, in the middle of their time on the ground
    feet = gait.feet(phase, COMMAND)
    joints = gait.joints(feet)
    sag = gait.sag(phase, feet, joints)[0].view(4, 3)
    for leg in (0, 3):
        q = joints[0].view(4, 3)[leg].clone().requires_grad_(True)
        z = height(q, CONFIG.offsets[leg])
        assert z.item() == pytest.approx(feet[0, leg, 2].item(), abs=1e-6)
        (lever,) = torch.autograd.grad(z, q)
        torch.testing.assert_close(sag[leg], 68.0 / 80.0 * lever, rtol=1e-4, atol=1e-6)
    assert (sag[[1, 2]] == 0).all(), "these are in the air"


def test_a_trot_that_bears_its_weight_stays_up_and_does_not_twist() -> None:
    """In place for 2 s in PyBullet, against the same trot without."""

    def trotted(config: TrotConfig) -> tuple[float, float]:
        gait, env = Trot(config), RobotEnv("a1_walk")
        env.reset(seed=0)
        state, z = gait.initial(), torch.zeros(1, env.layout.size)
        heights, turns = [], []
        for _ in range(200):
            state = gait.advanced(state, z)
            env.step(gait(state, z, torch.zeros(1, 15))[0].numpy())
            base = env.sim.base_state()
            heights.append(base.position[2])
            turns.append(abs(base.angular_velocity[2]))
        env.close()
        return float(np.mean(heights[100:])), float(np.mean(turns[100:]))

    (height, twist), (sagged, twisted) = trotted(CONFIG), trotted(replace(CONFIG, weight=0.0))
    assert abs(height - STANCE_HEIGHT) < 0.005
    assert sagged < STANCE_HEIGHT - 0.015
    assert twist < 0.3 * twisted


def test_feet_on_the_ground_tell_the_velocity(gait: Trot) -> None:
    """Against PyBullet, with sensors that are well, over a cycle each: 0.3 m/s ahead, then to the left and turning."""
    env = RobotEnv("a1_walk")
    layout = env.layout
    for command in ((0.3, 0.0, 0.0), (0.0, 0.25, 0.4)):
        env.reset(seed=0)
        state, told, true = gait.initial(), [], []
        for _ in range(300):
            x = env.own.observe(env.sim)
            x[layout.slices["command"]] = command
            z = torch.from_numpy((x - layout.mean) / layout.scale).float()[None]
            state = gait.advanced(state, z)
            told.append(gait.odometry(state[:, :1], z)[0].numpy())
            true.append(env.sim.base_state().velocity[:2])
            env.step(gait(state, z, torch.zeros(1, 15))[0].numpy())
        cycles = slice(300 - 6 * 33, None)
        np.testing.assert_allclose(np.mean(told[cycles], 0), np.mean(true[cycles], 0), atol=0.01)
        np.testing.assert_allclose(told[cycles], true[cycles], atol=0.08)
        assert np.linalg.norm(np.mean(true[cycles], 0)) > 0.2
    env.close()


def test_left_and_right_are_treated_alike() -> None:
    """By hand: in the mirror FR_hip turns as FL_hip does, the other way round, and the command is to the right."""
    agent = build_agent(preset("a1_walk"))
    assert agent.gait is not None
    with torch.no_grad():
        torch.nn.init.normal_(list(agent.policy.parameters())[-2])
    layout = Layout(TASK.observations, TASK.action)
    z, state = torch.randn(5, layout.size), torch.cat((torch.rand(5, 1), torch.randn(5, 7)), -1)
    mirrored = agent.gait.mirrored(torch.cat((z, torch.zeros(5, FEATURES)), -1))[:, :-FEATURES]
    names = list(layout.channels)
    for name, other, sign in (
        ("joint_position.FR_hip_joint", "joint_position.FL_hip_joint", -1),
        ("joint_velocity.RL_lower_joint", "joint_velocity.RR_lower_joint", 1),
        ("gravity.y", "gravity.y", -1),
        ("angular_velocity.x", "angular_velocity.x", -1),
        ("angular_velocity.y", "angular_velocity.y", 1),
        ("command.vy", "command.vy", -1),
    ):
        torch.testing.assert_close(mirrored[:, names.index(name)], sign * z[:, names.index(other)])
    opposite = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0]) * (state + at(torch.tensor([[0.5]])))
    here, there = agent.act(z, state), agent.act(mirrored, opposite)
    joints = [names.index(f"joint_position.{j}") for j in TASK.action.joints]
    assert joints == list(range(12)), "the action's joints are the first latents"
    exchanged = agent.gait.mirrored(torch.nn.functional.pad(there, (0, layout.size + FEATURES - 12)))[:, :12]
    torch.testing.assert_close(here, exchanged, atol=2e-4, rtol=0)


def test_a_foot_that_cannot_be_reached_stretches_the_leg(gait: Trot) -> None:
    feet = torch.tensor([[[0.5, 0.0, -0.5]] * 4])
    angles = gait.joints(feet)
    assert torch.isfinite(angles).all()
    assert (angles[:, 2::3].abs() < 0.1).all()
