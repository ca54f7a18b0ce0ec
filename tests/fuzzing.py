"""What every command must be, whatever comes in, and the numbers and texts that break things."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime.bundle import Bundle
from runtime.contract import Contract, Observation
from runtime.controller import Command, Controller
from runtime.messages import KINDS
from runtime.safety import Status
from tests.tiny_bundle import tiny_contract

PERIOD_NS = 10_000_000
NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 1e-320, 1e-30, 1e30, -1e30, 1.7e308, -1.7e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS = ("", " ", "lbr_iiwa_joint_1", "a.b", "\x07", "é", "关节", "\U0001f916", "'; --", "../..", "x" * 5000)


class Judge:
    """Looks at the commands of one controller, from its first tick on."""

    def __init__(self, bundle: Bundle, refine: int | None = None, engage_s: float = 0.0) -> None:
        self.controller = Controller(bundle, refine, engage_s)
        self.restart()

    def restart(self) -> None:
        """The controller was reset."""
        self.acted = 0
        """Ticks in which the agent acted."""
        self._previous: np.ndarray | None = None

    def check(self, command: Command, measured: np.ndarray) -> None:
        """`measured` are the values (D,) that the tick saw."""
        values, limits = command.values, self.controller.limits
        assert np.isfinite(values).all()
        assert np.isfinite(command.free_energy)
        assert np.isfinite(command.innovation).all()
        if command.status == Status.WAITING:
            assert self._previous is None, "once the pose was seen there is always a command"
            return
        pose = self.controller._pose
        start = np.zeros_like(values) if pose is None else measured[pose]
        before = start if self._previous is None else self._previous
        slack = 1e-9 * (1 + np.abs(before))
        assert (np.abs(values - before) <= limits.max_step + slack).all(), "its rate"
        outside = np.maximum(limits.low - values, values - limits.high)
        was_outside = np.maximum(limits.low - before, before - limits.high)
        assert ((outside <= slack) | (outside <= was_outside + slack)).all(), "its limits"
        self._previous = values.copy()
        self.acted += command.status in (Status.ACTIVE, Status.ENGAGING)


def every_kind() -> Contract:
    """The arm, with a sensor of every kind that there is, each on a topic of its own but for the joints."""
    base = tiny_contract("kuka_reach")
    joints, more = base.action.joints, []
    for kind, travel in KINDS.items():
        channels = travel.channels or joints
        n = len(channels)
        topic = "joint_states" if travel.message_type.endswith("JointState") else kind
        if kind != "joint_position":
            more.append(
                Observation(kind, kind, topic, channels, "1", (0.0,) * n, (1.0,) * n, (-20.0,) * n, (20.0,) * n, 0.1, 0)
            )
    return replace(base, observations=(base.observations[0], *more))
