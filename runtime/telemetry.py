"""The record of one tick as one flat float64 vector: what was seen, decided and how long it took.

Every field is exact in float64 (times are split or relative), so a bag that holds these vectors replays bit for bit,
and any plotting tool can show them. `FIELDS` and the contract give the order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.contract import Contract
from runtime.controller import Command
from runtime.errors import BagError
from runtime.safety import Request, Status
from runtime.sample import NEVER, Sample

_SCALARS = (
    "activation", "tick", "now_s", "now_ns", "late", "status", "refine", "steps", "tolerance", "free_energy",
    "tick_us", "latency_us", "request",
)  # fmt: skip
_WHOLE = {
    "activation": 2**53, "tick": 2**53, "now_s": 2**33, "now_ns": 999_999_999, "late": 1, "status": max(Status),
    "refine": 2**53, "steps": 2**53, "request": max(Request),
}  # fmt: skip
"""Largest value of the fields that are whole numbers from 0."""
_CHECKED = tuple((_SCALARS.index(name), largest) for name, largest in _WHOLE.items())
_PER_CHANNEL = ("value", "age_ns", "reason", "innovation")
_NEVER_AGE = -1e18  # stands for a channel that was never received
_LEAST, _MOST = np.array([[-(2.0**62)], [0.0]]), np.array([[2.0**62], [255.0]])  # of age_ns and reason


def labels(contract: Contract) -> list[str]:
    """Name of every element of the vector."""
    channels = contract.layout.channels
    return [
        *_SCALARS,
        *(f"{field}.{c}" for field in _PER_CHANNEL for c in channels),
        *(f"command.{j}" for j in contract.action.joints),
    ]


@dataclass(frozen=True)
class Tick:
    """One tick, unpacked."""

    activation: int
    """Counts the activations of the node; the carried state starts anew with each."""
    tick: int
    """Counts the ticks since activation, from 0."""
    now_ns: int
    """Monotonic time of the tick."""
    late: bool
    """Started more than 2 ms after its schedule, or ended after the next tick's."""
    status: int
    refine: int
    """Refinement steps that were allowed."""
    steps: int
    """Refinement steps made."""
    tolerance: float
    """Of the refinement, nats."""
    free_energy: float
    tick_us: float
    """Duration of Controller.tick."""
    latency_us: float
    """From the header stamp of the newest sensor message to the publication of the command; NaN if unknown."""
    request: int
    """What was asked for since the tick before, see `runtime.safety.Request`."""
    values: np.ndarray
    """(D,) SI values as the tick saw them."""
    stamp_ns: np.ndarray
    """(D,) receive times."""
    reasons: np.ndarray
    innovation: np.ndarray
    command: np.ndarray
    """(A,) SI."""


def pack(
    contract: Contract,
    sample: Sample,
    now_ns: int,
    command: Command,
    *,
    activation: int,
    tick: int,
    late: bool,
    tick_us: float,
    latency_us: float,
) -> np.ndarray:
    """The vector of one tick, (len(labels(contract)),) float64."""
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    scalars = (
        activation, tick, seconds, nanoseconds, late, command.status, command.refine, command.steps, command.tolerance,
        command.free_energy, tick_us, latency_us, command.request,
    )  # fmt: skip
    age = np.where(sample.stamp_ns == NEVER, _NEVER_AGE, now_ns - sample.stamp_ns)
    return np.concatenate((scalars, sample.values, age, command.reasons, command.innovation, command.values))


def unpack(contract: Contract, vector: np.ndarray) -> Tick:
    """Inverse of `pack`. Raises BagError if the length does not fit the contract, or a number is none of `pack`."""
    size, joints, start = contract.layout.size, contract.layout.joints, len(_SCALARS)
    expected = start + len(_PER_CHANNEL) * size + joints
    if len(vector) != expected:
        raise BagError(
            f"a telemetry record has {len(vector)} numbers, the bundle's contract makes {expected}; "
            "replay the bag with the bundle that was running"
        )
    vector = np.asarray(vector, dtype=np.float64)
    scalars = vector[:start].tolist()
    for i, largest in _CHECKED:
        if not (0 <= scalars[i] <= largest and scalars[i].is_integer()):
            raise _damaged(f"{_SCALARS[i]} is {scalars[i]:g}", f"a whole number from 0 to {largest:d}")
    activation, tick, seconds, nanoseconds, late, status, refine, steps, *numbers, request = scalars
    tolerance, free_energy, tick_us, latency_us = numbers
    if not 0 <= tolerance < np.inf:
        raise _damaged(f"tolerance is {tolerance:g}", "0 or more nats")
    table = vector[start : start + 4 * size].reshape(4, size)
    values, age, reasons, innovation = table
    whole = table[1:3]
    fits = (whole >= _LEAST) & (whole <= _MOST) & (np.rint(whole) == whole)
    if not fits.all():
        i = int(np.argmin(fits.all(0)))
        got = f"age_ns and reason of {contract.layout.channels[i]} are {age[i]:g} and {reasons[i]:g}"
        raise _damaged(got, "whole numbers")
    now_ns = int(seconds) * 1_000_000_000 + int(nanoseconds)
    stamp_ns = now_ns - age.astype(np.int64)
    never = age == _NEVER_AGE
    if never.any():
        stamp_ns[never] = NEVER
    return Tick(
        activation=int(activation), tick=int(tick), now_ns=now_ns, late=bool(late), status=int(status),
        refine=int(refine), steps=int(steps), tolerance=tolerance, free_energy=free_energy, tick_us=tick_us,
        latency_us=latency_us,
        request=int(request), values=values, stamp_ns=stamp_ns, reasons=reasons.astype(np.uint8),
        innovation=innovation, command=vector[start + 4 * size :],
    )  # fmt: skip


def _damaged(got: str, expected: str) -> BagError:
    return BagError(f"a telemetry record is damaged: {got}, expected {expected}; copy or record the bag again")


def pack_state(state: dict[str, np.ndarray], activation: int, tick: int) -> np.ndarray:
    """What `Controller.state` returned before tick `tick`, as one vector."""
    return np.concatenate(([activation, tick], *(np.ravel(v) for v in state.values())))


def unpack_state(like: dict[str, np.ndarray], vector: np.ndarray) -> tuple[int, int, dict[str, np.ndarray]]:
    """Activation, tick and state; `like` is any state of the same controller.

    Raises BagError on another length, or on a number that is not finite.
    """
    sizes = [v.size for v in like.values()]
    if len(vector) != 2 + sum(sizes):
        raise BagError(
            f"a state record has {len(vector)} numbers, the bundle's controller makes {2 + sum(sizes)}; "
            "replay the bag with the bundle that was running"
        )
    if not np.isfinite(vector).all():
        raise _damaged("its state is not finite", "numbers")
    parts = np.split(np.asarray(vector[2:], dtype=np.float64), np.cumsum(sizes)[:-1])
    state = {name: part.reshape(like[name].shape) for name, part in zip(like, parts)}
    return int(vector[0]), int(vector[1]), state
