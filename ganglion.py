"""The command `ganglion`: one subcommand per step from a task in simulation to a bag on a robot.

Only what the chosen subcommand needs is imported, so that `inspect`, `bench` and `run` work on a robot without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from runtime.errors import ContractError, GanglionError
from runtime.extras import explain_missing
from runtime.files import json_text, shipped_bundle, write_bytes, write_json
from runtime.tables import (
    FACTS,
    Table,
    bench_table,
    comparison_table,
    demo_table,
    difference_table,
    evaluation_table,
    off_policy_table,
    preflight_table,
    replay_table,
    replays_table,
)

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.replay.batch import Job
    from runtime.replay.verdict import Replayed

__version__ = "0.1.0"

T = TypeVar("T")


def _comma_separated(kind: type, metavar: str, expected: str) -> Any:
    """How tyro reads `a,b,c` as a tuple."""

    def parse(texts: list[str]) -> tuple[Any, ...]:
        try:
            return tuple(kind(text.strip()) for text in texts[0].split(","))
        except ValueError as error:
            raise ValueError(f"got '{texts[0]}', expected {expected} separated by commas") from error

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(str(v) for v in value)],
    )


Steps = Annotated[tuple[int, ...], _comma_separated(int, "K,…", "whole numbers")]
Names = Annotated[tuple[str, ...], _comma_separated(str, "NAME,…", "names")]
BundlePath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
TrustedKeys = Annotated[tuple[Path, ...], _comma_separated(Path, "FILE,…", "files")]
Provider = Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda,tensorrt}")]
JsonPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


class Command(Protocol):
    """A parsed subcommand."""

    def run(self) -> int | None:
        """Do it; returns the exit code, zero if None. Raises GanglionError for what the user can put right."""


@dataclass(frozen=True)
class Tasks:
    """List the tasks that can be simulated and trained."""

    def run(self) -> None:
        from sim.tasks import TASKS

        rows: list[tuple[str, ...]] = []
        for name, task in sorted(TASKS.items()):
            sensors = "\n".join(f"{o.name} {len(o.channels)} ({o.topic})" for o in task.observations)
            action = f"{len(task.action.joints)} × {task.action.kind} ({task.action.topic})"
            what = f"{task.summary}; {task.episode_steps / task.rate_hz:g} s"
            drawn = ", ".join(d.name for d in task.randomisation)
            rows.append((name, task.robot.name, what, f"{task.rate_hz:g} Hz", sensors, action, drawn))
        _print_table((("task", "robot", "what", "rate", "sensors (topic)", "action (topic)", "randomised"), rows))
        _print("Any environment of gymnasium with vectors in and out is a task too, e.g. gym:HalfCheetahBulletEnv-v0.")


@dataclass(frozen=True)
class Train:
    """Train an agent for TASK, by default as is known to solve it, or with --from-bags DIR from recordings;
    'train --resume RUN' continues a run.
    """

    config: Any
    """training.config.TrainConfig; None to resume."""
    output: Path

    def run(self) -> None:
        from training.trainer import Status, resume, train

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("starting", total=None)

            def report(s: Status) -> None:
                text = f"{s.steps_per_s:.0f} steps/s, return {s.episode_return:.1f}, {s.success_rate:.0%} solved"
                bar.update(task, description=text, completed=s.steps, total=s.total_steps)

            if self.config is None:
                resume(self.output, report)
            else:
                train(self.config, self.output, report)
        _print(f"{self.output} is trained; next: ganglion export {self.output} -o FILE.onnx")


@dataclass(frozen=True)
class TrainFromBags:
    """Learn a world model from bags and clone the recorded commands; 'train --resume RUN' continues a run."""

    options: Any
    """training.bag_config.LearnOptions; None to resume."""
    folder: Path
    contract: Path
    output: Path

    def run(self) -> None:
        from training.cloning import CloneStatus, clone, resume_cloning

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("reading", total=None)

            def report(s: CloneStatus) -> None:
                text = f"held out: prediction {s.prediction:.2f} of holding, command ± {s.command:.2f}"
                bar.update(task, description=text, total=s.total_steps, completed=s.steps)

            if self.options is None:
                resume_cloning(self.output, report)
            else:
                clone(self.folder, self.contract, self.options, self.output, report)
        _print(f"{self.output} is trained; next: ganglion export {self.output} -o FILE.onnx")


def _parse_train(arguments: list[str]) -> Command:
    """The task comes first, because it chooses the defaults of all that follows."""
    if arguments[:1] == ["--resume"]:
        return _parse_resume(arguments[1:])
    if any(a.split("=")[0] == "--from-bags" for a in arguments):
        return _parse_from_bags(arguments)
    from training.config import TrainConfig, preset

    named = bool(arguments) and not arguments[0].startswith("-")
    defaults = preset(arguments[0] if named else "kuka_reach")
    names = [f.name for f in fields(TrainConfig)]
    task = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    folder = Annotated[Path, tyro.conf.arg(metavar="RUN", help="Folder of the run.")]
    extra: list[Any] = [("task", task), ("output", folder, Path("runs") / defaults.task)]
    settings = make_dataclass("Train", extra, bases=(TrainConfig,), frozen=True, namespace={"__doc__": Train.__doc__})
    shown = settings(**{n: getattr(defaults, n) for n in names}) if named else None
    given = _cli(settings, "train", arguments, shown)
    return Train(TrainConfig(**{n: getattr(given, n) for n in names}), given.output)


def _parse_resume(arguments: list[str]) -> Command:
    from training.bag_config import BagConfig
    from training.checkpoint import load_config

    if len(arguments) != 1:
        raise GanglionError("give the folder of the run and nothing else: ganglion train --resume RUN")
    run = Path(arguments[0])
    recorded = isinstance(load_config(run), BagConfig)
    return TrainFromBags(None, Path(), Path(), run) if recorded else Train(None, run)


def _parse_from_bags(arguments: list[str]) -> TrainFromBags:
    from training.bag_config import LearnOptions

    bags = Annotated[Path, tyro.conf.arg(metavar="DIR", help="Bag, or folder of bags.")]
    contract = Annotated[Path, tyro.conf.arg(metavar="FILE", help="The robot (.yaml), see docs/from_bags.md.")]
    folder = Annotated[Path, tyro.conf.arg(metavar="RUN", help="Folder of the run.")]
    extra: list[Any] = [("from_bags", bags), ("contract", contract), ("output", folder, Path("runs/from_bags"))]
    about = {"__doc__": TrainFromBags.__doc__}
    settings = make_dataclass("FromBags", extra, bases=(LearnOptions,), frozen=True, kw_only=True, namespace=about)
    given: Any = _cli(settings, "train", arguments)
    options = LearnOptions(**{f.name: getattr(given, f.name) for f in fields(LearnOptions)})
    return TrainFromBags(options, given.from_bags, given.contract, given.output)


@dataclass(frozen=True)
class Export:
    """Make a bundle of a trained run: trace, compare with torch, calibrate, write one ONNX file."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """Folder of the run; or a bundle (.onnx), to make one of another precision, or of this contract version."""
    output: Annotated[Path, tyro.conf.arg(metavar="FILE", aliases=["-o"])]
    """Bundle (.onnx) to write."""
    precision: Annotated[str, tyro.conf.arg(metavar="{fp32,fp16,int8-dynamic,int8}")] = "fp32"
    """In which the large layers compute; refused if outputs or control in simulation suffer."""
    workers: int = 2
    """Processes that share the episodes of the calibrations."""
    checks: bool = True
    """Calibrate the checks of the sensors, which can take long; without, every reading in its range is believed."""
    episodes: int = 100
    """Episodes in which another precision than fp32 has to control as well as fp32."""

    def run(self) -> None:
        from export.precision import export_as

        console = Console(stderr=True)
        with console.status("export") as status:

            def say(stage: str) -> None:
                status.update(stage)
                if not console.is_terminal:
                    console.print(stage)

            report = export_as(self.source, self.output, self.precision, say, self.workers, self.checks, self.episodes)
        _print(f"{self.output}: {report.size_bytes / 1000:.0f} kB; next: ganglion inspect {self.output}")


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

        bundle = _load(self.file, self.trusted_keys)
        if self.json:
            sys.stdout.write(json_text({"contract": to_plain(bundle.contract), "file": file_facts(bundle)}))
            return
        for title, table in card(bundle):
            _print(title)
            _print_table(table)


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

        found = differences(_load(self.first), _load(self.second))
        noticed = any(d.noticed for d in found)
        rows = [{"where": d.where, "first": d.first, "second": d.second, "noticed": d.noticed} for d in found]
        result = {"first": str(self.first), "second": str(self.second), "noticed": noticed, "differences": rows}
        verdict = "differ for a robot" if noticed else "are the same for a robot"
        _finish(f"{self.first} and {self.second} {verdict}", difference_table(result), result, self.json)
        return 1 if noticed else 0


@dataclass(frozen=True)
class Keygen:
    """Make a pair of keys to sign bundles with: KEY for whoever signs, KEY.pub for robots."""

    key: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="KEY")]
    """File of the private key (PEM, Ed25519)."""

    def run(self) -> None:
        from runtime.signature import make_keys

        public = make_keys(self.key)
        _print(
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

        write_bytes(self.file, sign(_load(self.file).model, self.key))
        _print(f"{self.file} is signed; next: ganglion run {self.file} --trusted-keys {self.key}.pub")


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

        bundle = replace(_load(self.file), provider=self.provider)
        largest = bundle.contract.refinement.max_steps
        steps = [k for k in self.refine if k <= largest]
        if len(steps) < len(self.refine):
            sys.stderr.write(f"notice: left out K above {largest}, the bundle's largest number of refinement steps\n")
        if not steps:
            raise ContractError(f"no K is left to measure: got {list(self.refine)}, the bundle allows 0 to {largest}")
        result = _with_progress("bench", lambda progress: bench(bundle, steps, self.ticks, progress))
        if result["notice"]:
            sys.stderr.write(f"notice: {result['notice']}\n")
        _finish(f"{self.file} on {result['provider']}", bench_table(result), result, self.json)


@dataclass(frozen=True)
class Eval:
    """Judge a bundle in simulation, nominally and with failing sensors."""

    file: BundlePath
    """Bundle (.onnx)."""
    task: str = ""
    """Task to run; the one it was trained for if empty."""
    episodes: int = 100
    """Episodes for every pair of K and fault, the same seeds in each."""
    refine: Steps = ()
    """Numbers of refinement steps; the bundle's default if empty."""
    faults: Names = ("nominal",)
    """Faults of sensors and body: nominal, or e.g. lost:joint_velocity, bias:joint_1=0.1@2-4, payload=3."""
    worlds: Names = ("nominal",)
    """Worlds: nominal, randomised as in training, rough, hard."""
    seed: int = 1_000_000
    """Seed of the first episode; training never uses seeds this high."""
    workers: int = 1
    """Processes that share the episodes."""
    json: JsonPath = None
    """Also write the result to this file."""

    def run(self) -> None:
        from sim.evaluate import evaluate

        bundle = _load(self.file)
        asked = (self.task, self.episodes, self.refine, self.faults, self.worlds, self.seed, self.workers)
        result = _with_progress("episodes", lambda progress: evaluate(bundle, *asked, progress))
        _finish(f"{self.file}: {result['task']}", evaluation_table(result), result, self.json)


