"""The safety states of a tick: engaging smoothly, acting, holding, and a stop that only a person ends."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from runtime.contract import Action
from runtime.errors import ContractError

MOST_FAILURES = 10
"""Ticks in a row whose output is not finite, after which the controller stops for good."""
LONGEST_ENGAGE_S = 3600.0


class Status(IntEnum):
    """What the command of a tick is."""

    WAITING = 0
    """The robot's pose has not been seen; there is nothing safe to command and the values must not be sent."""
    ACTIVE = 1
    """The agent acts."""
    HOLDING = 2
    """The contract's safe action, until what is wrong has gone."""
    ENGAGING = 3
    """On the way from where the robot was to what the agent wants."""
    STOPPED = 4
    """The contract's safe action, until somebody engages again."""


class Request(IntEnum):
    """What somebody asked for between two ticks; recorded, so that a replay can ask for it too."""

    NONE = 0
    ENGAGE = 1
    STOP = 2


class Safety:
    """Whether the agent may act, and how far it is engaged. All that is carried is in `state`."""

    def __init__(self, action: Action, rate_hz: float, engage_s: float = 0.0) -> None:
        """Engaging takes `engage_s`; the agent acts at once if 0.

        Raises ContractError if it is negative, or more than an hour.
        """
        if not 0 <= engage_s <= LONGEST_ENGAGE_S:
            raise ContractError(
                f"engage_s is {engage_s:g}, expected 0 (at once) or more seconds, {LONGEST_ENGAGE_S:g} at most"
            )
        self._increment = action.mode == "increment"
        self._position = action.kind == "position"
        self._from = np.zeros(len(action.joints))
        self._all = round(engage_s * rate_hz)
        self._ticks = self._failures = 0
        self.stopped = False
        self.cause = ""
        """Why it is stopped; empty if it is not, or if that was before a restored state."""

    def reset(self) -> None:
        """Not stopped; whoever starts engages."""
        self._from[:] = 0.0
        self._ticks = self._failures = 0
        self.stopped, self.cause = False, ""

    def engage(self, command: np.ndarray) -> None:
        """From the last `command` (A,) on; ends a stop."""
        self.reset()
        if self._position:
            self._from[:] = command

    def stop(self, cause: str) -> None:
        """Until `engage`; the first cause is kept."""
        if not self.stopped:
            self.stopped, self.cause = True, cause

    def answered(self, finite: bool) -> None:
        """Whether the agent's output of this tick is finite. Stops after `MOST_FAILURES` in a row that are not."""
        self._failures = 0 if finite else self._failures + 1
        if self._failures >= MOST_FAILURES:
            self.stop(f"the agent's output was not finite in {MOST_FAILURES} ticks in a row")

    def engaged(self, command: np.ndarray, previous: np.ndarray) -> tuple[np.ndarray, Status]:
        """What to command (A,) of what the agent wants, and the status that this makes.

        A share that grows as 3 s^2 - 2 s^3 with the time s, of the way from the pose at which it was engaged, or from
        no effort or velocity; of the increment to the `previous` command (A,) where the action is one.
        """
        if self._ticks >= self._all:
            return command, Status.ACTIVE
        self._ticks += 1
        s = self._ticks / (self._all + 1)
        start = previous if self._increment else self._from
        return start + s * s * (3.0 - 2.0 * s) * (command - start), Status.ENGAGING

    def state(self) -> dict[str, np.ndarray]:
        """Copies of what is carried, float64, by name."""
        return {
            "safety.from": self._from.copy(),
            "safety.engaged": np.array([self._ticks, self._all], np.float64),
            "safety.stopped": np.array([self.stopped, self._failures], np.float64),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned. Raises KeyError if a name is missing."""
        self._from[:] = state["safety.from"]
        self._ticks, self._all = (int(n) for n in state["safety.engaged"])
        stopped, failures = state["safety.stopped"]
        self.stopped, self._failures, self.cause = bool(stopped), int(failures), ""
