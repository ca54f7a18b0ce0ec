"""A trot: feet that take turns in pairs, placed by the commanded velocity, and the joints that put them there.

A central pattern generator for four-legged robots. It is part of the agent, so it goes into the bundle: its phase is
carried from tick to tick, and the policy corrects both the velocity that it is commanded and the joints that it
commands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FEATURES = 7
"""Count of `Trot.features`."""
_COMMANDS = 3  # vx, vy, wz
_MOVING = 2  # of these, which the feet tell
_NOW, _LASTS, _SHOVE = slice(1, 3), slice(3, 6), slice(6, 8)  # in the state
_ERROR, _LASTING = 0.3, 0.1  # m/s and rad/s that are one in the features: of the error now, and of the lasting one
_LARGEST = 0.3  # error that goes into the lasting one, m/s or rad/s: that of a push should not


@dataclass(frozen=True)
class Reading:
    """Latents that are tied to channels, and the units of those."""

    latents: tuple[int, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class Mirror:
    """How left and right change places: number i becomes `sign[i]` times number `order[i]`."""

    order: tuple[int, ...]
    sign: tuple[float, ...]


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
    foot_radius: float
    """m; feet are balls."""
    phases: tuple[float, ...]
    """Of each leg, in cycles."""
    period_s: float
    """Of a tick."""
    command: Reading
    """vx, vy, wz in m/s and rad/s."""
    position: Reading
    velocity: Reading
    """Of the joints, rad and rad/s."""
    gyro: Reading
    """Angular velocity of the base, rad/s."""
    joint_offset: tuple[float, ...]
    joint_scale: tuple[float, ...]
    """Of the action (A,), rad."""
    latents: Mirror
    """Of all latents."""
    joints: Mirror
    """Of the action."""
    frequency_hz: float = 3.0
    duty: float = 0.6
    """Share of the cycle with the foot on the ground."""
    contact_lag: float = 0.13
    """Share of the cycle by which feet touch and leave the ground later than they are commanded; drives are soft."""
    handover: float = 0.05
    """Share of the cycle in which the odometry passes from one pair of feet to the other."""
    lasting_s: float = 1 / 3
    """Over which the error of the velocity is averaged."""
    shove_threshold: float = 0.15
    """Error of the velocity, m/s, beyond which the robot was shoved: walking alone does not lead to more."""
    shove_s: float = 0.05
    """Over which that excess is averaged."""
    follow: float = 0.5
    """Share of the excess with which the feet follow, so that they do not trip the body."""
    catch_s: float = 0.1
    """Seconds of the excess by which the feet go ahead of the body, to catch it."""
    farthest_catch: float = 0.12
    """m."""
    lift: float = 0.06
    """Of a swinging foot, m."""
    weight: float = 0.0
    """That a foot on the ground carries, N."""
    stiffness: float = 1.0
    """Of the joints' drives, N·m/rad, which give way under the weight unless commanded that much farther."""
    loading: float = 0.1
    """Share of the cycle in which a foot takes the weight over, and gives it back."""
    joint_correction: float = 0.3
    """What the policy's unit is worth on a joint, rad."""
    command_correction: float = 0.3
    """What it is worth on the command, m/s and rad/s."""


class _Reader(nn.Module):
    """SI values of a reading."""

    latents: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.register_buffer("latents", torch.tensor(reading.latents))
        self.register_buffer("mean", torch.tensor(reading.mean))
        self.register_buffer("scale", torch.tensor(reading.scale))

    def forward(self, z: Tensor) -> Tensor:
        """(B, n) of the latents (B, Z)."""
        return z[..., self.latents] * self.scale + self.mean


class _Mirror(nn.Module):
    """Left and right exchanged."""

    order: Tensor
    sign: Tensor

    def __init__(self, mirror: Mirror, before: tuple[float, ...] = (), after: tuple[float, ...] = ()) -> None:
        """Signs of numbers that stay in their places `before` and `after` those of `mirror`."""
        super().__init__()
        moved = [len(before) + i for i in mirror.order]
        end = len(before) + len(moved)
        self.register_buffer("order", torch.tensor([*range(len(before)), *moved, *range(end, end + len(after))]))
        self.register_buffer("sign", torch.tensor((*before, *mirror.sign, *after)))

    def forward(self, values: Tensor) -> Tensor:
        """(B, n) for (B, n)."""
        return values[..., self.order] * self.sign


