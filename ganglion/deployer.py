"""Subcommands of whoever deploys bundles to robots."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import Progress

from ganglion.console import finish, load, show, show_table, with_progress
from ganglion.options import BundlePath, JsonPath, Provider, Steps, TrustedKeys
from runtime.errors import ContractError
from runtime.files import json_text, shipped_bundle, write_bytes
from runtime.tables import FACTS, bench_table, demo_table, difference_table, preflight_table


@dataclass(frozen=True)
class Inspect:
    """Show what a bundle is for: robot, sensors, action, limits, calibration and where it came from."""

    file: BundlePath
    """Bundle (.onnx)."""
    json: bool = False
    """Print the contract, and the facts of the file, as JSON instead."""
    trusted_keys: TrustedKeys = ()
    """Public keys, one of which must have signed the bundle; if empty, any bundle is loaded."""

    def run(self) -> None:
        from runtime.describe import card, file_facts
        from runtime.schema import to_plain

        bundle = load(self.file, self.trusted_keys)
        if self.json:
            sys.stdout.write(json_text({"contract": to_plain(bundle.contract), "file": file_facts(bundle)}))
            return
        for title, table in card(bundle):
            show(title)
            show_table(table)


@dataclass(frozen=True)
class Diff:
    """Compare two bundles; exit code 1 if a robot would notice, 0 if they differ in their records at most."""

    first: BundlePath
    """Bundle (.onnx)."""
    second: BundlePath
    """Bundle (.onnx)."""
    json: JsonPath = None
    """Also write the result to this file."""

    def run(self) -> int:
        from runtime.diff import differences

        found = differences(load(self.first), load(self.second))
        noticed = any(d.noticed for d in found)
        rows = [{"where": d.where, "first": d.first, "second": d.second, "noticed": d.noticed} for d in found]
        result = {"first": str(self.first), "second": str(self.second), "noticed": noticed, "differences": rows}
        verdict = "differ for a robot" if noticed else "are the same for a robot"
        finish(f"{self.first} and {self.second} {verdict}", difference_table(result), result, self.json)
        return 1 if noticed else 0


@dataclass(frozen=True)
class Keygen:
    """Make a pair of keys to sign bundles with: KEY for whoever signs, KEY.pub for robots."""

    key: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="KEY")]
    """File of the private key (PEM, Ed25519)."""

    def run(self) -> None:
        from runtime.signature import make_keys

        public = make_keys(self.key)
        show(
            f"{self.key} signs: keep it secret; {public} goes to the robots; next: ganglion sign FILE --key {self.key}"
        )


@dataclass(frozen=True)
class Sign:
    """Sign a bundle with a private key, in place."""

    file: BundlePath
    """Bundle (.onnx)."""
    key: Annotated[Path, tyro.conf.arg(metavar="KEY")]
    """Private key of 'ganglion keygen'."""

    def run(self) -> None:
        from runtime.signature import sign

        write_bytes(self.file, sign(load(self.file).model, self.key))
        show(f"{self.file} is signed; next: ganglion run {self.file} --trusted-keys {self.key}.pub")


@dataclass(frozen=True)
class Bench:
    """Measure how long a tick takes on this machine."""

    file: BundlePath
    """Bundle (.onnx)."""
    refine: Steps = (0, 1, 2, 4, 8, 16)
    """Numbers of refinement steps; those beyond the bundle's largest are left out."""
    ticks: int = 2000
    """Ticks to time for each."""
    provider: Provider = "auto"
    """What computes: cpu, cuda, tensorrt, or auto, the CPU unless the bundle is large."""
    json: JsonPath = None
    """Also write the result to this file."""

    def run(self) -> None:
        from runtime.bench import bench

        bundle = replace(load(self.file), provider=self.provider)
        largest = bundle.contract.refinement.max_steps
        steps = [k for k in self.refine if k <= largest]
        if len(steps) < len(self.refine):
            sys.stderr.write(f"notice: left out K above {largest}, the bundle's largest number of refinement steps\n")
        if not steps:
            raise ContractError(f"no K is left to measure: got {list(self.refine)}, the bundle allows 0 to {largest}")
        result = with_progress("bench", lambda progress: bench(bundle, steps, self.ticks, progress))
        if result["notice"]:
            sys.stderr.write(f"notice: {result['notice']}\n")
        finish(f"{self.file} on {result['provider']}", bench_table(result), result, self.json)


