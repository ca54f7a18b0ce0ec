"""The linked timelines of the report: of one replay, and of several over each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runtime.contract import Contract
from runtime.replay.report.panels import replay_panels
from runtime.replay.report.stack import Panel, Times, Trace, selectable, stack
from runtime.replay.timeline import Timeline

SERIES = ("$blue", "$orange", "$green", "$purple", "$sky", "$red")
"""Colours of things that stand side by side, told apart by the colour-blind too."""


def replay_figure(timeline: Timeline, contract: Contract, steps: int) -> dict[str, Any]:
    """The course of one replay; `steps` is the K whose calibration bounds the free energy."""
    times = Times(timeline, contract.rate_hz)
    return stack(replay_panels(timeline, times, contract, steps), times, timeline.events)


def comparison_figure(runs: Sequence[tuple[str, Timeline, Contract]]) -> dict[str, Any]:
    """Several replays of one bag over each other; each run has its name, and the first one gives the time axis."""
    _, first, contract = runs[0]
    lines = [
        (name, timeline, Times(timeline, c.rate_hz, shared=False), SERIES[i % len(SERIES)])
        for i, (name, timeline, c) in enumerate(runs)
    ]

    def over(values: Callable[[Timeline], np.ndarray], **style: Any) -> list[Trace]:
        return [times.line(values(timeline), colour, name, **style) for name, timeline, times, colour in lines]

    commands = []
    for i, joint in enumerate(first.joints):
        recorded = lines[0][2].line(first.series[f"recorded.{joint}"].mean, "$ink", "recorded", 2.5) | {"opacity": 0.35}
        answers = [
            times.line(timeline.series[f"command.{joint}"].mean, colour, name)
            for name, timeline, times, colour in lines
            if joint in timeline.joints
        ]
        commands += [selectable(trace, joint, i == 0) for trace in (recorded, *answers)]
    from_zero = {"rangemode": "tozero"}
    errors = over(lambda t: t.series["error"].high)
    surprises = over(lambda t: t.series["sustained_surprise"].high)
    masked = over(lambda t: t.masked.mean(1), shape="hv")
    panels = [
        Panel(f"<b>Command</b>, {contract.action.unit}", 190, commands),
        Panel(f"<b>Error</b>, largest of all joints, {contract.action.unit}", 120, errors, from_zero),
        Panel("<b>Surprise</b>, over half a second", 120, surprises, from_zero),
        Panel(
            "<b>Masked</b>, share of the channels", 70, masked, {"range": [0, 1.02], "tickformat": ".0%", "nticks": 3}
        ),
        Panel("<b>Tick</b> in this replay, ms", 90, over(lambda t: 1e-3 * t.series["wall_us"].mean), from_zero),
    ]
    return stack(panels, lines[0][2], first.events)
