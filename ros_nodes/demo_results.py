"""What the demo's bag shows: the numbers of demo.json and the plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.errors import BagError
from runtime.replay.bags import Bag
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.telemetry import Tick, unpack

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ros_nodes.demo import Phase

_COLOURS = {"nominal": "tab:green", "faulted": "tab:red"}


@dataclass(frozen=True)
class Recording:
    """The controller's ticks and the simulator's tracking error, with the recorder's receive times."""

    ticks: tuple[Tick, ...]
    tick_ns: np.ndarray
    """(T,)"""
    error_m: np.ndarray
    """(E,) distance of the end effector from its target."""
    error_ns: np.ndarray
    """(E,)"""

    def span_ns(self, activation: int) -> tuple[int, int]:
        """Receive times of the first and the last tick of an activation. Raises BagError if there are none."""
        times = [ns for tick, ns in zip(self.ticks, self.tick_ns) if tick.activation == activation]
        if not times:
            raise BagError(f"the demo's bag holds no tick of phase {activation}; the recorder missed it: run it again")
        return int(times[0]), int(times[-1])


def read_bag(path: Path, contract: Contract, error_topic: str) -> Recording:
    """Read what the judgement needs. Raises BagError if the bag cannot be read."""
    ticks: list[Tick] = []
    tick_ns: list[int] = []
    error: list[tuple[int, float]] = []
    telemetry = "/controller/telemetry"
    with Bag(path) as bag:
        for record in bag.records({telemetry, error_topic}):
            if record.topic == telemetry:
                ticks.append(unpack(contract, np.asarray(record.message.data)))
                tick_ns.append(record.receive_ns)
            else:
                error.append((record.receive_ns, record.message.data))
    return Recording(
        tuple(ticks),
        np.array(tick_ns, dtype=np.int64),
        np.array([e for _, e in error]),
        np.array([ns for ns, _ in error], dtype=np.int64),
    )


def evaluate(recording: Recording, bundle: Bundle, bag: Path, plan: Sequence[Phase], settle_s: float) -> dict[str, Any]:
    """The numbers of demo.json. Raises BagError if the bag lacks a phase."""
    ticks = recording.ticks
    errors: dict[str, dict[str, float]] = {"nominal": {}, "faulted": {}}
    measured = []
    for index, phase in enumerate(plan):
        column = "k_default" if index % 2 == 0 else "k0"
        errors[phase.key][column] = _mean_error(recording, index + 1, settle_s)
        measured.append(_phase_numbers(phase, [t for t in ticks if t.activation == index + 1]))
    replayed = replay(bag, bundle, ReplayOptions("telemetry"))
    return {
        "rate_hz": float(np.average([m["rate_hz"] for m in measured], weights=[m["ticks"] for m in measured])),
        "contract_rate_hz": bundle.contract.rate_hz,
        "ticks": len(ticks),
        "late_ticks": sum(t.late for t in ticks),
        "tick_us": _percentiles([t.tick_us for t in ticks]),
        "latency_us": _percentiles([t.latency_us for t in ticks]),
        "tracking_error_m": errors,
        "replay_bit_exact": replayed.bit_exact,
        "replayed_ticks": replayed.ticks,
        "k_default": bundle.contract.refinement.default_steps,
        "phases": measured,
        "bundle": str(bundle.path),
        "bag": str(bag),
    }


def _mean_error(recording: Recording, activation: int, settle_s: float) -> float:
    first, last = recording.span_ns(activation)
    inside = (recording.error_ns >= first + int(settle_s * 1e9)) & (recording.error_ns <= last)
    if not inside.any():
        raise BagError(f"the demo's bag holds no tracking error in phase {activation}; run it again")
    return float(recording.error_m[inside].mean())


def _phase_numbers(phase: Phase, ticks: list[Tick]) -> dict[str, Any]:
    lasted_s = (ticks[-1].now_ns - ticks[0].now_ns) * 1e-9
    return {
        "name": phase.name,
        "refine": phase.refine,
        "faulted": phase.faulted,
        "ticks": len(ticks),
        "late_ticks": sum(t.late for t in ticks),
        "rate_hz": (len(ticks) - 1) / lasted_s,
        "masked_channels": int((ticks[-1].reasons != 0).sum()),
        "free_energy_mean": float(np.mean([t.free_energy for t in ticks])),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    finite = np.array(values)[np.isfinite(values)]
    if not finite.size:
        raise BagError("the demo's bag holds no timings; run it again")
    p50, p99 = np.percentile(finite, (50, 99))
    return {"p50": float(p50), "p99": float(p99), "max": float(finite.max())}


def plot(recording: Recording, contract: Contract, plan: Sequence[Phase], path: Path) -> None:
    """A PNG over time: end effector and target per axis, tracking error, free energy and latency."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes_names = _tracked_axes(contract)
    figure = Figure(figsize=(11, 2 * (len(axes_names) + 3)), layout="constrained")
    FigureCanvasAgg(figure)
    plots: list[Axes] = list(figure.subplots(len(axes_names) + 3, 1, sharex=True))
    start = recording.tick_ns[0]
    seconds, ticks = (recording.tick_ns - start) * 1e-9, recording.ticks
    for axis, (name, measured, wanted) in zip(plots, axes_names):
        axis.plot(seconds, [t.values[wanted] for t in ticks], "k--", linewidth=1, label="target")
        axis.plot(seconds, [t.values[measured] for t in ticks], linewidth=1, label="end effector")
        axis.set_ylabel(f"{name} [m]")
    error, energy, latency = plots[-3:]
    error.plot((recording.error_ns - start) * 1e-9, recording.error_m, ".", markersize=2)
    error.set_ylabel("tracking\nerror [m]")
    energy.plot(seconds, [t.free_energy for t in ticks], ".", markersize=2)
    energy.set_ylabel("free energy\n[nat]")
    latency.plot(seconds, [t.latency_us * 1e-3 for t in ticks], ".", markersize=2)
    latency.set_ylabel("latency [ms]")
    latency.set_xlabel("time [s]")
    _mark_phases(plots, recording, plan)
    if axes_names:
        plots[0].legend(loc="upper right", fontsize="small")
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(path)


def _tracked_axes(contract: Contract) -> list[tuple[str, int, int]]:
    """Axis name, and the indices of the end effector's and the target's channel."""
    index = {channel: i for i, channel in enumerate(contract.layout.channels)}
    return [
        (name, index[f"end_effector.{name}"], index[f"target.{name}"])
        for name in ("x", "y", "z")
        if f"end_effector.{name}" in index and f"target.{name}" in index
    ]


def _mark_phases(plots: Sequence[Axes], recording: Recording, plan: Sequence[Phase]) -> None:
    start = int(recording.tick_ns[0])
    for number, phase in enumerate(plan, start=1):
        begin, end = ((ns - start) * 1e-9 for ns in recording.span_ns(number))
        for axis in plots:
            axis.axvspan(begin, end, color=_COLOURS[phase.key], alpha=0.08)
        plots[0].text((begin + end) / 2, 1.02, phase.name, transform=plots[0].get_xaxis_transform(), ha="center")
