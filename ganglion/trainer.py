"""Subcommands of whoever trains policies in simulation, or from bags."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ganglion.console import finish, kept, load, load_or_draft, show, show_table, with_progress
from ganglion.options import BundlePath, Command, JsonPath, Names, Steps, cli
from runtime.errors import GanglionError
from runtime.tables import evaluation_table

if TYPE_CHECKING:
    from training.config import TrainConfig

_FIRST = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started, this is the one that speaks

Tell = Callable[[str, int, int], None]
"""Takes what a progress bar says, the steps that are done, and all of them."""


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
        show_table((("task", "robot", "what", "rate", "sensors (topic)", "action (topic)", "randomised"), rows))
        show("Any environment of gymnasium that observes a vector is a task too, e.g. gym:CartPole-v1.")


@dataclass(frozen=True)
class Train:
    """Train an agent for TASK, by default as is known to solve it, or with --from-bags DIR from recordings;
    'train --resume RUN' continues a run, with --steps N for longer; 'train --like RUN' begins one with its settings.
    """

    config: Any
    """training.config.TrainConfig; None to resume."""
    output: Path
    steps: int | None = None
    """In all, to resume with; the run's own if None."""
    device: str | None = None
    """To resume on; the run's own if None."""
    cluster: str | None = None
    """Likewise."""

    def run(self) -> int | None:
        from training.trainer import Status, resume, train

        def learn(tell: Tell) -> None:
            deployed = ""

            def report(s: Status) -> None:
                nonlocal deployed
                if s.evaluation is not None:
                    deployed = f", deployed {s.evaluation.episode_return:.1f}"
                text = f"{s.steps_per_s:.0f} steps/s, return {s.episode_return:.1f}, {s.success_rate:.0%} solved"
                tell(text + deployed, s.steps, s.total_steps)

            if self.config is None:
                resume(self.output, report, self.steps, self.device, self.cluster)
            else:
                train(self.config, self.output, report)

        return _learn(learn, "starting", self.output)


@dataclass(frozen=True)
class TrainFromBags:
    """Learn a world model from bags and clone the recorded commands; 'train --resume RUN' continues a run."""

    options: Any
    """training.bag_config.LearnOptions; None to resume."""
    folder: Path
    contract: Path
    output: Path

    def run(self) -> int | None:
        from training.cloning import CloneStatus, clone, resume_cloning

        def learn(tell: Tell) -> None:
            def report(s: CloneStatus) -> None:
                text = f"held out: prediction {s.prediction:.2f} of holding, command ± {s.command:.2f}"
                tell(text, s.steps, s.total_steps)

            if self.options is None:
                resume_cloning(self.output, report)
            else:
                clone(self.folder, self.contract, self.options, self.output, report)

        return _learn(learn, "reading", self.output)


def _learn(learn: Callable[[Tell], None], first: str, run: Path) -> int | None:
    """Do it with a progress bar, which says `first` until it is told more, and then what comes next."""
    from training.interrupts import Interrupted

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), disable=not _FIRST) as bar:
            task = bar.add_task(first, total=None)
            learn(lambda text, done, total: bar.update(task, description=text, completed=done, total=total))
    except Interrupted as interrupted:
        if _FIRST:
            show(f"{run} is {interrupted} and saved; go on with: ganglion train --resume {run}")
        return 128 + interrupted.signum
    if _FIRST:
        show(f"{run} is trained; next: ganglion export {run} -o FILE.onnx")
    return None


def parse_train(arguments: list[str]) -> Command:
    """The task comes first, because it chooses the defaults of all that follows."""
    if arguments[:1] == ["--resume"]:
        return _parse_resume(arguments[1:])
    if any(a.split("=")[0] == "--from-bags" for a in arguments):
        return _parse_from_bags(arguments)
    like = None
    if arguments[:1] == ["--like"]:
        like, arguments = _settings_of(arguments[1:2]), arguments[2:]
        arguments = [like.task, *arguments]
    config, given = parse_settings("train", arguments, str(Train.__doc__), Path("runs"), defaults=like)
    return Train(config, given.output)


def parse_settings(
    command: str,
    arguments: list[str],
    about: str,
    folder: Path,
    extra: Iterable[Any] = (),
    defaults: TrainConfig | None = None,
) -> tuple[TrainConfig, Any]:
    """The settings that `arguments` give, and everything given: `output` and the fields `extra` beside them.

    What they leave out is as in `defaults`; if there are none, as is known to solve the task.
    """
    from training.config import TrainConfig
    from training.presets import preset

    named = bool(arguments) and not arguments[0].startswith("-")
    defaults = defaults or preset(arguments[0] if named else "kuka_reach", _algo(arguments))
    _refuse_others(arguments, defaults)
    names = [f.name for f in fields(TrainConfig)]
    task = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    place = Annotated[Path, tyro.conf.arg(metavar="DIR", help="Folder of what comes of it.")]
    own: Any = Annotated[type(defaults.options), tyro.conf.arg(name="")]
    added: list[Any] = [("task", task), ("options", own, defaults.options), ("output", place, folder / defaults.task)]
    settings = make_dataclass(
        "Settings", [*added, *extra], bases=(TrainConfig,), frozen=True, namespace={"__doc__": about}
    )
    shown = settings(**{n: getattr(defaults, n) for n in names}) if named else None
    given = cli(settings, command, arguments, shown)
    return TrainConfig(**{n: getattr(given, n) for n in names}), given


