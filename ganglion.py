"""The command `ganglion`: one subcommand per step from a task in simulation to a bag on a robot.

Only what the chosen subcommand needs is imported, so that `inspect`, `bench` and `run` work on a robot without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from runtime.errors import ContractError, GanglionError
from runtime.files import json_text, write_json

if TYPE_CHECKING:
    from runtime.bundle import Bundle

__version__ = "0.1.0"

T = TypeVar("T")

_EXTRAS = {
    "onnxruntime": "cpu",
    "rclpy": "ros",
    "pybullet": "sim",
    "pybullet_data": "sim",
    "gymnasium": "sim",
    "torch": "train",
    "tensorboard": "train",
    "onnx": "export",
    "onnxscript": "export",
    "rosbags": "replay",
    "matplotlib": "report",
    "plotly": "report",
    "jinja2": "report",
}


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
JsonPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


class Command(Protocol):
    """A parsed subcommand."""

    def run(self) -> None:
        """Do it. Raises GanglionError for what the user can put right."""


@dataclass(frozen=True)
class Tasks:
    """List the tasks that can be simulated and trained."""

    def run(self) -> None:
        from sim.tasks import TASKS

        table = Table("task", "robot", "what", "rate", "observations", "action")
        for name, task in sorted(TASKS.items()):
            channels = ", ".join(f"{o.name} {len(o.channels)}" for o in task.observations)
            action = f"{len(task.action.joints)} × {task.action.kind}"
            table.add_row(name, task.robot.name, task.summary, f"{task.rate_hz:g} Hz", channels, action)
        _print(table)


@dataclass(frozen=True)
class Inspect:
    """Show what a bundle is for: robot, sensors, action, limits, calibration and where it came from."""

    file: BundlePath
    """Bundle (.onnx)."""
    json: bool = False
    """Print the contract as JSON instead."""

    def run(self) -> None:
        from runtime import describe
        from runtime.schema import to_plain

        bundle = _load(self.file)
        if self.json:
            sys.stdout.write(json_text(to_plain(bundle.contract)))
            return
        _print(str(self.file))
        _print(_table(("", ""), describe.facts(bundle)))
        _print("observations")
        _print(_table(describe.OBSERVATION_COLUMNS, describe.observation_rows(bundle.contract)))
        _print(f"action: {describe.action_title(bundle.contract)}")
        _print(_table(describe.ACTION_COLUMNS, describe.action_rows(bundle.contract)))


@dataclass(frozen=True)
class Bench:
    """Measure how long a tick takes on this machine."""

    file: BundlePath
    """Bundle (.onnx)."""
    refine: Steps = (0, 1, 2, 4, 8, 16)
    """Numbers of refinement steps; those beyond the bundle's largest are left out."""
    ticks: int = 2000
    """Ticks to time for each."""
    json: JsonPath = None
    """Also write the result to this file."""

    def run(self) -> None:
        from runtime.bench import bench

        bundle = _load(self.file)
        largest = bundle.contract.refinement.max_steps
        steps = [k for k in self.refine if k <= largest]
        if len(steps) < len(self.refine):
            _notice(f"left out K above {largest}, the bundle's largest number of refinement steps")
        if not steps:
            raise ContractError(f"no K is left to measure: got {list(self.refine)}, the bundle allows 0 to {largest}")
        result = _with_progress("bench", lambda progress: bench(bundle, steps, self.ticks, progress))
        table = Table("K", "p50 µs", "p99 µs", "max µs")
        for k, times in result["refine"].items():
            table.add_row(k, *(f"{times[p]:.1f}" for p in ("p50_us", "p99_us", "max_us")))
        _finish(f"{self.file} on {result['provider']}", table, result, self.json)


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
    """Sensor faults: nominal, lost:TARGET or dropout:TARGET=P, e.g. lost:joint_velocity."""
    seed: int = 1_000_000
    """Seed of the first episode; training never uses seeds this high."""
    json: JsonPath = None
    """Also write the result to this file."""

    def run(self) -> None:
        from sim.evaluate import evaluate

        bundle = _load(self.file)
        result = _with_progress(
            "episodes",
            lambda progress: evaluate(
                bundle, self.task or None, self.episodes, self.refine or None, self.faults, self.seed, progress
            ),
        )
        known = ("refine", "fault", "episodes", "return_mean", "return_ci95", "success_rate", "active_rate")
        metrics = [key for key in result["results"][0] if key not in known]
        table = Table(
            "K", "fault", "return (95 %)", "success", "acting", *metrics, title=f"{self.file}: {result['task']}"
        )
        for r in result["results"]:
            low, high = r["return_ci95"]
            spread = f"{r['return_mean']:.2f} ({low:.2f} to {high:.2f})"
            rates = (f"{r[k]:.1%}" for k in ("success_rate", "active_rate"))
            table.add_row(str(r["refine"]), r["fault"], spread, *rates, *(f"{r[m]:.4g}" for m in metrics))
        _finish(f"{self.file}: {result['task']}", table, result, self.json)