@dataclass(frozen=True)
class Video:
    """Film bundles in simulation, side by side, with free energy and masked sensors drawn in."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE…")]
    """Bundles (.onnx), or folders of runs."""
    output: Annotated[Path, tyro.conf.arg(metavar="FILE", aliases=["-o"])]
    """Video (.mp4 or .gif) to write."""
    task: str = ""
    """Task to run; the one that the first bundle was trained for if empty."""
    seed: int = 1_000_000
    """Seed of the episode."""
    fault: str = "nominal"
    """Fault of sensors or body, e.g. lost:joint_1@5."""
    world: str = "nominal"
    """World: nominal, randomised as in training, rough, hard."""
    seconds: float = 0.0
    """Length; the whole episode if zero."""
    width: int = 640
    """Pixels per bundle."""
    fps: int = 25
    """Pictures per second."""

    def run(self) -> None:
        from sim.video import Scene, record_video

        scene = Scene(self.task, self.seed, self.fault, self.world, self.seconds, self.width, self.fps)
        bundles = [(path.stem, _load_or_draft(path)) for path in self.files]
        _with_progress("pictures", lambda progress: record_video(bundles, self.output, scene, progress))
        _print(f"{self.output} is written")


@dataclass(frozen=True)
class View:
    """Watch a task or a bundle in a window; Ctrl-C ends it."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK|RUN|FILE")]
    """Name of a task; or the folder of a run or a bundle (.onnx), in the task that it was trained for."""
    seed: int = 0
    """Seed of the first episode."""
    fault: str = "nominal"
    """Fault of sensors or body, e.g. lost:joint_1@5."""

    def run(self) -> None:
        from sim.env import make_env
        from sim.evaluate import fault_names
        from sim.watch import watch

        path = Path(self.what)
        bundle = _load_or_draft(path) if path.suffix == ".onnx" or path.is_dir() else None
        env = make_env(bundle.contract.provenance.task if bundle else self.what, render_mode="human")
        try:
            env.set_faults(fault_names(self.fault))
            watch(env, bundle, self.seed, lambda: True)
        finally:
            env.close()


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

        _load(self.file, self.trusted_keys)
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

        _print(stop(self.ros))