class Trot(nn.Module):
    """Joint angles from phase and command."""

    def __init__(self, config: TrotConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("hips", torch.tensor(config.hips, dtype=torch.float64).float())
        self.register_buffer("offsets", torch.tensor(config.offsets))
        self.register_buffer("phases", torch.tensor(config.phases))
        self.register_buffer("joint_offset", torch.tensor(config.joint_offset))
        self.register_buffer("joint_scale", torch.tensor(config.joint_scale))
        self.command, self.gyro = _Reader(config.command), _Reader(config.gyro)
        self.position, self.velocity = _Reader(config.position), _Reader(config.velocity)
        # half a cycle later the other pair of legs carries: sine and cosine change their signs
        self.mirrored = _Mirror(config.latents, after=(-1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0))
        """Of latents and features (B, Z + F)."""
        self.mirrored_correction = _Mirror(config.joints, before=(1.0, -1.0, -1.0))
        """(B, C)."""

    joint_offset: Tensor
    joint_scale: Tensor
    hips: Tensor
    offsets: Tensor
    phases: Tensor

    def initial(self) -> Tensor:
        """State (1, S) at the start.

        The phase in cycles, the error of vx and vy now in m/s, the lasting one of vx, vy, wz in m/s and rad/s, and the
        speed vx and vy of a shove in m/s.
        """
        return torch.zeros(1, 1 + _MOVING + _COMMANDS + _MOVING)

    def advanced(self, state: Tensor, z: Tensor) -> Tensor:
        """State (B, S) one tick later, at the latents (B, Z) found there."""
        c = self.config
        later = state[..., :1] + c.frequency_hz * c.period_s
        phase = later - later.floor()
        error, lasting, shove = self.error(phase, z), state[..., _LASTS], state[..., _SHOVE]
        now, most = error[..., :_MOVING], c.shove_threshold
        lasting = lasting + c.period_s / c.lasting_s * (error.clamp(-_LARGEST, _LARGEST) - lasting)
        shove = shove + c.period_s / c.shove_s * (now - now.clamp(-most, most) - shove)
        return torch.cat((phase, now, lasting, shove), -1)

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

    def _load(self, phase: Tensor) -> Tensor:
        """Share of its weight that every foot carries (B, L)."""
        c = self.config
        own = self._own_phases(phase)
        return (own / c.loading).clamp(max=1.0) * ((c.duty - own) / c.loading).clamp(0.0, 1.0)

    def _contact(self, phase: Tensor) -> Tensor:
        """How much every foot is trusted to rest on the ground (B, L): for half of a cycle, from when it has landed."""
        c = self.config
        since = self._own_phases(phase) - c.contact_lag
        since = since - since.floor()
        rises, falls, rises_again = since, 0.5 - since, since - 1.0
        shares = [(edge / c.handover + 0.5).clamp(0.0, 1.0) for edge in (rises, falls, rises_again)]
        return shares[0] * shares[1] + shares[2]

    def odometry(self, phase: Tensor, z: Tensor) -> Tensor:
        """Velocity (B, 2) of the base, vx and vy in m/s in its frame, if the feet that carry do not slip.

        A ball of radius R, at p from the base's frame, that rolls: v + w x p + J dq/dt = R w_shank x (0, 0, 1).
        """
        c = self.config
        hip, thigh, knee = self.position(z).unflatten(-1, (-1, 3)).unbind(-1)
        d_hip, d_thigh, d_knee = self.velocity(z).unflatten(-1, (-1, 3)).unbind(-1)
        roll, pitch, yaw = self.gyro(z).unsqueeze(-1).unbind(-2)
        shank = thigh + knee
        along = -c.link * (torch.sin(thigh) + torch.sin(shank))
        reach = c.link * (torch.cos(thigh) + torch.cos(shank))
        lateral = self.offsets * torch.cos(hip) + reach * torch.sin(hip)
        below = self.offsets * torch.sin(hip) - reach * torch.cos(hip)
        d_along = -reach * d_thigh - c.link * torch.cos(shank) * d_knee
        d_reach = along * d_thigh - c.link * torch.sin(shank) * d_knee
        d_lateral = -below * d_hip + torch.sin(hip) * d_reach
        rolling = c.foot_radius * (pitch + d_thigh + d_knee), -c.foot_radius * (roll + d_hip)
        vx = yaw * (self.hips[:, 1] + lateral) - pitch * below - d_along + rolling[0]
        vy = roll * below - yaw * (self.hips[:, 0] + along) - d_lateral + rolling[1]
        contact = self._contact(phase)
        share = contact / contact.sum(-1, keepdim=True)
        return torch.stack(((share * vx).sum(-1), (share * vy).sum(-1)), -1)

    def error(self, phase: Tensor, z: Tensor) -> Tensor:
        """By how much vx, vy, wz (B, 3) differ from the command, m/s and rad/s."""
        return torch.cat((self.odometry(phase, z), self.gyro(z)[..., 2:]), -1) - self.command(z)

    def features(self, state: Tensor) -> Tensor:
        """What the policy and the critic see of the gait (B, F) in the state (B, S).

        Sine and cosine of the phase, the error of vx and vy now, and the lasting error of vx, vy, wz.
        """
        angle = 2.0 * math.pi * state[..., :1]
        return torch.cat(
            (torch.sin(angle), torch.cos(angle), state[..., _NOW] / _ERROR, state[..., _LASTS] / _LASTING), -1
        )

    def even(self, policy: nn.Module, seen: Tensor) -> Tensor:
        """Correction (B, C) of a policy that treats left and right alike, for latents and features (B, Z + F).

        It is the mean of the policy's answer and of what it answers in the mirror.
        """
        here, there = policy(torch.cat((seen, self.mirrored(seen)))).chunk(2)
        return 0.5 * (here + self.mirrored_correction(there))

    def sag(self, phase: Tensor, feet: Tensor, joints: Tensor) -> Tensor:
        """How far the joints (B, 3 L) rad give way under the weight on the feet (B, L, 3): w J_z' / k, J_z = dz / dq.

        Feet in the air carry none.
        """
        c = self.config
        load = self._load(phase)
        x, y, _ = feet.unbind(-1)
        hip, thigh, _ = joints.unflatten(-1, (-1, 3)).unbind(-1)
        upright = torch.cos(hip)
        rise = torch.stack((y, -x * upright, -(x + c.link * torch.sin(thigh)) * upright), -1)  # dz of the foot / dq
        return (c.weight / c.stiffness * load.unsqueeze(-1) * rise).flatten(-2)

    @property
    def corrections(self) -> int:
        """Count of what the policy corrects: the command, and every joint."""
        return _COMMANDS + len(self.joint_scale)

    @property
    def joint_unit(self) -> Tensor:
        """What the policy's unit is worth on the joints, in normalised actions (A,)."""
        return self.config.joint_correction / self.joint_scale

    def forward(self, state: Tensor, z: Tensor, correction: Tensor) -> Tensor:
        """Normalised action (B, A) in the state (B, S), at the latents (B, Z), with the policy's correction (B, C)."""
        c, phase, shove = self.config, state[..., :1], state[..., _SHOVE]
        shift, bend = correction[..., :_COMMANDS], correction[..., _COMMANDS:]
        command = self.command(z) + c.command_correction * shift
        followed = nn.functional.pad(c.follow * shove, (0, _COMMANDS - _MOVING))
        caught = (c.catch_s * shove).clamp(-c.farthest_catch, c.farthest_catch)
        feet = self.feet(phase, command + followed) + nn.functional.pad(caught, (0, 1)).unsqueeze(-2)
        joints = self.joints(feet)
        return (joints - self.sag(phase, feet, joints) - self.joint_offset) / self.joint_scale + self.joint_unit * bend
