"""Belief about the sensors: frozen readings, and readings that contradict the prediction.

A channel is frozen when its fresh readings repeat exactly. A gate takes at most one channel at a time: the one whose
innovation jumps out of bounds in one tick (spike), or the one whose bias explains the slow averages of all innovations
far better than that of any other (drift), and only while most channels are quiet. So it cannot latch: a wrong belief
makes most channels loud and opens it, and the predicted variance of a gated channel grows with whatever no other
channel observes.

The belief follows a biased rate, so it is the innovation of the position that stays. Which channel is to blame is told
by the whole pattern, its signature, of which there is one for each age of the bias. By then the belief is wrong too, so
a channel blamed for its drift is held until the others have put the belief right.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

READING, REPEATS, SLOW, HELD = range(4)  # rows of the carried tensor
BELIEVED, FROZEN, DISTRUSTED = 0.0, 1.0, 2.0  # verdicts
OFF = 1e9  # a bound that is never reached
_NEVER_READ = 1e6  # normalised value that no reading has
AGES = (5, 10, 20, 40)
"""Of a bias, in ticks, at which its signature is known."""
_SLOWNESS = 0.05  # per tick: the slow average remembers a fifth of a second at 100 Hz
SLOW_STD = math.sqrt(_SLOWNESS / (2 - _SLOWNESS))  # of the average of white innovations of unit variance
_CLIP = 10.0  # standard deviations; one wild reading must not rule the average
_LOUD = 2.0  # standard deviations
_AT_ONCE, _OUT_OF_REACH = 1e3, 1e15  # scores: of a spike before any drift, and of none at all
_EVIDENCE = 6.0  # nats by which a bias of one channel must explain the averages better than that of any other
_LOOSE = 0.5  # of the bounds; too little to hold a channel
_HOLD = 16.0  # times the bounds, decaying with the averages to the bounds in half a second at 100 Hz


class SensorBelief(nn.Module):
    """Bounds per channel, off until calibrated, and the checks."""

    spike: Tensor
    """(D,), largest |innovation| of one tick in predicted standard deviations."""
    drift: Tensor
    """(D,), largest resemblance of the slow averages to the channel's signature, in standard deviations of one."""
    signature: Tensor
    """(D, ages D), of unit length, the direction in which a bias of channel i moves the slow averages, at one age after
    the other: columns i, i + D, ... Zero for a channel that is never gated."""
    repeats: Tensor
    """(D,), number of exact repeats that mean frozen."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("spike", "drift", "repeats"):
            self.register_buffer(name, torch.full((channels,), OFF))
        self.register_buffer("signature", torch.eye(channels).repeat(1, len(AGES)))
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

    def gate(self, innovation: Tensor, seen: Tensor, carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which channel is gated (one-hot or zero), the slow averages, and how firmly it is gated, each (B, D).

        `innovation` (B, D) is in predicted standard deviations; `seen` (B, D) is one where there is a reading.
        """
        _, _, slow, held = (row.squeeze(1) for row in carried.split(1, 1))
        gated, innovation = held.sign(), seen * innovation
        slow, size = self.averaged(slow, innovation), innovation.abs()
        drift = seen * self.resemblance(slow, gated)
        jump = size / self.spike
        bounds = torch.maximum(jump, drift / (SLOW_STD * self.drift))

        explained = drift.square()
        best = (self.indices == drift.argmax(-1, keepdim=True)).to(drift.dtype)
        of_best = best * explained
        lead = of_best.amax(-1, keepdim=True) - (explained - of_best).amax(-1, keepdim=True)
        told = torch.minimum(lead / (2.0 * _EVIDENCE * SLOW_STD**2), bounds.amax(-1, keepdim=True))
        spiking = jump > 1.0
        blamed = torch.where(spiking, _AT_ONCE * jump, told * (best * (self.drift < OFF)))
        busy = gated.amax(-1, keepdim=True) > 0.0
        kept = torch.maximum(bounds + bounds * gated, held)  # readmitted at half the bounds
        score = torch.where(busy, kept, blamed)

        loud = _OUT_OF_REACH * (seen * (size - _LOUD).sign()).sum(-1, keepdim=True)  # positive if most are
        rivals = torch.cat((torch.ones_like(loud), loud, score), -1)  # of a tie the first one wins, the bound
        worst = (self.indices + 2 == rivals.argmax(-1, keepdim=True)).to(drift.dtype)
        firmness = worst * torch.maximum((1.0 - _SLOWNESS) * held, torch.where(busy | spiking, _LOOSE, _HOLD))
        drifted = firmness.amax(-1, keepdim=True) >= _HOLD
        return seen * worst, torch.where(drifted, 0.0, slow), firmness

    def averaged(self, slow: Tensor, innovation: Tensor) -> Tensor:
        """The slow averages after one more innovation, (B, D) each; one that is missing is zero."""
        return (1.0 - _SLOWNESS) * slow + _SLOWNESS * innovation.clamp(-_CLIP, _CLIP)

    def resemblance(self, slow: Tensor, gated: Tensor) -> Tensor:
        """Of the slow averages to each channel's signature; a `gated` channel moves no other. All (B, D)."""
        own = gated * slow
        ages = ((slow - own) @ self.signature).abs().unflatten(-1, (len(AGES), slow.shape[-1]))
        return torch.maximum(own.abs(), ages.amax(-2))

    def forward(
        self, x: Tensor, mask: Tensor, fresh: Tensor, innovation: Tensor, carried: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is left of the mask (B, D), the verdict per channel (B, D) and the tensor to carry on (B, 4, D)."""
        alive, reading, repeats = self.flatline(x, mask * fresh, carried)
        seen = mask * alive
        gated, slow, firmness = self.gate(innovation, seen, carried)
        believed = seen - gated
        verdict = FROZEN * (mask - believed) + (DISTRUSTED - FROZEN) * gated
        return believed, verdict, torch.stack((reading, repeats, slow, firmness), 1)
