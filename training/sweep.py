"""Search for settings: trials that optuna draws, each a run of its own, judged by its best evaluation.

Trials are kept in an optuna journal in the sweep's folder, or in another storage of optuna. Those that do worse at an
evaluation than the median of the earlier ones are pruned. A sweep that was killed goes on where it was: the trial that
it was at continues its run, so that exactly as many trials are made as asked for. One process at a time may sweep; on a
cluster it hands out the trials (see `training.cluster_sweep`).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import Trial, TrialState

from runtime.errors import GanglionError
from runtime.files import write_json
from runtime.schema import to_plain
from training.checkpoint import CONFIG, load_checkpoint
from training.config import TrainConfig
from training.errors import DivergedError
from training.presets import command_line
from training.trainer import Status, best_return, resume, train

JOURNAL, SETTINGS = "trials.journal", "sweep.json"
_LOCK_S = 5  # a lock older than this is of a process that was killed
_EVALUATIONS = 8  # of a trial, at least

Space = Callable[[Trial, str], Any]
"""Draws a setting by its name."""


def _log(low: float, high: float) -> Space:
    return lambda trial, name: trial.suggest_float(name, low, high, log=True)


def _one_of(*values: float) -> Space:
    return lambda trial, name: trial.suggest_categorical(name, values)


COMMON: dict[str, Space] = {"gamma": _one_of(0.95, 0.98, 0.99, 0.995), "hidden": _one_of(32, 64, 128, 256)}
"""Of every algorithm: the discount, and the width of the agent's hidden layers."""
SPACES: dict[str, Space] = {
    "learning_rate": _log(1e-5, 1e-2),
    "critic_learning_rate": _log(1e-5, 1e-2),
    "value_learning_rate": _log(1e-5, 1e-2),
    "ent_coef_learning_rate": _log(1e-5, 1e-2),
    "gae_lambda": _one_of(0.8, 0.9, 0.95, 0.98, 1.0),
    "clip": _one_of(0.1, 0.2, 0.3),
    "target_kl": _one_of(0.005, 0.01, 0.02, 0.04),
    "entropy": _one_of(0.0, 0.001, 0.01),
    "ent_coef": _log(0.01, 1.0),
    "epochs": _one_of(3, 5, 10, 20),
    "value_epochs": _one_of(5, 10, 20),
    "minibatches": _one_of(2, 4, 8, 16),
    "batch_size": _one_of(64, 128, 256, 512),
    "gradient_steps": _one_of(0.25, 0.5, 1.0),
    "tau": _log(0.001, 0.05),
    "noise_std": _one_of(0.05, 0.1, 0.2, 0.4),
    "exploration_fraction": _one_of(0.1, 0.2, 0.4),
    "target_update_interval": _one_of(100, 250, 1000),
    "policy_delay": _one_of(1, 2, 4),
    "target_policy_noise": _one_of(0.1, 0.2, 0.4),
}
"""By the name of an algorithm's option; what is not here is not searched."""


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial."""

    number: int
    state: str
    """complete, pruned or fail; running if the sweep was ended in it."""
    value: float
    """Mean return of its best evaluation; NaN before the first one."""
    parameters: dict[str, Any]
    command: str
    """Trains so again."""


def searched(config: TrainConfig, names: Sequence[str] = ()) -> dict[str, Space]:
    """What there is to search for an algorithm, or the part called `names`. Raises GanglionError for unknown ones."""
    own = {f.name for f in fields(config.options)}
    known = COMMON | {name: space for name, space in SPACES.items() if name in own}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise GanglionError(f"{config.algo} has no {', '.join(unknown)} to search; expected some of {', '.join(known)}")
    return {name: space for name, space in known.items() if not names or name in names}


def drawn(config: TrainConfig, spaces: dict[str, Space], trial: Trial) -> TrainConfig:
    """`config` with the settings and the seed of a trial."""
    values = {name: space(trial, name) for name, space in spaces.items()}
    agent = replace(config.agent, hidden=values.pop("hidden", config.agent.hidden))
    gamma = values.pop("gamma", config.gamma)
    options = replace(config.options, **values)
    return replace(config, seed=config.seed + trial.number, gamma=gamma, agent=agent, options=options)


class Sweep:
    """A search in a folder."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        trials: int,
        search: Sequence[str] = (),
        storage: str = "",
        leads: bool = True,
    ) -> None:
        """`trials` in all, also of earlier calls. `storage` is a URL of optuna, for example sqlite:///sweep.db.

        Of several processes in one sweep only one `leads`. On a cluster the settings are those of a trial there.

        Raises GanglionError if the folder holds a sweep of other settings.
        """
        if trials < 1:
            raise GanglionError(f"trials is {trials}, expected at least 1")
        most = max(1, config.steps // _EVALUATIONS)
        self.config = replace(config, eval_every=min(config.eval_every or most, most), cluster="")
        self.folder, self.trials, self._spaces = folder, trials, searched(config, search)
        self.search, self.storage = tuple(search), storage
        self._claim({"config": to_plain(self.config), "search": sorted(self._spaces)})
        name = str(folder.resolve()) if storage else "sweep"
        self.study = _study(storage or _journal(folder / JOURNAL, leads), name, config.seed)

    def _claim(self, settings: dict[str, Any]) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            write_json(path, settings)
        elif json.loads(path.read_text()) != settings:
            raise GanglionError(
                f"{self.folder} holds a sweep of other settings; go on with the command that began it, or give "
                "another folder"
            )

    def run(self, report: Callable[[int, Status], None] | None = None) -> list[TrialResult]:
        """Make the trials that are missing; all of them, the best first. `report` gets a trial's number and status."""
        while (trial := self.next_trial()) is not None:
            self.attempt(trial, report)
        return self.results()

    def next_trial(self, under_way: Collection[int] = ()) -> Trial | None:
        """The next to make, none if there is none: one that was begun and is not `under_way`, or a new one; drawn."""
        begun = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
        trial = next((Trial(self.study, t._trial_id) for t in begun if t.number not in under_way), None)
        if trial is None:
            if len(self.study.get_trials(deepcopy=False)) >= self.trials:
                return None
            trial = self.study.ask()
        drawn(self.config, self._spaces, trial)  # also one whose leader died before, not by whoever makes it
        return trial

    def trial(self, number: int) -> Trial:
        """One that was begun."""
        known = {t.number: t._trial_id for t in self.study.get_trials(deepcopy=False)}
        return Trial(self.study, known[number])

    def attempt(self, trial: Trial, report: Callable[[int, Status], None] | None = None) -> None:
        """Make a trial, or go on with its run."""
        config, run = drawn(self.config, self._spaces, trial), self.run_folder(trial.number)

        def judge(status: Status) -> None:
            if report is not None:
                report(trial.number, status)
            if status.evaluation is not None:
                with warnings.catch_warnings():  # a trial that goes on after a kill repeats what it reported
                    warnings.simplefilter("ignore")
                    trial.report(status.evaluation.episode_return, status.steps)
                if status.steps < config.steps and trial.should_prune():
                    raise optuna.TrialPruned

        try:
            if not (run / CONFIG).exists():
                train(config, run, judge)
            elif not self._is_finished(run, config):
                resume(run, judge)
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except DivergedError:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, best_return(run))

    def run_folder(self, number: int) -> Path:
        """Folder of a trial's run."""
        return self.folder / f"trial_{number}"

    @staticmethod
    def _is_finished(run: Path, config: TrainConfig) -> bool:
        return int(load_checkpoint(run)["steps"]) >= config.steps

    def results(self) -> list[TrialResult]:
        """Every trial so far, the best first."""
        results = []
        for t in self.study.get_trials(deepcopy=False):
            run = self.run_folder(t.number)
            config = drawn(self.config, self._spaces, optuna.trial.FixedTrial(t.params, t.number))  # type: ignore[arg-type]
            value = best_return(run)
            results.append(
                TrialResult(
                    t.number,
                    t.state.name.lower(),
                    value if math.isfinite(value) else math.nan,
                    dict(t.params),
                    f"{command_line(config)} --output {run}_again",
                )
            )
        return sorted(results, key=lambda r: (r.state != "complete", math.isnan(r.value), -r.value))


def _journal(path: Path, leads: bool) -> JournalStorage:
    """The journal at `path`; who leads, alone so far, cuts off a last line that a kill has torn."""
    if leads and path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)
    return JournalStorage(JournalFileBackend(str(path), JournalFileSymlinkLock(str(path), _LOCK_S)))


def _study(storage: Any, name: str, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(),
    )
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))  # not the same again
    return study
