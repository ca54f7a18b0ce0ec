"""Belief about the sensors: frozen readings, and readings that contradict the prediction.

A channel is frozen when its fresh readings repeat exactly. A gate takes at most one channel at a time, the one whose
innovation is the most out of bounds in one tick (spike) or whose bias the slow averages of the innovations resemble the
most (drift), and only while most channels are quiet. So it cannot latch: a wrong belief makes most channels loud and
opens it, and the predicted variance of a gated channel grows with whatever no other channel observes.

The belief follows a biased rate, so it is the innovation of the position that stays; which channel is to blame is told
by the whole pattern, its signature.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

READING, REPEATS, SLOW, GATED = range(4)  # rows of the carried tensor
BELIEVED, FROZEN, DISTRUSTED = 0.0, 1.0, 2.0  # verdicts
OFF = 1e9  # a bound that is never reached
_NEVER_READ = 1e6  # normalised value that no reading has
_SLOWNESS = 0.02  # per tick: the slow average remembers half a second at 100 Hz
SLOW_STD = math.sqrt(_SLOWNESS / (2 - _SLOWNESS))  # of the average of white innovations of unit variance
_CLIP = 10.0  # standard deviations; one wild reading must not rule the average
_LOUD = 2.0  # standard deviations
_STAY = 2.0  # a gated channel is readmitted at half the bounds


class SensorBelief(nn.Module):
    """Bounds per channel, off until calibrated, and the checks."""

    spike: Tensor
    """(D,), largest |innovation| of one tick in predicted standard deviations."""
    drift: Tensor
    """(D,), largest resemblance of the slow averages to the channel's signature, in standard deviations of one."""
    signature: Tensor
    """(D, D), column i is the direction in which a bias of channel i moves the slow averages, of unit length."""
    repeats: Tensor
    """(D,), number of exact repeats that mean frozen."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("spike", "drift", "repeats"):
            self.register_buffer(name, torch.full((channels,), OFF))
        self.register_buffer("signature", torch.eye(channels))
        self.register_buffer("indices", torch.arange(channels))

    indices: Tensor

    def initial(self) -> Tensor:
        """Carried tensor (1, 4, D) before the first tick."""
        carried = torch.zeros(1, 4, len(self.spike))
        carried[:, READING] = _NEVER_READ
        return carried

    def flatline(self, x: Tensor, fresh: Tensor, carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each channel is alive, that is not frozen, its last reading and its repeats so far, each (B, D).

        `fresh` (B, D) is one where a believed reading x (B, D) arrived in this tick.
        """
        last, repeats, _, _ = (row.squeeze(1) for row in carried.split(1, 1))
        reading = torch.where(fresh.bool(), x, last)
        repeats = (reading == last).to(x.dtype) * (repeats + fresh)
        return (repeats < self.repeats).to(x.dtype), reading, repeats

    def gate(self, innovation: Tensor, seen: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        """Which channel is gated (one-hot or zero) and the slow averages, each (B, D).

        `innovation` (B, D) is in predicted standard deviations; `seen` (B, D) is one where there is a reading.
        """
        _, _, slow, gated = (row.squeeze(1) for row in carried.split(1, 1))
        slow = (1.0 - _SLOWNESS) * slow + _SLOWNESS * (seen * innovation.clamp(-_CLIP, _CLIP))
        size = innovation.abs()
        own = gated * slow  # a gated channel moves no other
        drift = torch.maximum(own.abs(), ((slow - own) @ self.signature).abs())
        score = torch.maximum(size / self.spike, drift / (SLOW_STD * self.drift))
        score = score * (seen * (1.0 + (_STAY - 1.0) * gated))
        loud = OFF * (seen * (size - _LOUD).sign()).sum(-1, keepdim=True)  # out of reach if most are loud
        rivals = torch.cat((torch.ones_like(loud), loud, score), -1)  # of a tie the first one wins, the bound
        worst = self.indices + 2 == rivals.argmax(-1, keepdim=True)
        return worst.to(innovation.dtype), slow

    def forward(
        self, x: Tensor, mask: Tensor, fresh: Tensor, innovation: Tensor, carried: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Verdict per channel (B, D) and the tensor to carry on (B, 4, D)."""
        _, verdict, carried = self.check(x, mask, fresh, innovation, carried)
        return verdict, carried

    def check(
        self, x: Tensor, mask: Tensor, fresh: Tensor, innovation: Tensor, carried: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is left of the mask (B, D) after the verdict, and what `forward` gives."""
        alive, reading, repeats = self.flatline(x, mask * fresh, carried)
        seen = mask * alive
        gated, slow = self.gate(innovation, seen, carried)
        believed = seen - gated
        verdict = FROZEN * (mask - believed) + (DISTRUSTED - FROZEN) * gated
        return believed, verdict, torch.stack((reading, repeats, slow, gated), 1)
