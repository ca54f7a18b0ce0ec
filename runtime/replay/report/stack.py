"""A stack of panels on one time axis as a plotly figure, in plain values.

Colours are tokens such as `$blue`, which the page replaces by those of its theme; `$time` and `$edges` stand for the
time axis, which all traces share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.replay.timeline import Band, Event, Timeline

Trace = dict[str, Any]
_TITLE_PX, _FOOT_PX, _HEAD_PX, _LABELS_PX = 34, 44, 4, 136
_PERIODS_OF_A_BREAK = 3  # a longer silence breaks the lines


@dataclass
class Panel:
    """One row of the stack."""

    title: str
    height: int
    """Pixels."""
    traces: list[Trace]
    axis: dict[str, Any] = field(default_factory=dict)
    """Of its y axis, as plotly takes it."""
    bounds: list[tuple[float, str]] = field(default_factory=list)
    """Dashed lines: value and words."""


class Times:
    """The time axis of a timeline, broken where nothing was recorded, and traces along it."""

    def __init__(self, timeline: Timeline, rate_hz: float, shared: bool = True) -> None:
        """The traces refer to the axis of the figure if it is `shared`, and hold their own times otherwise."""
        begin, period = timeline.begin_s, 1 / rate_hz
        # A bin that holds a gap ends where its ticks would have ended without.
        end = np.minimum(timeline.end_s, begin + (timeline.ticks * 1.5 + _PERIODS_OF_A_BREAK) * period)
        self._breaks = np.flatnonzero(begin[1:] - end[:-1] > _PERIODS_OF_A_BREAK * period) + 1
        silent = end[self._breaks - 1] + period
        self.time = plain(self._broken((begin + end) / 2, silent), 5)
        self.edges = plain(np.append(self._broken(begin, silent), end[-1:] + period), 5)
        self.span = (float(begin[0]), float(timeline.end_s[-1] + period))
        self._x: Any = "$time" if shared else self.time

    def _broken(self, values: np.ndarray, at_breaks: Any = np.nan) -> np.ndarray:
        """(B + breaks,) with `at_breaks` where nothing was recorded."""
        return np.insert(values.astype(float), self._breaks, at_breaks)

    def plain(self, values: np.ndarray) -> list[Any]:
        """Values (B,) for a trace."""
        return plain(self._broken(values))

    def line(self, values: np.ndarray, colour: str, name: str, width: float = 1.3, **style: Any) -> Trace:
        """Values (B,) as a line; `style` is plotly's, of the line."""
        return {
            "type": "scatter",
            "mode": "lines",
            "x": self._x,
            "y": self.plain(values),
            "name": name,
            "line": {"color": colour, "width": width, **style},
            "hovertemplate": f"%{{y}}<extra>{name}</extra>",
        }

    def band(self, band: Band, colour: str, name: str, width: float = 1.3) -> list[Trace]:
        """The mean as a line and, where bins hold more than one value, the band between the extremes."""
        line = self.line(band.mean, colour, name, width)
        if np.array_equal(band.low, band.high, equal_nan=True):
            return [line]
        x, y = self._envelope(band)
        shade = {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": y,
            "fill": "toself",
            "fillcolor": colour,
            "opacity": 0.25,
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
        return [shade, line]

    def _envelope(self, band: Band) -> tuple[list[Any], list[Any]]:
        """Polygons between low and high, one for each stretch without a gap, as x and y."""
        low, high = self._broken(band.low), self._broken(band.high)
        x: list[Any] = []
        y: list[Any] = []
        known = np.flatnonzero(np.isfinite(low))
        for part in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
            x += [self.time[i] for i in (*part, *part[::-1])] + [None]
            y += plain(high[part]) + plain(low[part][::-1]) + [None]
        return x, y

    def heat(
        self, rows: np.ndarray, labels: list[Any], scale: list[Any], span: tuple[float, float], **more: Any
    ) -> Trace:
        """Values (len(labels), B) as colours."""
        return {
            "type": "heatmap",
            "x": "$edges",
            "y": labels,
            "z": [self.plain(row) for row in rows],
            "zmin": span[0],
            "zmax": span[1],
            "colorscale": scale,
            "showscale": False,
            "hoverongaps": False,
            **more,
        }


def plain(values: np.ndarray, digits: int = 0) -> list[Any]:
    """Numbers with four significant digits, or with so many after the point; None where there is none."""
    if digits:
        return [None if math.isnan(v) else round(v, digits) for v in values.tolist()]
    return [None if not math.isfinite(v) else float(f"{v:.4g}") for v in values.tolist()]


def stack(panels: list[Panel], times: Times, events: Sequence[Event]) -> dict[str, Any]:
    """Data and layout of panels above each other on one time axis; gaps of the recording are shaded through all."""
    inner = sum(p.height + _TITLE_PX for p in panels)
    traces: list[Trace] = []
    layout: dict[str, Any] = {
        "height": inner + _HEAD_PX + _FOOT_PX,
        "margin": {"l": _LABELS_PX, "r": 16, "t": _HEAD_PX, "b": _FOOT_PX},
        "annotations": [],
        "shapes": [_shade(e) for e in events if e.kind == "gap"],
        "xaxis": {
            "range": list(times.span),
            "anchor": f"y{len(panels)}",
            "title": {"text": "time since the bag began, s"},
            "tickformat": "~r",
            "hoverformat": ".3f",
        },
    }
    top = 1.0
    for i, panel in enumerate(panels):
        name = "y" if i == 0 else f"y{i + 1}"
        head = top - _TITLE_PX / inner
        bottom = max(head - panel.height / inner, 0.0)
        layout[f"yaxis{name[1:]}"] = {
            "domain": [bottom, head],
            "fixedrange": True,
            "anchor": "x",
            "nticks": 5,
            **panel.axis,
        }
        layout["annotations"].append(_note(panel.title, "paper", 0, head, "left") | {"yshift": 3})
        for value, words in panel.bounds:
            layout["shapes"].append(_dashes(name, value))
            place = math.log10(value) if panel.axis.get("type") == "log" else value
            layout["annotations"].append(
                _note(words, name, 1, place, "right") | {"font": {"color": "$red", "size": 11}}
            )
        traces += [{"xaxis": "x", "yaxis": name, **t} for t in panel.traces]
        top = bottom
    return {"data": traces, "layout": layout, "time": times.time, "edges": times.edges, "span": times.span}


def _note(text: str, yref: str, x: float, y: float, anchor: str) -> dict[str, Any]:
    """Text above a height, at the left or right end of the panels."""
    return {
        "text": text,
        "xref": "paper",
        "yref": yref,
        "x": x,
        "y": y,
        "xanchor": anchor,
        "yanchor": "bottom",
        "showarrow": False,
    }


def _dashes(yref: str, value: float) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "yref": yref,
        "x0": 0,
        "x1": 1,
        "y0": value,
        "y1": value,
        "line": {"color": "$red", "width": 1, "dash": "5px,4px"},
        "layer": "below",
    }


def _shade(event: Event) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": event.time_s,
        "x1": event.end_s,
        "y0": 0,
        "y1": 1,
        "fillcolor": "$gap",
        "line": {"width": 0},
        "layer": "below",
    }


def selectable(trace: Trace, joint: str, shown: bool) -> Trace:
    """Seen when its joint is chosen."""
    return trace | {"meta": {"joint": joint}, "visible": shown}


def coloured(text: str, colour: str) -> str:
    """For a title."""
    return f"<span style='color:{colour}'>{text}</span>"
