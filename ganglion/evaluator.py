"""Subcommands of whoever judges policies by what was recorded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ganglion.console import finish, kept, load, load_or_draft, show, with_progress
from ganglion.options import JsonPath, Names, Steps, TrustedKeys, comma_separated
from runtime.errors import GanglionError
from runtime.tables import comparison_table, off_policy_table, replay_row, replay_table, replays_table

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.replay.batch import Job, Outcome, Work
    from runtime.replay.verdict import Replayed
    from runtime.results import Rows


@dataclass(frozen=True, kw_only=True)
class _Replaying:
    """What every replay of bags can be told."""

    namespace: str = ""
    """Look only at the topics below this namespace."""
    remap: Annotated[tuple[str, ...], comma_separated(str, "TOPIC:=NAME,…", "remaps")] = ()
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
    cluster: str = ""
    """Ray cluster whose machines share them instead, and see the bags at the same paths: host:port, auto or local."""
    results: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also keep a row for every replay, as it comes, in this folder of Parquet files."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE.html")] = None
    """Also draw the replays into this file, which any browser shows."""
    json: JsonPath = None
    """Also write the result to this file."""

    def _jobs(self, bags: Sequence[Path], mode: str) -> list[Job]:
        from runtime.replay.batch import jobs
        from runtime.replay.options import ReplayOptions

        options = ReplayOptions(mode, self.namespace, self.faults, None, self.remap, self.clock, self.align)
        return jobs(bags, options, self.refine)

    def _replay(
        self, file: Path, bundle: Bundle, wanted: Sequence[Job], work: Work, keep: Rows | None
    ) -> list[Replayed]:
        """Everything of `wanted`, with a progress bar; `keep` takes a row of each."""
        from runtime.replay.batch import replay_many
        from runtime.replay.verdict import Replayed

        def each(outcome: Outcome) -> None:
            if keep is not None:
                keep.add(replay_row(Replayed(file, bundle.contract, outcome).to_json()))

        outcomes = with_progress(
            file.name,
            lambda progress: replay_many(wanted, bundle, self.workers, progress, work, self.cluster, each),
        )
        return [Replayed(file, bundle.contract, outcome) for outcome in outcomes]

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
        from runtime.replay.exports import Exports

        if len(self.paths) < 2:
            raise GanglionError("give one or more bags and then a bundle: ganglion replay BAG… FILE")
        *bags, file = self.paths
        bundle = load(file, self.trusted_keys)
        wanted = self._jobs(bags, self.mode)
        work = Exports(tuple(wanted), self.csv, self.parquet, self.mcap)
        with kept(self.results) as keep:
            runs = self._replay(file, bundle, wanted, work, keep)
        failed = sum(bool(run.outcome.error) for run in runs)
        if len(runs) == 1 and failed:
            raise GanglionError(runs[0].outcome.error)
        several = f"{len(runs)} replays on {file}" + (f", {failed} failed" if failed else "")
        title = several if len(runs) > 1 else f"{runs[0].bag} on {file}"
        self._report(title, runs)
        results = [run.to_json() for run in runs]
        if len(runs) > 1:
            finish(title, replays_table(results), {"bundle": str(file), "replays": results}, self.json)
            return 1 if failed else 0
        result = results[0]["result"] | {"verdict": results[0]["verdict"]}
        finish(title, replay_table(result), result, self.json)
        return 0


@dataclass(frozen=True)
class Compare(_Replaying):
    """Run several bundles on the same bags, on their sensor topics, and put the answers side by side."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE…")]
    """Bundles (.onnx)."""
    bags: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="BAG…")]
    """Bags (directories, .mcap, .db3 or .bag files) or folders of bags."""

    def run(self) -> int:
        from runtime.replay.replay import replay

        if len(self.files) < 2 or not self.bags:
            raise GanglionError("give two or more bundles, and bags: ganglion compare FILE FILE… --bags BAG…")
        wanted = self._jobs(self.bags, "raw")
        runs = []
        with kept(self.results) as keep:
            for file in self.files:
                runs += self._replay(file, load(file, self.trusted_keys), wanted, replay, keep)
        runs.sort(key=lambda run: wanted.index(run.outcome.job))  # what belongs together stands together
        failed = sum(bool(run.outcome.error) for run in runs)
        title = f"{len(self.files)} bundles on the same bags" + (f", {failed} of {len(runs)} failed" if failed else "")
        self._report(title, runs)
        results = [run.to_json() for run in runs]
        finish(
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

        bundle = load_or_draft(self.file)
        asked = (bundle, self.noise, self.episodes, self.task, self.world, self.seed)
        log = with_progress("episodes", lambda progress: collect(*asked, progress))
        log.save(self.output)
        show(f"{self.output}: {len(log.episode)} ticks; next: ganglion ope {self.output} FILE.onnx …")


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
        bundles = {str(path): load_or_draft(path) for path in judged}
        result = with_progress("policies", lambda progress: judge(log, bundles, self.gamma, self.noise, progress))
        title = (
            f"{result['episodes']} episodes, {result['ticks']} ticks; they earned {result['logged']:.4g}, discounted"
        )
        finish(title, off_policy_table(result), result, self.json)
        for policy in result["policies"]:
            for warning in policy["warnings"]:
                sys.stderr.write(f"warning: {policy['name']}: {warning}\n")
