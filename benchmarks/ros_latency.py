"""From a message to the command: the controller node beside bare rclpy echo nodes, over DDS, in one run.

    python -m benchmarks.ros_latency [--rates 100 250 500 1000] [--seconds 30] [--late-minutes 10] [--json PATH]

A driver publishes the bundle's topics at each rate, the joint states last, and takes the commands. Latency runs from
just before the joint states are published to when the driver has the command that answers them; the first position
numbers the messages, so each command is set against the very message that it was computed from. In turn, round by
round, answer

echo        a rclpy node that sends the positions back from the callback of its executor
polled      the same from a wait set of its own, without an executor
controller  the controller node with the bundle: all topics, inference, limits, telemetry; no guard, which would stop
            it for good when a busy machine takes 100 ms from it

All have the same real-time priority where the system grants one. `bound` is 1.5 x (echo's p50 + the tick's p50), and
`wait` the part of the controller's latency from the reception of the joint states to the beginning of the tick.
At the first rate the controller goes on for `late-minutes`, in which its late ticks are counted.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rclpy.qos import QoSProfile
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from std_msgs.msg import Float64MultiArray

from ros_nodes.conversion import MESSAGE_TYPES, sensor_message
from ros_nodes.polling import PolledSubscription, Waiter
from ros_nodes.session import ACTIVATE, CONFIGURE, DEACTIVATE, Session
from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.errors import GanglionError
from runtime.files import shipped_bundle, write_bytes, write_json
from runtime.loop import sleep_until
from runtime.messages import topics
from runtime.realtime import Realtime, prepare
from runtime.safety import Status
from runtime.telemetry import labels, unpack

_PRIORITY = 45  # the driver's: the sensor does not wait for the controller
_TAG = 1e-9  # rad between the first positions of two messages
_SETTLE_S = 1.5  # of the beginning of a round, in which the controller checks the robot
_DEEP = QoSProfile(depth=2000)
SUBJECTS = ("echo", "polled", "controller")


@dataclass(frozen=True)
class Options:
    """Compare the latency over ROS 2."""

    rates: tuple[float, ...] = (100.0, 250.0, 500.0, 1000.0)
    """Messages and ticks per second."""
    seconds: float = 30.0
    """Measured per rate and node, in all rounds together."""
    rounds: int = 3
    """Turns of each node."""
    late_minutes: float = 10.0
    """How long the controller runs at the first rate to count its late ticks."""
    bundle: Path = field(default_factory=lambda: shipped_bundle("kuka_reach"))
    """What the controller runs."""
    json: Path | None = None
    """Also write the figures to this file."""
    picture: Path | None = None
    """Also draw the histograms into this file (.png)."""


@dataclass
class Flight:
    """What one round of one node has measured."""

    latency_us: np.ndarray
    """Of every message that was answered."""
    published: int
    wait_us: np.ndarray
    """Of those, from reception to the beginning of the tick; empty for an echo."""
    tick_us: np.ndarray
    late: np.ndarray
    """(ticks,) bool"""


def main(options: Options) -> dict[str, Any]:
    """Measure, print a table, write JSON and picture, and return what is written."""
    bundle = Bundle.load(options.bundle)
    first = next(iter(topics(bundle.contract.observations).items()))
    if first[1][1][0].kind != "joint_position":
        raise GanglionError(f"{options.bundle} begins with {first[0]}; expected one that begins with joint positions")
    refused = prepare(Realtime(_PRIORITY))
    rows: list[dict[str, Any]] = []
    samples: dict[tuple[float, str], np.ndarray] = {}
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("latency", total=len(options.rates) * options.rounds * len(SUBJECTS))
        for rate in options.rates:
            progress.update(bar, description=f"{rate:g} Hz")
            flights = _flights(bundle, rate, options, lambda: progress.advance(bar))
            rows.append(_figures(rate, flights))
            samples |= {(rate, name): _all(found, "latency_us") for name, found in flights.items()}
    written = {
        "bundle": str(options.bundle), "realtime": not refused, "cores": len(os.sched_getaffinity(0)),
        "seconds": options.seconds, "rows": rows,
    }  # fmt: skip
    _print(rows)
    if options.json:
        write_json(options.json, written)
    if options.picture:
        write_bytes(options.picture, _picture(samples, rows))
    return written


def _flights(bundle: Bundle, rate: float, options: Options, advance: Any) -> dict[str, list[Flight]]:
    found: dict[str, list[Flight]] = {name: [] for name in SUBJECTS}
    with tempfile.TemporaryDirectory() as folder, Session(Path(folder)) as session:
        joints = len(bundle.contract.action.joints)
        for name in ("echo", "polled"):
            session.start("benchmarks.ros_echo", {"joints": joints, "polled": name == "polled"}, {"__ns": f"/{name}"})
        session.start(
            "ros_nodes.controller_node",
            {"bundle": str(bundle.path.absolute()), "rate_hz": rate, "most_late_ticks": 0, "guard_ms": 0.0},
            {"__ns": "/controller"},
        )
        drivers = {name: Driver(session, bundle.contract, rate, name) for name in SUBJECTS}
        if not session.change_state("controller/controller", CONFIGURE):
            raise GanglionError(f"the controller could not be configured:\n{session.children[-1].log}")
        for driver in drivers.values():
            session.wait(driver.matched, "the nodes' topics")
        for turn in range(options.rounds):
            for name, driver in drivers.items():
                seconds = options.seconds / options.rounds
                if name == "controller" and turn == options.rounds - 1 and rate == options.rates[0]:
                    seconds = max(seconds, 60 * options.late_minutes)
                with _active(session, name):
                    found[name].append(driver.fly(seconds))
                advance()
    return found


@contextmanager
def _active(session: Session, name: str) -> Iterator[None]:
    """The controller commands in its own rounds alone."""
    if name == "controller" and not session.change_state("controller/controller", ACTIVATE):
        raise GanglionError("the controller could not be activated")
    yield
    if name == "controller":
        session.change_state("controller/controller", DEACTIVATE)


class Driver:
    """The robot of one node: publishes readings that move a little, and takes the commands."""

    def __init__(self, session: Session, contract: Contract, rate: float, name: str) -> None:
        self._contract, self._period_ns = contract, round(1e9 / rate)
        self._node = session.node
        carried = topics(contract.observations)
        kinds = [*list(carried.items())[1:], next(iter(carried.items()))]  # the joint states last
        self._publishers = [
            (self._node.create_publisher(MESSAGE_TYPES[kind], f"{name}/{topic}", 10), kind, observations)
            for topic, (kind, observations) in kinds
        ]
        array = Float64MultiArray
        self._commands = PolledSubscription(self._node, array, f"{name}/{contract.action.topic}", _DEEP, raw=True)
        self._records = PolledSubscription(self._node, array, f"{name}/controller/telemetry", _DEEP, raw=True)
        self._waiter = Waiter(self._node, [self._commands])
        layout = contract.layout
        self._noise = layout.mean + 0.01 * layout.scale * np.random.default_rng(0).standard_normal((997, layout.size))
        self._count = 0
        self._is_controller = name == "controller"

    def matched(self) -> bool:
        """Whether the node is there."""
        return self._commands.publishers > 0 and self._publishers[-1][0].get_subscription_count() > 0

    def fly(self, seconds: float) -> Flight:
        """One round."""
        self._commands.discard()
        self._records.discard()
        published: dict[int, int] = {}
        commands: list[tuple[int, bytes]] = []
        records: list[bytes] = []
        start = deadline = time.monotonic_ns() + self._period_ns
        end = start + round((seconds + _SETTLE_S) * 1e9)
        while deadline < end:
            sleep_until(deadline)
            published[self._count] = self._publish(self._count)
            self._count += 1
            deadline += self._period_ns
            while self._waiter.until(deadline):
                commands += [(time.monotonic_ns(), data) for data, _ in self._commands.take()]
            records += [data for data, _ in self._records.take()]
        self._waiter.until(end + self._period_ns)
        commands += [(time.monotonic_ns(), data) for data, _ in self._commands.take()]
        records += [data for data, _ in self._records.take()]
        measured = {i: t for i, t in published.items() if t >= start + _SETTLE_S * 1e9}
        return self._judge(measured, commands, records)

    def _publish(self, number: int) -> int:
        """Returns the time just before the joint states."""
        layout, stamp = self._contract.layout, self._node.get_clock().now()
        values = self._noise[number % len(self._noise)].copy()
        values[0] = layout.mean[0] + _TAG * number
        messages = [
            sensor_message(kind, [(o, values[layout.slices[o.name]]) for o in observations], stamp)
            for _, kind, observations in self._publishers
        ]
        for (publisher, _, _), message in zip(self._publishers, messages[:-1]):
            publisher.publish(message)
        begin = time.monotonic_ns()
        self._publishers[-1][0].publish(messages[-1])
        return begin

    def _number(self, first_position: float) -> int:
        return round((first_position - self._contract.layout.mean[0]) / _TAG)

    def _judge(self, published: dict[int, int], commands: list[tuple[int, bytes]], records: list[bytes]) -> Flight:
        joints, base = len(self._contract.action.joints), len(labels(self._contract))
        vectors = [(t, np.frombuffer(data[-8 * joints :])) for t, data in commands]
        if not self._is_controller:
            answers = {self._number(v[0]): t for t, v in reversed(vectors)}
            latency = np.array([(answers[i] - t) * 1e-3 for i, t in published.items() if i in answers])
            none = np.zeros(0)
            return Flight(latency, len(published), none, none, none)
        ticks = [unpack(self._contract, np.frombuffer(data[-8 * base :])) for data in records]
        waiting = deque(t for t in ticks if t.status != Status.WAITING)
        found: dict[int, tuple[float, float]] = {}
        for time_ns, vector in vectors:
            while waiting and waiting[0].now_ns < time_ns and not np.array_equal(waiting[0].command, vector):
                waiting.popleft()
            if not waiting or waiting[0].now_ns > time_ns:
                continue  # it is of a tick whose record was lost
            tick = waiting.popleft()
            number = self._number(tick.values[0])
            if number in published:  # the first answer counts
                latency_us = (time_ns - published[number]) * 1e-3
                found.setdefault(number, (latency_us, (tick.now_ns - int(tick.stamp_ns[0])) * 1e-3))
        judged = [t for t in ticks if self._number(t.values[0]) in published]
        return Flight(
            np.array([latency for latency, _ in found.values()]),
            len(published),
            np.array([wait for _, wait in found.values()]),
            np.array([t.tick_us for t in judged]),
            np.array([t.late for t in judged]),
        )


def _all(flights: list[Flight], name: str) -> np.ndarray:
    return np.concatenate([getattr(f, name) for f in flights])


def _percentiles(values: np.ndarray) -> dict[str, float]:
    p50, p99, p99_9 = np.percentile(values, (50, 99, 99.9))
    return {"p50_us": float(p50), "p99_us": float(p99), "p99_9_us": float(p99_9), "max_us": float(values.max())}


def _figures(rate: float, flights: dict[str, list[Flight]]) -> dict[str, Any]:
    row: dict[str, Any] = {"rate_hz": rate}
    for name, found in flights.items():
        latency, published = _all(found, "latency_us"), sum(f.published for f in found)
        row[name] = _percentiles(latency) | {"answered": len(latency) / published, "messages": published}
    tick, late = _all(flights["controller"], "tick_us"), _all(flights["controller"], "late")
    row["tick"] = _percentiles(tick)
    row["wait"] = _percentiles(_all(flights["controller"], "wait_us"))
    row["ticks"], row["late_ticks"] = len(late), int(late.sum())
    row["bound_us"] = 1.5 * (row["echo"]["p50_us"] + row["tick"]["p50_us"])
    row["within_bound"] = row["controller"]["p50_us"] <= row["bound_us"]
    return row


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("Hz", *SUBJECTS, "tick", "wait", "bound", "within", "answered", "late ticks")
    table = Table(*columns, title="p50 (p99, p99.9) in µs")
    for row in rows:
        cells = [f"{f['p50_us']:.0f} ({f['p99_us']:.0f}, {f['p99_9_us']:.0f})" for f in (
            row[n] for n in (*SUBJECTS, "tick", "wait"))]  # fmt: skip
        table.add_row(
            f"{row['rate_hz']:g}", *cells, f"{row['bound_us']:.0f}", "yes" if row["within_bound"] else "no",
            f"{row['controller']['answered']:.2%}", f"{row['late_ticks']} of {row['ticks']}",
        )  # fmt: skip
    console = Console()
    (console if console.is_terminal else Console(width=180)).print(table)


def _picture(samples: dict[tuple[float, str], np.ndarray], rows: list[dict[str, Any]]) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(rows), 1, figsize=(8, 2.4 * len(rows)), sharex=True, squeeze=False)
    bins = np.geomspace(50, 2e4, 150)
    for axis, row in zip(axes[:, 0], rows):
        for name in SUBJECTS:
            axis.hist(samples[row["rate_hz"], name].clip(bins[0], bins[-1]), bins, histtype="step", label=name)
        axis.axvline(row["bound_us"], color="black", linestyle=":", label="bound of the p50")
        axis.set(xscale="log", yscale="log", ylabel=f"messages at {row['rate_hz']:g} Hz")
    axes[0, 0].legend()
    axes[-1, 0].set_xlabel("message to command [µs]")
    figure.tight_layout()
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file.getvalue()


if __name__ == "__main__":
    main(tyro.cli(Options))