@dataclass(frozen=True)
class Engage:
    """Let a stopped controller act again."""

    ros: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> None:
        from ros_nodes.asking import engage

        _print(engage(self.ros))


@dataclass(frozen=True)
class Diagnostics:
    """Show the diagnostics of a running controller; exit code 1 if it holds or is stopped."""

    ros: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> int:
        from ros_nodes.asking import newest_diagnostics

        status = newest_diagnostics(self.ros)
        _print(f"{status.name.partition(':')[0]}: {status.message}")
        _print_table((FACTS, [(v.key, v.value) for v in status.values if v.value]))
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

        contract = _load(self.file, self.trusted_keys).contract
        asked = (contract, self.seconds, self.ros, self.move, self.confirm)
        findings = _with_progress("preflight", lambda progress: preflight(*asked, progress))
        fits = not errors(findings)
        result = {"bundle": str(self.file), "robot": contract.robot, "fits": fits, "findings": to_plain(findings)}
        title = f"{self.file}: the robot {'fits' if fits else 'does not fit'}"
        _finish(title, preflight_table(result), result, self.json)
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
        _finish(f"{file}: {self.output}", demo_table(result), result, self.json)


@dataclass(frozen=True, kw_only=True)
class _Replaying:
    """What every replay of bags can be told."""

    namespace: str = ""
    """Look only at the topics below this namespace."""
    remap: Annotated[tuple[str, ...], _comma_separated(str, "TOPIC:=NAME,…", "remaps")] = ()
    """What the bag calls topics of the contract, e.g. joint_states:=/arm/joint_states."""
    clock: Annotated[str, tyro.conf.arg(metavar="{receive,header}")] = "receive"
    """Raw mode: the time of a reading is when it was received, or the stamp in its header."""
    align: Annotated[str, tyro.conf.arg(metavar="{hold,asof,drop}")] = "hold"
    """Raw mode: a tick sees what arrived last, as the robot does (hold), or what is newest by its time (asof), or that
    for one tick only (drop)."""
    refine: Steps = ()
    """Numbers of refinement steps, each a replay of its own; as recorded, or the bundle's default if empty."""
    faults: Names = ()
    """Faults that strike the recorded sensors, e.g. lost:imu@2-4, in seconds since the recording began."""
    trusted_keys: TrustedKeys = ()
    """Public keys, one of which must have signed the bundle; if empty, any bundle is loaded."""
    workers: int = 2
    """Processes that share the replays."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE.html")] = None
    """Also draw the replays into this file, which any browser shows."""
    json: JsonPath = None
    """Also write the result to this file."""

    def _jobs(self, bags: Sequence[Path], mode: str) -> list[Job]:
        from runtime.replay.batch import jobs
        from runtime.replay.options import ReplayOptions

        options = ReplayOptions(mode, self.namespace, self.faults, None, self.remap, self.clock, self.align)
        return jobs(bags, options, self.refine)

    def _report(self, title: str, runs: Sequence[Replayed]) -> None:
        if self.report is not None:
            from runtime.replay.report.page import write_report

            write_report(self.report, title, runs)


@dataclass(frozen=True)
class Replay(_Replaying):
    """Run a bundle on bags again and compare the actions with the recorded ones."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="BAG… FILE")]
    """Bags (directories, .mcap, .db3 or .bag files) or folders of bags, and at the end a bundle (.onnx)."""
    mode: Annotated[str, tyro.conf.arg(metavar="{auto,telemetry,raw}")] = "auto"
    """telemetry: the recorded ticks, bit for bit; raw: the sensor topics alone; auto: telemetry where it fits."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """Also write every tick as a row; of several replays, each to a file of its own beside this one."""
    parquet: Annotated[Path | None, tyro.conf.arg(metavar="FILE.parquet")] = None
    """The same as Parquet."""
    mcap: Annotated[Path | None, tyro.conf.arg(metavar="FILE.mcap")] = None
    """Also write every tick as topics below /ganglion, beside those of the bag, for Foxglove and PlotJuggler."""

    def run(self) -> int:
        from runtime.replay.batch import replay_many
        from runtime.replay.exports import Exports
        from runtime.replay.verdict import Replayed

        if len(self.paths) < 2:
            raise GanglionError("give one or more bags and then a bundle: ganglion replay BAG… FILE")
        *bags, file = self.paths
        bundle = _load(file, self.trusted_keys)
        wanted = self._jobs(bags, self.mode)
        work = Exports(tuple(wanted), self.csv, self.parquet, self.mcap)
        outcomes = _with_progress("bags", lambda progress: replay_many(wanted, bundle, self.workers, progress, work))
        runs = [Replayed(file, bundle.contract, outcome) for outcome in outcomes]
        failed = sum(bool(outcome.error) for outcome in outcomes)
        if len(runs) == 1 and failed:
            raise GanglionError(outcomes[0].error)
        several = f"{len(runs)} replays on {file}" + (f", {failed} failed" if failed else "")
        title = several if len(runs) > 1 else f"{runs[0].bag} on {file}"
        self._report(title, runs)
        results = [run.to_json() for run in runs]
        if len(runs) > 1:
            _finish(title, replays_table(results), {"bundle": str(file), "replays": results}, self.json)
            return 1 if failed else 0
        result = results[0]["result"] | {"verdict": results[0]["verdict"]}
        _finish(title, replay_table(result), result, self.json)
        return 0


@dataclass(frozen=True)
class Compare(_Replaying):
    """Run several bundles on the same bags, on their sensor topics, and put the answers side by side."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE…")]
    """Bundles (.onnx)."""
    bags: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="BAG…")]
    """Bags (directories, .mcap, .db3 or .bag files) or folders of bags."""

    def run(self) -> int:
        from runtime.replay.batch import replay_many
        from runtime.replay.verdict import Replayed

        if len(self.files) < 2 or not self.bags:
            raise GanglionError("give two or more bundles, and bags: ganglion compare FILE FILE… --bags BAG…")
        wanted = self._jobs(self.bags, "raw")
        runs = []
        for file in self.files:
            bundle = _load(file, self.trusted_keys)
            work = partial(replay_many, wanted, bundle, self.workers)
            runs += [Replayed(file, bundle.contract, outcome) for outcome in _with_progress(file.name, work)]
        runs.sort(key=lambda run: wanted.index(run.outcome.job))  # what belongs together stands together
        failed = sum(bool(run.outcome.error) for run in runs)
        title = f"{len(self.files)} bundles on the same bags" + (f", {failed} of {len(runs)} failed" if failed else "")
        self._report(title, runs)
        results = [run.to_json() for run in runs]
        _finish(
            title, comparison_table(results), {"bundles": [str(f) for f in self.files], "replays": results}, self.json
        )
        return 1 if failed else 0