@dataclass(frozen=True)
class Replay:
    """Run a bundle on a bag again and compare the actions with the recorded ones."""

    bag: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BAG")]
    """Bag directory, or an .mcap or .db3 file."""
    file: BundlePath
    """Bundle (.onnx)."""
    mode: Annotated[str, tyro.conf.arg(metavar="{auto,telemetry,raw}")] = "auto"
    """telemetry: the recorded ticks, bit for bit; raw: the sensor topics alone; auto: telemetry where it fits."""
    namespace: str = ""
    """Look only at the topics below this namespace."""
    json: JsonPath = None
    """Also write the result to this file."""

    def run(self) -> None:
        from runtime.replay.replay import replay

        result = replay(self.bag, _load(self.file), mode=self.mode, namespace=self.namespace)
        error = "no recorded commands" if result.rmse is None else f"rmse {result.rmse:.3g}, max {result.max:.3g}"
        statuses = ", ".join(f"{n} {s.lower()}" for s, n in result.statuses.items())
        rows = {
            "mode": result.mode,
            "ticks": f"{result.ticks} ({statuses}; {result.skipped} skipped)",
            "actions identical": "yes" if result.bit_exact else "no",
            "action error": error,
            "first difference": result.first_difference,
            "not in the bag": ", ".join(result.missing),
            "speed": f"{result.realtime_factor:.0f} × real time",
        }
        table = _table(("", ""), [(key, value) for key, value in rows.items() if value])
        _finish(f"{self.bag} on {self.file}", table, result.to_json(), self.json)


COMMANDS: dict[str, type[Command]] = {
    "tasks": Tasks,
    "inspect": Inspect,
    "bench": Bench,
    "eval": Eval,
    "replay": Replay,
}


def _parse(name: str, arguments: list[str]) -> Command:
    return tyro.cli(COMMANDS[name], prog=f"ganglion {name}", args=arguments, config=(tyro.conf.FlagConversionOff,))


def _overview() -> str:
    lines = [f"  {name:<9} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        (
            "usage: ganglion COMMAND …",
            "",
            "Train a robot's controller in simulation, ship it as one ONNX file, run it on ROS 2, replay its bags.",
            "",
            *lines,
            "",
            "'ganglion COMMAND --help' tells more; 'ganglion --version' tells the version.",
            "",
        )
    )


def _load(path: Path) -> Bundle:
    from runtime.bundle import Bundle

    return Bundle.load(path)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table; without a heading if no column has a name."""
    table = Table(show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _with_progress(what: str, work: Callable[[Callable[[int, int], None]], T]) -> T:
    """`work` with a progress bar on stderr; its callback takes what is done and the total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        return work(lambda done, total: bar.update(task, completed=done, total=total))


def _print(what: object) -> None:
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to fold to
        console = Console(width=200)
    console.print(what)


def _notice(text: str) -> None:
    sys.stderr.write(f"notice: {text}\n")


def _finish(title: str, table: Table, result: object, path: Path | None) -> None:
    _print(title)
    _print(table)
    if path is not None:
        write_json(path, result)


def _explain_missing(error: ModuleNotFoundError) -> str:
    module = (error.name or "").split(".")[0]
    if module == "rclpy":
        return "ROS 2 is not here (no module rclpy); source its setup file, or: pip install 'ganglion[ros]' on x86-64"
    if module in _EXTRAS:
        return f"this needs {module}, which is not installed; pip install 'ganglion[{_EXTRAS[module]}]'"
    return f"the module {error.name} is missing; install ganglion again, with the extra that holds it"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 2 for an error that is told on one line, 130 on Ctrl-C)."""
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
        _parse(args[0], args[1:]).run()
    except GanglionError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: {_explain_missing(error)}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
