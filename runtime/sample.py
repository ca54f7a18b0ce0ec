"""The latest reading of every sensor channel, with the time it was received."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from runtime.contract import Layout, Observation

NEVER = np.int64(-1)
"""Time stamp of a channel that has not been received."""


class Observed(Protocol):
    """What has observations, e.g. a contract."""

    @property
    def observations(self) -> tuple[Observation, ...]: ...

    @property
    def layout(self) -> Layout: ...


class Sample:
    """Flat SI values and receive times, filled by name.

    `values` is (D,) float64, `stamp_ns` (D,) int64 on the same monotonic clock as the tick's `now_ns`.
    """

    def __init__(self, contract: Observed) -> None:
        layout = contract.layout
        self.values = np.full(layout.size, np.nan)
        self.stamp_ns = np.full(layout.size, NEVER, dtype=np.int64)
        self._slices = layout.slices
        self._channel_index = {
            o.name: {c: layout.slices[o.name].start + i for i, c in enumerate(o.channels)}
            for o in contract.observations
        }

    def put(self, observation: str, values: np.ndarray, stamp_ns: int) -> None:
        """Set all channels of `observation` from (n,) SI values. Raises ValueError on another length."""
        where = self._slices[observation]
        if len(values) != where.stop - where.start:
            raise ValueError(f"'{observation}': got {len(values)} values, expected {where.stop - where.start}")
        self.values[where] = values
        self.stamp_ns[where] = stamp_ns

    def put_channel(self, observation: str, channel: str, value: float, stamp_ns: int) -> None:
        """Set one channel; a channel that the contract does not know is ignored."""
        index = self._channel_index[observation].get(channel)
        if index is not None:
            self.values[index] = value
            self.stamp_ns[index] = stamp_ns

    def put_flat(self, values: np.ndarray, stamp_ns: int) -> None:
        """Set every channel from (D,) SI values at one time."""
        self.values[:] = values
        self.stamp_ns[:] = stamp_ns

    def clear(self) -> None:
        """Forget everything received so far."""
        self.values[:] = np.nan
        self.stamp_ns[:] = NEVER
