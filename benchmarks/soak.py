"""The controller node for an hour at 100 Hz, with random faults, beside a simulator, over DDS; watched from outside.

    python -m benchmarks.soak [--minutes 60] [--seed 0] [--bundle PATH] [--json PATH]

A simulator, the controller and this watcher are three processes. Sensors fail at random and come back, the simulator is
paused now and then, and ~/stop and ~/engage are called. Every tick is judged by what docs/safety.md states: commands
are finite, within their limits and rates; what is missing, stale, not finite or out of range is masked in the tick that
sees it; a lost observation holds within two ticks after its maximum age; a stop lasts until somebody engages. The
controller's memory may grow by 2 MB after the warm-up, a quarter of the time. Ends with status 1 if anything else was
seen. Ctrl-C ends it early; what was measured until then is written.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
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
from std_srvs.srv import SetBool, Trigger

from benchmarks.soak_watch import Watcher, rss_bytes
from ros_nodes.polling import PolledSubscription
from ros_nodes.session import Session
from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.files import shipped_bundle, write_json
from runtime.safety import Status
from runtime.telemetry import unpack

MOST_GROWTH_BYTES = 2_000_000
_WARM_UP = 0.25  # of the time, and ten minutes at most
_LONGEST_WARM_UP_S = 600.0
_SAMPLE_S = 1.0
_DEEP = QoSProfile(depth=2000)


@dataclass(frozen=True)
class Options:
    """Soak the controller in faults."""

    minutes: float = 60.0
    """How long."""
    seed: int = 0
    """Of the faults."""
    bundle: Path = field(default_factory=lambda: shipped_bundle("kuka_reach"))
    """What the controller runs, in the task that it was trained on."""
    json: Path | None = None
    """Also write the figures to this file."""


def main(options: Options) -> dict[str, Any]:
    """Run, print a table, write JSON, and return what is written."""
    bundle = Bundle.load(options.bundle)
    with tempfile.TemporaryDirectory() as folder, Session(Path(folder)) as session:
        soak = Soak(session, bundle, np.random.default_rng(options.seed))
        with Progress(console=Console(stderr=True), transient=True) as progress, suppress(KeyboardInterrupt):
            bar = progress.add_task("soak", total=60 * options.minutes)
            while soak.seconds < 60 * options.minutes:
                soak.step()
                progress.update(bar, completed=soak.seconds)
        result = soak.result(60 * options.minutes)
    written = {"bundle": str(options.bundle), "minutes": options.minutes, "seed": options.seed} | result
    _print(written)
    if options.json:
        write_json(options.json, written)
    return written


def faults_of(contract: Contract) -> list[str]:
    """Faults of the sensors among which chance decides."""
    found = ["dropout:all=0.9"]
    for o in contract.observations:
        scale = float(np.mean(o.scale))
        found += [f"lost:{o.name}", f"dropout:{o.name}=0.5", f"stuck:{o.name}", f"flip:{o.name}"]
        found += [f"delay:{o.name}=0.2", f"noise:{o.name}={scale:.6f}", f"scale:{o.name}=1000000"]
        found += [f"{kind}:{o.name}.{c}{value}" for c in o.channels for kind, value in
                  (("lost", ""), ("bias", f"={scale:.6f}"))]  # fmt: skip
    return found


class Soak:
    """The nodes, what is done to them, and what was seen."""

    def __init__(self, session: Session, bundle: Bundle, rng: np.random.Generator) -> None:
        self._session, self._rng = session, rng
        self.watcher = Watcher(bundle.contract)
        self._contract = bundle.contract
        self._faults = faults_of(bundle.contract)
        self.done: Counter[str] = Counter()
        self.unplanned_stops = 0
        topics = {"/controller/telemetry": self._observe, f"/{bundle.contract.action.topic}": self.watcher.published}
        self._topics = [
            (PolledSubscription(session.node, Float64MultiArray, t, _DEEP), take) for t, take in topics.items()
        ]
        self._simulator = session.start("ros_nodes.sim_node", {"task": bundle.contract.provenance.task})
        self._controller = session.start(
            "ros_nodes.controller_node", {"bundle": str(bundle.path.absolute()), "autostart": True}
        )
        self._start = self._next_sample = time.monotonic()
        self._rss: list[tuple[float, int]] = []
        session.idle.append(self._look)
        session.wait(lambda: self.watcher.last is not None, "the controller")

    @property
    def seconds(self) -> float:
        """Since the nodes were started."""
        return time.monotonic() - self._start

    def _observe(self, vector: np.ndarray) -> None:
        self.watcher.observe(unpack(self._contract, vector))

    def _look(self) -> None:
        for subscription, take in self._topics:
            for message, _ in subscription.take():
                take(np.array(message.data))
        if time.monotonic() >= self._next_sample:
            self._next_sample += _SAMPLE_S
            self._rss.append((self.seconds, rss_bytes(self._controller.process.pid)))

    def step(self) -> None:
        """One fault, one pause or one stop, and the time without until the next."""
        session, rng = self._session, self._rng
        what, seconds = (
            rng.choice(("sensor", "two sensors", "pause", "stop"), p=(0.5, 0.3, 0.1, 0.1)),
            rng.uniform(0, 3),
        )
        self.done[str(what)] += 1
        if what == "pause":
            self._simulator.process.send_signal(signal.SIGSTOP)
            try:
                session.spin(seconds)
            finally:
                self._simulator.process.send_signal(signal.SIGCONT)
        elif what == "stop":
            session.call(Trigger, "/controller/stop", Trigger.Request())
            session.spin(seconds)
            self._engage()
        else:
            count = 1 if what == "sensor" else 2
            session.set_parameter("sim", "faults", [str(f) for f in rng.choice(self._faults, count, replace=False)])
            session.spin(seconds)
            session.set_parameter("sim", "faults", [])
        session.spin(rng.uniform(0.2, 2.0))
        if self.watcher.last is not None and self.watcher.last.status == Status.STOPPED:
            self.unplanned_stops += 1
            self._engage()

    def _engage(self) -> None:
        self._session.call(SetBool, "/controller/engage", SetBool.Request(data=True))
        self._session.spin(0.2)

    def result(self, planned_s: float) -> dict[str, Any]:
        """Figures, and whether all is well."""
        warm_s = min(_WARM_UP * planned_s, _LONGEST_WARM_UP_S)
        warm = [rss for t, rss in self._rss if t >= warm_s] or [rss for _, rss in self._rss[-1:]]
        part = max(1, len(warm) // 10)
        growth = float(np.median(warm[-part:]) - np.median(warm[:part]))
        passed = self.watcher.violations == 0 and growth <= MOST_GROWTH_BYTES
        return {
            "seconds": self.seconds, "done": dict(self.done), "unplanned_stops": self.unplanned_stops,
            "rss_growth_bytes": growth, "rss_bytes": [rss for _, rss in self._rss[:: max(1, len(self._rss) // 120)]],
            "passed": passed,
        } | self.watcher.summary()  # fmt: skip


def _print(result: dict[str, Any]) -> None:
    table = Table("", "", show_header=False)
    counts = ", ".join(f"{n} {name}" for name, n in result["done"].items())
    for name, text in (
        ("time", f"{result['seconds'] / 60:.1f} of {result['minutes']:g} minutes"),
        ("done to it", counts),
        ("ticks", f"{result['ticks']}, {result['late_ticks']} late, {result['lost_records']} gaps in the record"),
        ("status", ", ".join(f"{n} {name}" for name, n in result["status"].items())),
        ("slowest hold", f"{result['slowest_hold_ticks']} ticks after the maximum age"),
        ("commands", str(result["commands"])),
        ("stops that nobody asked for", str(result["unplanned_stops"])),
        ("memory", f"{result['rss_growth_bytes'] / 1e6:+.2f} MB after the warm-up"),
        ("not as stated", str(result["violations"])),
        *(("", line) for line in result["told"]),
        ("passed", "yes" if result["passed"] else "no"),
    ):
        table.add_row(name, text)
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(0 if main(tyro.cli(Options))["passed"] else 1)