@dataclass(frozen=True)
class Sim:
    """Run a task as a simulated robot on ROS 2 topics; '--ros-args …' at the end goes to the node."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """Name of the task."""
    seed: int = 0
    """Seed of the episode."""
    ros: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> int:
        from ros_nodes import sim_node
        from ros_nodes.session import arguments
        from sim.tasks import task_class

        task_class(self.task)
        return sim_node.main([*arguments({"task": self.task, "seed": self.seed}), *self.ros])


@dataclass(frozen=True)
class Run:
    """Run a bundle as the controller node and activate it; '--ros-args …' at the end goes to the node."""

    file: BundlePath
    """Bundle (.onnx)."""
    refine: int = -1
    """Refinement steps per tick; -1 is the bundle's default."""
    trusted_keys: TrustedKeys = ()
    """Public keys, one of which must have signed the bundle; if empty, any bundle runs."""
    ros: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> int:
        from ros_nodes import controller_node
        from ros_nodes.session import arguments

        load(self.file, self.trusted_keys)
        own: dict[str, Any] = {"bundle": str(self.file), "refine": self.refine, "autostart": True}
        if self.trusted_keys:
            own["trusted_keys"] = [str(key) for key in self.trusted_keys]
        return controller_node.main([*arguments(own), *self.ros])


@dataclass(frozen=True)
class Stop:
    """Make a running controller hold the safe action, until 'ganglion engage'."""

    ros: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> None:
        from ros_nodes.asking import stop

        show(stop(self.ros))


@dataclass(frozen=True)
class Engage:
    """Let a stopped controller act again."""

    ros: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> None:
        from ros_nodes.asking import engage

        show(engage(self.ros))


@dataclass(frozen=True)
class Diagnostics:
    """Show the diagnostics of a running controller; exit code 1 if it holds or is stopped."""

    ros: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> int:
        from ros_nodes.asking import newest_diagnostics

        status = newest_diagnostics(self.ros)
        show(f"{status.name.partition(':')[0]}: {status.message}")
        show_table((FACTS, [(v.key, v.value) for v in status.values if v.value]))
        return int(status.level == status.ERROR)


@dataclass(frozen=True)
class Record:
    """Record topics to a bag (MCAP) until Ctrl-C; '--ros-args …' at the end goes to the node."""

    topics: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TOPIC…]")] = ()
    """Full names of topics; all that there are if none is given."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR", aliases=["-o"])] = Path("bag")
    """Folder of the bag; must not exist."""
    ros: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> int:
        from ros_nodes import recorder
        from ros_nodes.session import arguments

        own: dict[str, Any] = {"output": str(self.output)} | ({"topics": list(self.topics)} if self.topics else {})
        return recorder.main([*arguments(own), *self.ros])


@dataclass(frozen=True)
class Preflight:
    """Compare a live robot with a bundle, and say what does not fit; '--ros-args …' at the end goes to the node."""

    file: BundlePath
    """Bundle (.onnx)."""
    seconds: float = 1.0
    """How long to look."""
    move: bool = False
    """Then move every joint a little, if nothing was wrong, to find swapped joints and wrong signs."""
    confirm: bool = False
    """With --move on a real robot: its surroundings are clear, and a hand is on the emergency stop."""
    trusted_keys: TrustedKeys = ()
    """Public keys, one of which must have signed the bundle; if empty, any bundle is loaded."""
    json: JsonPath = None
    """Also write the result to this file."""
    ros: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> int:
        from ros_nodes.preflight import preflight
        from runtime.findings import errors
        from runtime.schema import to_plain

        contract = load(self.file, self.trusted_keys).contract
        asked = (contract, self.seconds, self.ros, self.move, self.confirm)
        findings = with_progress("preflight", lambda progress: preflight(*asked, progress))
        fits = not errors(findings)
        result = {"bundle": str(self.file), "robot": contract.robot, "fits": fits, "findings": to_plain(findings)}
        title = f"{self.file}: the robot {'fits' if fits else 'does not fit'}"
        finish(title, preflight_table(result), result, self.json)
        return 0 if fits else 1


@dataclass(frozen=True)
class Demo:
    """Simulated arm and controller as two processes: nominal, two encoders lost, then the bag replayed."""

    seconds: float = 20.0
    """How long the robot runs."""
    file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Bundle (.onnx) of an arm; the shipped one if not given."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/demo")
    """Folder for demo.json, the bag, the plot and the logs."""
    json: JsonPath = None
    """Also write the result to this file."""

    def run(self) -> None:
        from ros_nodes.demo import run_demo

        file = self.file or shipped_bundle("kuka_reach")
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("demo", total=1.0)
            result = run_demo(
                file, self.seconds, self.output, lambda what, done: bar.update(task, completed=done, description=what)
            )
        finish(f"{file}: {self.output}", demo_table(result), result, self.json)