def _settings_of(run: list[str]) -> TrainConfig:
    from training.checkpoint import load_config
    from training.config import TrainConfig

    if not run:
        raise GanglionError("give the folder of a run: ganglion train --like RUN")
    config = load_config(Path(run[0]))
    if not isinstance(config, TrainConfig):
        raise GanglionError(f"{run[0]} learns from bags, not in simulation; give the folder of another run")
    return config


def _algo(arguments: list[str]) -> str:
    """What follows --algo, which chooses the settings that there are."""
    for here, following in zip(arguments, [*arguments[1:], ""]):
        if here == "--algo" or here.startswith("--algo="):
            return following if here == "--algo" else here.partition("=")[2]
    return "ppo"


def _refuse_others(arguments: list[str], config: TrainConfig) -> None:
    """Raises GanglionError for an option that only other algorithms have."""
    from training.algorithms import ALGORITHMS

    own = {f.name for f in fields(config.options)}
    for word in (a.split("=")[0] for a in arguments if a.startswith("--")):
        name = word[2:].replace("-", "_")
        others = [a.name for a in ALGORITHMS.values() if name in {f.name for f in fields(a.options_class)}]
        if others and name not in own | {f.name for f in fields(config)}:
            known = ", ".join(f"--{n.replace('_', '-')}" for n in sorted(own)) or "none"
            raise GanglionError(
                f"{word} is an option of --algo {' or '.join(others)}, not of {config.algo}; its own are {known}"
            )


@dataclass(frozen=True)
class Resume:
    """Continue a run where its last checkpoint is, with its own settings."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    steps: int | None = None
    """Environment steps in all, to train a finished run for longer; the run's own if not given."""
    device: str | None = None
    """Where to compute: auto, cpu, cuda or mps; the run's own if not given."""
    cluster: str | None = None
    """Ray cluster to simulate on, or '' for none; the run's own if not given."""


def _parse_resume(arguments: list[str]) -> Command:
    from training.bag_config import BagConfig
    from training.checkpoint import load_config

    if not arguments:
        raise GanglionError("give the folder of the run: ganglion train --resume RUN")
    given = cli(Resume, "train --resume", arguments)
    if not isinstance(load_config(given.run), BagConfig):
        return Train(None, given.run, given.steps, given.device, given.cluster)
    if (given.steps, given.device, given.cluster) != (None, None, None):
        raise GanglionError(f"{given.run} learns from bags, which goes on as it began; resume it without options")
    return TrainFromBags(None, Path(), Path(), given.run)


def _parse_from_bags(arguments: list[str]) -> TrainFromBags:
    from training.bag_config import LearnOptions

    bags = Annotated[Path, tyro.conf.arg(metavar="DIR", help="Bag, or folder of bags.")]
    contract = Annotated[Path, tyro.conf.arg(metavar="FILE", help="The robot (.yaml), see docs/from_bags.md.")]
    folder = Annotated[Path, tyro.conf.arg(metavar="RUN", help="Folder of the run.")]
    extra: list[Any] = [("from_bags", bags), ("contract", contract), ("output", folder, Path("runs/from_bags"))]
    about = {"__doc__": TrainFromBags.__doc__}
    settings = make_dataclass("FromBags", extra, bases=(LearnOptions,), frozen=True, kw_only=True, namespace=about)
    given: Any = cli(settings, "train", arguments)
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
    best: bool = False
    """Take the best checkpoint by the run's evaluations instead of the last."""

    def run(self) -> None:
        from export.precision import export_as

        console = Console(stderr=True)
        with console.status("export") as status:

            def say(stage: str) -> None:
                status.update(stage)
                if not console.is_terminal:
                    console.print(stage)

            report = export_as(
                self.source, self.output, self.precision, say, self.workers, self.checks, self.episodes, self.best
            )
        show(f"{self.output}: {report.size_bytes / 1000:.0f} kB; next: ganglion inspect {self.output}")


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
    cluster: str = ""
    """Ray cluster whose machines share them instead: host:port of its head, auto or local."""
    results: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also keep a row for every episode, as it comes, in this folder of Parquet files."""
    json: JsonPath = None
    """Also write the result to this file."""

    def run(self) -> None:
        from sim.evaluate import evaluate

        bundle = load(self.file)
        asked = (self.task, self.episodes, self.refine, self.faults, self.worlds, self.seed, self.workers)
        with kept(self.results) as keep:
            each = None if keep is None else keep.add
            result = with_progress("episodes", lambda progress: evaluate(bundle, *asked, progress, self.cluster, each))
        finish(f"{self.file}: {result['task']}", evaluation_table(result), result, self.json)


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
        bundles = [(path.stem, load_or_draft(path)) for path in self.files]
        with_progress("pictures", lambda progress: record_video(bundles, self.output, scene, progress))
        show(f"{self.output} is written")


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
        bundle = load_or_draft(path) if path.suffix == ".onnx" or path.is_dir() else None
        env = make_env(bundle.contract.provenance.task if bundle else self.what, render_mode="human")
        try:
            env.set_faults(fault_names(self.fault))
            watch(env, bundle, self.seed, lambda: True)
        finally:
            env.close()
