"""Belief about the sensors: frozen readings, and readings that contradict the prediction.

A channel is frozen when its fresh readings repeat exactly. A gate takes at most one channel at a time: the one whose
bias explains the averages of all innovations far better than that of any other (drift), or the one whose innovation
jumps out of bounds in one tick (spike) if no other explains it far better, and only while most channels are quiet. So
it cannot latch: a wrong belief makes most channels loud and opens it, and the predicted variance of a gated channel
grows with whatever no other channel observes.

The belief follows a biased rate, so it is the innovation of the position that stays. Which channel is to blame is told
by the whole pattern, its signature, of which there is one for each age of the bias. A fast average beside a slow one
tells what comes from what goes: the innovation of a biased position jumps and fades, that of a position whose rate is
biased grows. By then the belief is wrong too, so a channel blamed for its drift is held until the others have put the
belief right. The less so, and the sooner it is readmitted, the more the belief is in doubt, which tells that there are
no others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

READING, REPEATS, FAST, SLOW, HELD = range(5)  # rows of the carried tensor
AVERAGES = slice(FAST, HELD)
BELIEVED, FROZEN, DISTRUSTED = 0.0, 1.0, 2.0  # verdicts
OFF = 1e9  # a bound that is never reached
_NEVER_READ = 1e6  # normalised value that no reading has
AGES = (5, 10, 20, 40)
"""Of a bias, in ticks, at which its signature is known."""
_FAST, _SLOW = 0.2, 0.05  # per tick: the averages remember 5 and 20 ticks
SLOW_STD = math.sqrt(_SLOW / (2 - _SLOW))  # of the slow average of white innovations of unit variance
_CLIP = 10.0  # standard deviations; one wild reading must not rule the averages
_LOUD = 2.0  # standard deviations
_OUT_OF_REACH = 1e15  # a score
_EVIDENCE = 6.0  # nats by which a bias of one channel must explain the averages better than that of any other
_FAR = 12.0  # nats by which it must do so for a spike of the other to be its doing
_LOOSE = 0.5  # of the bounds; too little to hold a channel
_HOLD = 32.0  # times the bounds; decays with the slow average to the bounds in 0.7 s at 100 Hz, without doubt


def matched(moved: Tensor) -> Tensor:
    """(2, D, H) that resembles averages `moved` (2, D, H) the most: S^-1 m / sqrt(m' S^-1 m), zero where m is.

    S is the covariance of the averages of white innovations of unit variance, whose resemblance is of unit variance.
    """
    pace = torch.tensor([_FAST, _SLOW], dtype=torch.float64)
    together = pace[:, None] * pace / (1.0 - (1.0 - pace[:, None]) * (1.0 - pace))
    weighed = torch.einsum("ab,bdh->adh", torch.linalg.inv(together).to(moved), moved)
    return weighed / (moved * weighed).sum((0, 1)).clamp(min=1e-24).sqrt()


class SensorBelief(nn.Module):
    """Bounds per channel, off until calibrated, and the checks."""

    spike: Tensor
    """(D,), largest |innovation| of one tick in predicted standard deviations."""
    drift: Tensor
    """(ages, D), largest resemblance of the averages to the channel's signature, in standard deviations of one."""
    signature: Tensor
    """(2 D, ages D), what the fast and the slow averages are multiplied by for their resemblance to a bias of channel i
    at one age after the other: columns i, i + D, ... Zero for a channel that is never gated."""
    repeats: Tensor
    """(D,), number of exact repeats that mean frozen."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("spike", "repeats"):
            self.register_buffer(name, torch.full((channels,), OFF))
        self.register_buffer("drift", torch.full((len(AGES), channels), OFF))
        own = torch.cat((torch.zeros(channels, channels), torch.eye(channels) / SLOW_STD))
        self.register_buffer("signature", own.repeat(1, len(AGES)))
        self.register_buffer("indices", torch.arange(channels))
        self.register_buffer("paces", torch.tensor([[_FAST], [_SLOW]]))

    indices: Tensor
    paces: Tensor

    def initial(self) -> Tensor:
        """Carried tensor (1, 5, D) before the first tick."""
        carried = torch.zeros(1, 5, len(self.spike))
        carried[:, READING] = _NEVER_READ
        return carried

    def flatline(self, x: Tensor, fresh: Tensor, carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each channel is alive, that is not frozen, its last reading and its repeats so far, each (B, D).

        `fresh` (B, D) is one where a believed reading x (B, D) arrived in this tick.
        """
        last, repeats, _, _ = _rows(carried)
        reading = torch.where(fresh.bool(), x, last)
        repeats = (reading == last).to(x.dtype) * (repeats + fresh)
        return (repeats < self.repeats).to(x.dtype), reading, repeats

    def gate(self, innovation: Tensor, noise: Tensor, seen: Tensor, carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which channel is gated (one-hot or zero), (B, D), the averages (B, 2, D), and its hold, (B, D).

        `innovation` (B, D) is in predicted standard deviations; `noise` (D,) or (B, D) is the share of their squares
        that is the sensor's own, the rest being doubt; `seen` (B, D) is one where there is a reading. The hold carried
        is firmer than that of this tick by the square of the share.
        """
        _, _, averages, hold = _rows(carried)
        unit = noise.square()
        held = hold * unit
        gated, innovation = hold.sign(), seen * innovation
        averages, size = self.averaged(averages, innovation), innovation.abs()
        drift = seen.unsqueeze(-2) * self.resemblance(averages, gated, noise)
        jump, drifting = size / self.spike, (drift / self.drift).amax(-2)
        bounds = torch.maximum(jump, drifting)

        largest = drift.amax(-2)
        explained = largest.square()
        best = (self.indices == largest.argmax(-1, keepdim=True)).to(drift.dtype)
        most = explained.amax(-1, keepdim=True)
        lead = most - (explained - best * explained).amax(-1, keepdim=True)
        told = torch.minimum(lead / (2.0 * _EVIDENCE), drifting)
        spiking = (jump > 1.0) & (most - explained < 2.0 * _FAR)
        blamed = torch.maximum(2.0 * spiking * jump, told * best)  # a spike comes first
        is_gated = gated > 0.0
        kept = torch.maximum(2.0 * bounds, held)  # readmitted at half the bounds
        score = torch.where(is_gated, kept, blamed)

        loud = _OUT_OF_REACH * ((seen - gated) * (size - _LOUD).sign()).sum(-1, keepdim=True)  # positive if most are
        rivals = torch.cat((torch.ones_like(loud), loud, score), -1)  # of a tie the first one wins, the bound
        worst = (self.indices + 2 == rivals.argmax(-1, keepdim=True)).to(drift.dtype)
        firmness = worst * torch.maximum((1.0 - _SLOW) * held, torch.where(is_gated | spiking, _LOOSE, _HOLD))
        # whoever is blamed or readmitted: what the wrong belief has left in the averages tells nothing
        anew = torch.maximum(firmness / _HOLD, gated - worst).amax(-1, keepdim=True) >= 1.0
        return seen * worst, torch.where(anew.unsqueeze(-1), 0.0, averages), firmness / unit

    def averaged(self, averages: Tensor, innovation: Tensor) -> Tensor:
        """The averages (B, 2, D) after one more innovation (B, D); one that is missing is zero."""
        return (1.0 - self.paces) * averages + self.paces * innovation.clamp(-_CLIP, _CLIP).unsqueeze(-2)

    def resemblance(self, averages: Tensor, gated: Tensor, noise: Tensor) -> Tensor:
        """Of the averages (B, 2, D) to each channel's signatures, (B, ages, D), in standard deviations of one.

        A `gated` channel (B, D) moves no other, and is told by its own slow average: that of its `noise`, a share of
        the variance, is white, but doubt stays from tick to tick.
        """
        own = averages * gated.unsqueeze(-2)
        ages = ((averages - own).flatten(-2) @ self.signature).unflatten(-1, self.drift.shape)
        std = (1.0 - (1.0 - SLOW_STD**2) * noise).sqrt().unsqueeze(-2)
        return torch.maximum((own[:, 1:] / std).abs(), ages.abs())

    def forward(
        self, x: Tensor, mask: Tensor, fresh: Tensor, innovation: Tensor, noise: Tensor, carried: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is left of the mask (B, D), the verdict per channel (B, D) and the tensor to carry on (B, 5, D).

        See `flatline` and `gate`.
        """
        alive, reading, repeats = self.flatline(x, mask * fresh, carried)
        seen = mask * alive
        gated, averages, hold = self.gate(innovation, noise, seen, carried)
        believed = seen - gated
        verdict = FROZEN * (mask - believed) + (DISTRUSTED - FROZEN) * gated
        reading, repeats, hold = (row.unsqueeze(1) for row in (reading, repeats, hold))
        return believed, verdict, torch.cat((reading, repeats, averages, hold), 1)


def _rows(carried: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Last reading (B, D), repeats (B, D), averages (B, 2, D) and hold (B, D) of the carried (B, 5, D)."""
    reading, repeats, averages, held = carried.split((1, 1, 2, 1), 1)
    return reading.squeeze(1), repeats.squeeze(1), averages, held.squeeze(1)
