"""Sensor faults by name, applied to a sample: the same ones in evaluation, in the ROS simulator and on replay.

    lost:TARGET        the channels read NaN
    dropout:TARGET=P   each channel reads NaN with probability P at every tick

TARGET is an observation, `observation.channel`, a channel (a joint's name means its encoder: position and velocity),
or `all`. Several targets are joined by `+`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.contract import Layout
from runtime.errors import ContractError

_FORMS = "'lost:TARGET' or 'dropout:TARGET=P'"


@dataclass(frozen=True)
class Fault:
    """One sensor fault, resolved against a layout."""

    name: str
    channels: np.ndarray
    """Indices of the affected channels."""
    probability: float
    """Chance of NaN per channel and tick; 1 for a lost sensor."""

    def apply(self, values: np.ndarray, rng: np.random.Generator) -> None:
        """Corrupt the SI values (D,) in place."""
        hit = rng.random(len(self.channels)) < self.probability
        values[self.channels[hit]] = np.nan


def parse_fault(text: str, layout: Layout) -> Fault:
    """Fault from its name, for the channels of `layout` (a contract's `layout`, or a task's).

    Required observations are spared by `all`. Raises ContractError that states the accepted forms.
    """
    kind, _, rest = text.partition(":")
    targets, equals, number = rest.partition("=")
    if kind not in ("lost", "dropout") or not targets or (kind == "dropout") != bool(equals):
        raise ContractError(f"fault '{text}' is not understood; expected {_FORMS}")
    probability = 1.0
    if kind == "dropout":
        try:
            probability = float(number)
        except ValueError:
            probability = -1.0
        if not 0.0 <= probability <= 1.0:
            raise ContractError(f"fault '{text}': got probability '{number}', expected a number from 0 to 1")
    found: list[np.ndarray] = []
    for target in targets.split("+"):
        if target == "all":
            found += [layout.channel_indices(o.name) for o in layout.observations if not o.required]
        else:
            found.append(layout.channel_indices(target))
    if not found:
        raise ContractError(f"fault '{text}': every observation is required, so 'all' spares them all; name one")
    return Fault(text, np.unique(np.concatenate(found)), probability)
