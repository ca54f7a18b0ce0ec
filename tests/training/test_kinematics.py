"""Positions move by their velocities before anything is learned."""

from __future__ import annotations

import pytest
import torch

from benchmarks.refinement_study.cartpole import LAYOUT, TICK_S
from benchmarks.refinement_study.cartpole_arena import TIED
from runtime.contract import Node
from runtime.errors import GanglionError
from training.agent.agent import Agent
from training.agent.config import AgentConfig, Motion
from training.kinematics import joint_kinematics
from training.presets import preset


def test_every_joint_with_both_sensors_is_found_once() -> None:
    """Cart: encoder (not the lidar) and tachometer, both scaled by 0.5. Pole: 0.2 rad and 0.5 rad/s. 0.01 s a tick."""
    channels = [LAYOUT.channels.index(c) for c in ("position_encoder.cart", "tachometer.cart",
                                                   "angle_encoder.pole", "gyro.pole")]  # fmt: skip
    pairs = joint_kinematics(LAYOUT, TIED, TICK_S)
    assert [(m.position, m.rate) for m in pairs] == [(channels[0], channels[1]), (channels[2], channels[3])]
    assert [m.change for m in pairs] == pytest.approx([0.01, 0.025])
    without_gyro = tuple(c for c in TIED if c != channels[3])
    assert joint_kinematics(LAYOUT, without_gyro, TICK_S) == pairs[:1]


def test_the_presets_know_their_joints() -> None:
    assert [(m.position, m.rate) for m in preset("kuka_reach").agent.kinematics] == [(i, 7 + i) for i in range(7)]
    assert len(preset("cartpole").agent.kinematics) == 2


def test_a_new_model_moves_positions_by_rates_and_keeps_the_rest() -> None:
    """Latents (z0, z1, z2) of the channels (2, 0, 1), where channel 0 is the rate of channel 2."""
    config = AgentConfig((Node("state", 4),), tied=(2, 0, 1), kinematics=(Motion(2, 0, 0.1),))
    agent = Agent(config, 3, 1)
    z, action = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[5.0]])
    drive, hidden = agent.model.transition(z, action)
    torch.testing.assert_close(drive, torch.tensor([[1.2, 2.0, 3.0, 3.6]]))
    expected = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.9]))
    expected[0, 1] = 0.1
    torch.testing.assert_close(agent.model.transition_jacobian(hidden)[0], expected)


def test_no_weight_moves_a_position_whose_rate_is_known() -> None:
    config = AgentConfig((Node("state", 4),), tied=(2, 0, 1), kinematics=(Motion(2, 0, 0.1),))
    model = Agent(config, 3, 1).double().model
    with torch.no_grad():
        for parameter in model.dynamics.parameters():
            parameter.normal_()
    z, action = torch.randn(5, 4).double(), torch.randn(5, 1).double()
    drive, hidden = model.transition(z, action)
    torch.testing.assert_close(drive[:, 0], z[:, 0] + 0.1 * z[:, 1])
    assert (drive[:, 1:] - z[:, 1:]).abs().min() > 1e-3
    for rows, known in ((hidden, hidden["state"]), ({"state": hidden["state"][:1]}, hidden["state"][:1])):
        slope = torch.tensor([1.0, 0.1, 0.0, 0.0]).double().expand(len(known), 4)
        torch.testing.assert_close(model.transition_jacobian(rows)[:, 0], slope)
    drive[:, 0].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.dynamics.parameters())


def test_kinematics_of_a_channel_without_a_latent_is_refused() -> None:
    with pytest.raises(GanglionError, match=r"channels \[1\], expected tied ones: \[0\]"):
        AgentConfig((Node("state", 4),), tied=(0,), kinematics=(Motion(0, 1, 0.1),))