@dataclass(frozen=True)
class Collect:
    """Log episodes of a bundle in simulation, with noise on its commands, for 'ganglion ope'."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|RUN")]
    """Bundle (.onnx), or the folder of a run."""
    output: Annotated[Path, tyro.conf.arg(metavar="LOG", aliases=["-o"])]
    """Log (.npz) to write."""
    noise: float = 0.5
    """Standard deviation of the noise, in the action's scale."""
    episodes: int = 100
    """Episodes to log."""
    task: str = ""
    """Task to run; the one it was trained for if empty."""
    world: str = "nominal"
    """World: nominal, randomised as in training, rough, hard."""
    seed: int = 2_000_000
    """Seed of the first episode."""

    def run(self) -> None:
        from training.off_policy.collect import collect

        bundle = _load_or_draft(self.file)
        asked = (bundle, self.noise, self.episodes, self.task, self.world, self.seed)
        log = _with_progress("episodes", lambda progress: collect(*asked, progress))
        log.save(self.output)
        _print(f"{self.output}: {len(log.episode)} ticks; next: ganglion ope {self.output} FILE.onnx …")


@dataclass(frozen=True)
class Ope:
    """Estimate what bundles would have earned, from logged episodes of another policy (off-policy evaluation)."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="LOG… FILE…")]
    """Logs (.npz), and the bundles (.onnx) or folders of runs to judge."""
    gamma: float = 0.99
    """Discount per tick."""
    noise: float = 0.0
    """Judge the bundles with this noise on their commands, in the action's scale: only then do importance weights and
    doubly robust estimates exist. 0 judges them as they are, by fitted Q alone."""
    json: JsonPath = None
    """Also write the result to this file."""

    def run(self) -> None:
        from training.off_policy.judge import judge
        from training.off_policy.log import join_logs, load_log

        logs = [path for path in self.files if path.suffix == ".npz"]
        judged = [path for path in self.files if path.suffix != ".npz"]
        if not logs or not judged:
            raise GanglionError("give at least one log (.npz) and one bundle (.onnx) or folder of a run")
        log = join_logs([load_log(path) for path in logs])
        bundles = {str(path): _load_or_draft(path) for path in judged}
        result = _with_progress("policies", lambda progress: judge(log, bundles, self.gamma, self.noise, progress))
        title = (
            f"{result['episodes']} episodes, {result['ticks']} ticks; they earned {result['logged']:.4g}, discounted"
        )
        _finish(title, off_policy_table(result), result, self.json)
        for policy in result["policies"]:
            for warning in policy["warnings"]:
                sys.stderr.write(f"warning: {policy['name']}: {warning}\n")


COMMANDS: dict[str, type[Command]] = {
    "tasks": Tasks,
    "train": Train,
    "export": Export,
    "inspect": Inspect,
    "diff": Diff,
    "keygen": Keygen,
    "sign": Sign,
    "bench": Bench,
    "eval": Eval,
    "view": View,
    "video": Video,
    "sim": Sim,
    "run": Run,
    "status": Diagnostics,
    "stop": Stop,
    "engage": Engage,
    "record": Record,
    "preflight": Preflight,
    "demo": Demo,
    "replay": Replay,
    "compare": Compare,
    "collect": Collect,
    "ope": Ope,
}

_ON_ROS = ("sim", "run", "status", "stop", "engage", "record", "preflight")


def _parse(name: str, arguments: list[str]) -> Command:
    if name == "train":
        return _parse_train(arguments)
    if name in _ON_ROS and "--ros-args" in arguments:
        cut = arguments.index("--ros-args")
        return replace(_parse(name, arguments[:cut]), ros=tuple(arguments[cut:]))  # type: ignore[type-var]
    return _cli(COMMANDS[name], name, arguments)


def _cli(kind: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    known: dict[str, Any] = {} if default is None else {"default": default}
    result: T = tyro.cli(kind, prog=f"ganglion {name}", args=arguments, config=(tyro.conf.FlagCreatePairsOff,), **known)
    return result


def _overview() -> str:
    lines = (f"  {name:<9} {(command.__doc__ or '').splitlines()[0]}\n" for name, command in COMMANDS.items())
    return (
        "usage: ganglion COMMAND …\n\n"
        "Train a robot's controller in simulation, ship it as one ONNX file, run it on ROS 2, replay its bags.\n\n"
        f"{''.join(lines)}\n"
        "'ganglion COMMAND --help' tells more; 'ganglion --version' tells the version.\n"
    )


def _load(path: Path, trusted_keys: Sequence[Path] = ()) -> Bundle:
    from runtime.bundle import Bundle

    return Bundle.load(path, trusted_keys=trusted_keys)


def _load_or_draft(path: Path) -> Bundle:
    """A bundle, or what a run would be as one, without calibration."""
    if not path.is_dir():
        return _load(path)
    from export.exporter import draft

    return draft(path)


def _print_table(table: Table) -> None:
    shown = RichTable(show_header=any(table[0]))
    for column in table[0]:
        shown.add_column(column, overflow="fold")
    for row in table[1]:
        shown.add_row(*map(Text, row))  # what is in brackets is no markup
    _print(shown)


def _with_progress(what: str, work: Callable[[Callable[[float, float], None]], T]) -> T:
    """`work` with a progress bar on stderr; its callback takes what is done and the total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        return work(lambda done, total: bar.update(task, completed=done, total=total))


def _print(what: object) -> None:
    # A file or a pipe has no width to fold to, and what a bundle calls its joints is no markup.
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(what)


def _finish(title: str, table: Table, result: object, path: Path | None) -> None:
    _print(title)
    if table[1]:
        _print_table(table)
    if path is not None:
        write_json(path, result)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0, 1 if a robot does not fit or would notice a difference, 2 for an error, 130 on Ctrl-C.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    if not args or args[0] in ("-h", "--help"):
        (sys.stdout if args else sys.stderr).write(_overview())
        return 0 if args else 2
    if args[0] == "--version":
        sys.stdout.write(f"ganglion {__version__}\n")
        return 0
    try:
        if args[0] not in COMMANDS:
            raise GanglionError(f"there is no command '{args[0]}'; expected one of {', '.join(COMMANDS)}")
        return _parse(args[0], args[1:]).run() or 0
    except (GanglionError, ModuleNotFoundError) as error:
        text = explain_missing(error) if isinstance(error, ModuleNotFoundError) else str(error)
        sys.stderr.write(f"error: {text}\n")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
