"""What a contract's channels say about each other: a joint's position moves by its velocity."""

from __future__ import annotations

from runtime.contract import Layout
from training.agent.config import Motion


def joint_kinematics(layout: Layout, tied: tuple[int, ...], period_s: float) -> tuple[Motion, ...]:
    """Of every joint that has both a position and a velocity among the `tied` channels.

    In a tick of `period_s` the normalised position changes by period · scale_velocity / scale_position times the
    normalised velocity. Of several sensors of the same quantity the first tied one counts.
    """
    found: dict[tuple[str, str], int] = {}
    for o in layout.observations:
        for channel, joint in zip(range(layout.slices[o.name].start, layout.size), o.channels):
            if channel in tied:
                found.setdefault((o.kind, joint), channel)
    positions = [(joint, i) for (kind, joint), i in found.items() if kind == "joint_position"]
    pairs = [(i, found[rate]) for joint, i in positions if (rate := ("joint_velocity", joint)) in found]
    return tuple(Motion(i, j, float(period_s * layout.scale[j] / layout.scale[i])) for i, j in pairs)
