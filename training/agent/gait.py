"""A trot: feet that take turns in pairs, placed by the commanded velocity, and the joints that put them there.

A central pattern generator for four-legged robots. It is part of the agent, so it goes into the bundle: its phase is
carried from tick to tick, and the policy corrects what it commands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TrotConfig:
    """Of four legs with three joints each: hip about x, thigh and knee about y."""

    hips: tuple[tuple[float, float], ...]
    """Where the axis of each hip crosses the base's frame, x and y in m."""
    offsets: tuple[float, ...]
    """From each hip to the plane of its leg, m, to the left."""
    link: float
    """Length of thigh and of shank, m."""
    height: float
    """Of the base's frame above the feet's centres, m."""
    phases: tuple[float, ...]
    """Of each leg, in cycles."""
    period_s: float
    """Of a tick."""
    frequency_hz: float = 3.0
    duty: float = 0.6
    """Share of the cycle with the foot on the ground."""
    lift: float = 0.06
    """Of a swinging foot, m."""
    weight: float = 0.0
    """That a foot on the ground carries, N."""
    stiffness: float = 1.0
    """Of the joints' drives, N·m/rad, which give way under the weight unless commanded that much farther."""
    loading: float = 0.1
    """Share of the cycle in which a foot takes the weight over, and gives it back."""
    command: tuple[int, ...] = ()
    """Latents that are the command vx, vy, wz."""
    command_mean: tuple[float, ...] = ()
    command_scale: tuple[float, ...] = ()
    """Of their channels."""
    joint_offset: tuple[float, ...] = ()
    joint_scale: tuple[float, ...] = ()
    """Of the action (A,), rad."""
    residual: float = 0.3
    """What the policy's unit is worth, rad."""


class Trot(nn.Module):
    """Joint angles from phase and command."""

    def __init__(self, config: TrotConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("hips", torch.tensor(config.hips, dtype=torch.float64).float())
        self.register_buffer("offsets", torch.tensor(config.offsets))
        self.register_buffer("phases", torch.tensor(config.phases))
        self.register_buffer("indices", torch.tensor(config.command))
        for name in ("command_mean", "command_scale", "joint_offset", "joint_scale"):
            self.register_buffer(name, torch.tensor(getattr(config, name)))

    command_mean: Tensor
    command_scale: Tensor
    joint_offset: Tensor
    joint_scale: Tensor
    indices: Tensor
    hips: Tensor
    offsets: Tensor
    phases: Tensor

    def advanced(self, phase: Tensor) -> Tensor:
        """Phase (B, 1) in cycles, one tick later."""
        later = phase + self.config.frequency_hz * self.config.period_s
        return later - later.floor()

    def rhythm(self, phase: Tensor) -> Tensor:
        """Sine and cosine of the phase (B, 1), (B, 2)."""
        angle = 2.0 * math.pi * phase
        return torch.cat((torch.sin(angle), torch.cos(angle)), -1)

    def _own_phases(self, phase: Tensor) -> Tensor:
        """Of every leg (B, L), in cycles since its foot touched the ground."""
        own = phase + self.phases
        return own - own.floor()

    def feet(self, phase: Tensor, command: Tensor) -> Tensor:
        """Position of every foot against its hip (B, L, 3) m, at the phase (B, 1) and command (B, 3): vx, vy, wz."""
        c = self.config
        own = self._own_phases(phase)
        ground = (own / c.duty).clamp(max=1.0)
        swing = ((own - c.duty) / (1.0 - c.duty)).clamp(min=0.0)
        # where the foot is along its step: forward half to backward half on the ground, back through the air
        smooth = 0.5 - 0.5 * torch.cos(math.pi * swing)
        along = torch.where(own < c.duty, 0.5 - ground, smooth - 0.5)
        stance_s = c.duty / c.frequency_hz
        neutral = torch.stack((self.hips[:, 0], self.hips[:, 1] + self.offsets), -1)  # of the feet, in the base's frame
        vx = command[:, :1] - command[:, 2:] * neutral[:, 1]
        vy = command[:, 1:2] + command[:, 2:] * neutral[:, 0]
        x, y = vx * stance_s * along, self.offsets + vy * stance_s * along
        z = -c.height + c.lift * torch.sin(math.pi * swing).square()
        return torch.stack((x, y, z), -1)

    def joints(self, feet: Tensor) -> Tensor:
        """Hip, thigh and knee of every leg (B, 3 L) rad that put the feet (B, L, 3) there."""
        x, y, z = feet.unbind(-1)
        reach = (y.square() + z.square() - self.offsets.square()).clamp(min=1e-4).sqrt()
        hip = torch.atan2(z, y) - torch.atan2(-reach, self.offsets.expand_as(reach))
        hip = torch.atan2(torch.sin(hip), torch.cos(hip))
        length = (x.square() + reach.square()).sqrt().clamp(max=1.999 * self.config.link)
        bend = torch.acos(length / (2.0 * self.config.link))
        thigh = torch.atan2(-x, reach) + bend
        return torch.stack((hip, thigh, -2.0 * bend), -1).flatten(-2)

    def sag(self, phase: Tensor, feet: Tensor, joints: Tensor) -> Tensor:
        """How far the joints (B, 3 L) rad give way under the weight on the feet (B, L, 3): w J_z' / k, J_z = dz / dq.

        Feet in the air carry none.
        """
        c = self.config
        own = self._own_phases(phase)
        load = (own / c.loading).clamp(max=1.0) * ((c.duty - own) / c.loading).clamp(0.0, 1.0)
        x, y, _ = feet.unbind(-1)
        hip, thigh, _ = joints.unflatten(-1, (-1, 3)).unbind(-1)
        upright = torch.cos(hip)
        rise = torch.stack((y, -x * upright, -(x + c.link * torch.sin(thigh)) * upright), -1)  # dz of the foot / dq
        return (c.weight / c.stiffness * load.unsqueeze(-1) * rise).flatten(-2)

    @property
    def residual(self) -> Tensor:
        """What the policy's unit is worth in normalised actions (A,)."""
        return self.config.residual / self.joint_scale

    def forward(self, phase: Tensor, z: Tensor) -> Tensor:
        """Normalised action (B, A) at the phase (B, 1) and the latents (B, Z)."""
        command = z[..., self.indices] * self.command_scale + self.command_mean
        feet = self.feet(phase, command)
        joints = self.joints(feet)
        return (joints - self.sag(phase, feet, joints) - self.joint_offset) / self.joint_scale
