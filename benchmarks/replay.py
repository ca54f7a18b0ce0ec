"""How fast `ganglion replay` is on the node's own recording, in both storage formats, and that its memory stays flat.

    python -m benchmarks.replay [--bag runs/demo/bag] [--seconds 300] [--hours 1] [--json PATH]

The bag is one that the ROS node recorded; by default `ganglion demo` records it now, in half a minute. Its first
activation, with the default K, is repeated as new activations, to `seconds` of telemetry and sensor topics in MCAP and
in SQLite, and to `hours` of both. Every replay runs in a fresh process on one core. Columns:

identical     every action is the recorded one, bit for bit (telemetry); in raw mode the agent runs on the sensor topics
× real time   recorded time over the time of the clock on the wall
× CPU         recorded time over the time that the process computed: what the machine's other users do not change
first, peak   resident memory when a tenth of the bag was read, and the most until the end; MiB
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from runtime.bundle import Bundle
from runtime.files import shipped_bundle, write_json
from runtime.replay.bags import Bag
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.telemetry import labels

_STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite": StoragePlugin.SQLITE3}
_MIB = 2**20


@dataclass(frozen=True)
class Options:
    """Measure the replay of bags."""

    bag: Path | None = None
    """Recording of `file` by the controller node; recorded now by the demo if not given."""
    file: Path | None = None
    """Bundle (.onnx) that was running; the shipped arm if not given."""
    seconds: float = 300.0
    """Length of the bags whose replay is timed."""
    hours: float = 1.0
    """Length of the bags on which memory is watched; 0 leaves them out."""
    rounds: int = 3
    """Replays of each timed bag; the fastest counts."""
    json: Path | None = None
    """Also write the figures to this file."""


def main(options: Options) -> dict[str, Any]:
    """Measure, print a table, write JSON, and return what is written."""
    file = options.file or shipped_bundle("kuka_reach")
    contract = Bundle.load(file).contract
    table = Table("bag", "storage", "mode", "K", "ticks", "identical", "× real time", "× CPU", "first MiB", "peak MiB")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ganglion-replay-") as folder:
        bag = options.bag or _record(file, Path(folder))
        lengths = [(options.seconds, options.rounds)] + ([(3600 * options.hours, 1)] if options.hours else [])
        plan = [(s, n, storage, mode) for s, n in lengths for storage in _STORAGES for mode in ("telemetry", "raw")]
        made: dict[tuple[float, str], Path] = {}
        for seconds, rounds, storage, mode in track(plan, console=Console(stderr=True)):
            path = made.get((seconds, storage))
            if path is None:
                for old in made.values():
                    shutil.rmtree(old)
                path = repeat(bag, Path(folder) / f"{storage}{seconds:.0f}", seconds, _STORAGES[storage], file)
                made = {(seconds, storage): path}
            found = [_in_fresh_process(path, file, mode) for _ in range(rounds)]
            best = max(found, key=lambda f: f["cpu_factor"])
            row = {"seconds": seconds, "storage": storage, "mode": mode, **best}
            rows.append(row)
            table.add_row(
                f"{seconds:.0f} s", storage, mode, str(contract.refinement.default_steps), str(row["ticks"]),
                ("yes" if row["bit_exact"] else "no") if mode == "telemetry" else "–", f"{row['realtime_factor']:.1f}",
                f"{row['cpu_factor']:.1f}", f"{row['first_mib']:.0f}", f"{row['peak_mib']:.0f}",
            )  # fmt: skip
    Console(width=140).print(table)
    written = {"bundle": str(file), "refine": contract.refinement.default_steps, "rows": rows}
    if options.json:
        write_json(options.json, written)
    return written


def _record(file: Path, folder: Path) -> Path:
    from ros_nodes.demo import run_demo

    run_demo(file, 20.0, folder / "demo")
    return folder / "demo" / "bag"


def repeat(bag: Path, path: Path, seconds: float, storage: StoragePlugin, file: Path) -> Path:
    """`seconds` of the bag's first activation with the bundle's default K, again and again as new activations."""
    types = get_typestore(Stores.ROS2_JAZZY)
    contract = Bundle.load(file).contract
    telemetry, state = "/controller/telemetry", "/controller/state"
    at = {name: labels(contract).index(name) for name in ("activation", "tick", "now_s")}
    with Bag(bag) as opened:
        wanted = {t for t in opened.topics if opened.topics[t] in types.fielddefs}
        part = [m for m in opened.raw(wanted) if m[0] != state]
        kinds = opened.topics
    first = next(m[2] for m in part if m[0] == telemetry)
    one = [m for m in part if m[0] != telemetry or _column(types, m, at["activation"]) == 1]
    last = max(m[2] for m in one if m[0] == telemetry)
    one = [m for m in one if first - 10**9 <= m[2] <= last]
    length = last - one[0][2] + 10_000_000
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {t: writer.add_connection(t, kinds[t], typestore=types) for t in sorted({m[0] for m in one})}
        for turn in range(max(1, round(seconds * 1e9 / length))):
            for topic, kind, receive_ns, data in one:
                if topic == telemetry:
                    message: Any = types.deserialize_cdr(data, kind)
                    message.data = message.data.copy()
                    message.data[at["activation"]] = turn + 1
                    data = bytes(types.serialize_cdr(message, kind))
                writer.write(connections[topic], receive_ns + turn * length, data)
    return path


def _column(types: Any, message: tuple[str, str, int, bytes], index: int) -> int:
    return int(np.asarray(types.deserialize_cdr(message[3], message[1]).data)[index])


def _in_fresh_process(path: Path, file: Path, mode: str) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: dict[str, Any] = pool.apply(_measure, (path, file, mode))
        return result


def _measure(path: Path, file: Path, mode: str) -> dict[str, Any]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    bundle = Bundle.load(file)
    first = 0.0

    def watch(done_s: float, total_s: float) -> None:
        nonlocal first
        if not first and done_s >= 0.1 * total_s:
            first = _resident_mib()

    begin = time.process_time()
    result = replay(path, bundle, ReplayOptions(mode), watch)
    computed_s = time.process_time() - begin
    recorded_s = result.ticks / bundle.contract.rate_hz
    return {
        "ticks": result.ticks,
        "bit_exact": result.bit_exact,
        "realtime_factor": result.realtime_factor,
        "cpu_factor": recorded_s / computed_s,
        "first_mib": first,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / _MIB


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
