"""Judging a pilot: every fault at once, the same episodes for every pilot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.refinement_study.pilots import Pilot, Predictive
from runtime.contract import Layout
from training.agent.agent import Belief
from training.agent.sensors import DISTRUSTED, FROZEN

WINDOW = 50  # ticks over which a health signal is averaged before it is compared
FINAL = 50  # last ticks of an episode, whose cost tells where it ended


class Arena(Protocol):
    """Equal episodes under every fault, side by side: E episodes times F faults are N = F E rows, fault by fault."""

    layout: Layout
    faults: tuple[str, ...]
    episodes: int
    ticks: int
    start: int
    """First tick at which a fault may show."""

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Readings (N, D) SI, NaN where lost, and mask (N, D)."""

    def step(self, action: np.ndarray) -> None:
        """Execute normalised actions (N, A)."""

    def executed(self) -> np.ndarray:
        """Normalised actions (N, A) after limits."""

    def cost(self) -> np.ndarray:
        """(N,) of the tick that has passed."""

    def truth(self) -> np.ndarray:
        """The quantity (N,) whose estimate is judged, normalised as its channel."""

    def alive(self) -> np.ndarray:
        """(N,) bool, false after a failure."""


@dataclass
class Verdict:
    """What one pilot did; every array is (F, E) unless said otherwise."""

    cost: np.ndarray
    """Mean cost of each episode."""
    final: np.ndarray
    """Mean cost of the last ticks of each episode."""
    square_error: np.ndarray
    """Mean squared error of the estimate over the ticks alive, NaN for pilots without one."""
    failed: np.ndarray
    gated: np.ndarray
    """Fraction of ticks in which the gate masked each channel (F, D)."""
    frozen: np.ndarray
    """Fraction of ticks in which each channel was found frozen (F, D)."""
    signals: dict[str, np.ndarray] = field(default_factory=dict)
    """Health signals, the largest window mean after the fault's start."""


@torch.no_grad()
def judge(pilot: Pilot, arena: Arena, steps: int, checks: bool, estimate: int) -> Verdict:
    """Fly every episode. `checks` switches the sensor checks on; latent `estimate` is compared with the truth."""
    pilot.eval()
    layout, rows = arena.layout, len(arena.faults) * arena.episodes
    state = pilot.initial(rows)
    previous = torch.zeros(rows, layout.joints)
    k = torch.full((rows,), steps)
    if isinstance(pilot, Predictive):
        pilot.checks = checks
    cost, final, square, ticks = (np.zeros(rows) for _ in range(4))
    gated, frozen = np.zeros((rows, layout.size)), np.zeros((rows, layout.size))
    signals = Signals(rows)
    for tick in range(arena.ticks):
        readings, mask = arena.observe()
        x = np.where(mask > 0, (readings - layout.mean) / layout.scale, 0.0)
        normalised, seen = torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(mask, dtype=torch.float32)
        truth, alive = arena.truth(), arena.alive()
        action, state, record = pilot.tick(normalised, seen, previous, state, k)
        estimates = getattr(record, "z", None)  # of pilots that hold a belief
        square += np.nan if estimates is None else alive * (estimates[:, estimate].numpy() - truth) ** 2
        if isinstance(record, Belief):
            verdict = record.start.verdict.numpy()
            gated += verdict == DISTRUSTED
            frozen += verdict == FROZEN
            if tick >= arena.start:
                signals.add(record.free_energy, record.start.innovation, seen)
        ticks += alive
        arena.step(np.clip(action.numpy().astype(np.float64), -1.0, 1.0))
        previous = torch.as_tensor(arena.executed(), dtype=torch.float32)
        now = arena.cost()
        cost += now
        if tick >= arena.ticks - FINAL:
            final += now
    shape = (len(arena.faults), arena.episodes)
    return Verdict(
        cost=(cost / arena.ticks).reshape(shape),
        final=(final / FINAL).reshape(shape),
        square_error=(square / np.maximum(ticks, 1)).reshape(shape),
        failed=~arena.alive().reshape(shape),
        gated=(gated / arena.ticks).reshape(*shape, -1).mean(1),
        frozen=(frozen / arena.ticks).reshape(*shape, -1).mean(1),
        signals={name: value.reshape(shape) for name, value in signals.largest().items()},
    )


class Signals:
    """Health signals of N episodes: the largest mean over a window of ticks.

    free_energy is F; innovation is the mean of the squared innovations over the channels seen.
    """

    def __init__(self, rows: int) -> None:
        self._sums = {name: np.zeros(rows) for name in ("free_energy", "innovation")}
        self._largest = {name: np.full(rows, -np.inf) for name in self._sums}
        self._ticks = 0

    def add(self, free_energy: Tensor, innovation: Tensor, mask: Tensor) -> None:
        """One more tick: free energy (N,), innovation (N, D) in predicted standard deviations, mask (N, D)."""
        seen = mask.sum(-1).clamp(min=1.0)
        now = {"free_energy": free_energy, "innovation": innovation.square().sum(-1) / seen}
        self._ticks += 1
        for name, value in now.items():
            self._sums[name] += np.nan_to_num(value.numpy(), posinf=1e12)
            if self._ticks % WINDOW == 0:
                np.maximum(self._largest[name], self._sums[name] / WINDOW, out=self._largest[name])
                self._sums[name][:] = 0.0

    def largest(self) -> dict[str, np.ndarray]:
        """The largest window mean of each signal (N,); none of a pilot without any."""
        return self._largest if self._ticks else {}
