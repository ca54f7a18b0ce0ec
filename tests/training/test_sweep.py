"""Sweeps: real trials of few steps, two kills in the middle, and the same number of trials in the end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

import ganglion
from ganglion.sweeper import Sweep as Command
from ganglion.sweeper import parse_sweep
from ganglion.trainer import Train, parse_train
from runtime.errors import GanglionError
from tests.training.test_killed_runs import CONTEXT, TINY, command
from training import sweep as module
from training.algorithms import ALGORITHMS
from training.checkpoint import load_agent
from training.config import TrainConfig
from training.errors import DivergedError
from training.evaluation import Evaluation
from training.presets import preset
from training.sweep import JOURNAL, SPACES, Sweep, searched
from training.trainer import Status, best_return

CONTEXT.set_forkserver_preload([
    "ganglion.command_line", "training.trainer", "sim.env", "torch._dynamo", "optuna", "training.sweep", "sqlalchemy",
])  # fmt: skip


def tiny(steps: int = 128, algo: str = "ppo") -> TrainConfig:
    words = f"cartpole --algo {algo} {TINY}".replace("1000000", str(steps)).split()
    parsed = parse_sweep(words)
    assert isinstance(parsed, Command)
    config: TrainConfig = parsed.config
    return config


def test_a_short_sweep_gives_its_trials_and_the_command_of_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    words = f"sweep cartpole --output {folder} --trials 3 --search learning_rate,gamma {TINY}".replace("1000000", "128")
    assert ganglion.main(words.split()) == 0
    said = capsys.readouterr().out
    sweep = Sweep(tiny(), folder, 3, ("learning_rate", "gamma"))
    results = sweep.results()
    assert [r.state for r in results] == ["complete"] * 3
    assert sorted(r.number for r in results) == [0, 1, 2]
    assert [r.value for r in results] == sorted((r.value for r in results), reverse=True)
    assert results[0].command in " ".join(said.split())
    for result in results:
        assert result.value == best_return(sweep.run_folder(result.number))
        _, config, _ = load_agent(sweep.run_folder(result.number))
        assert isinstance(config, TrainConfig)
        assert set(result.parameters) == {"learning_rate", "gamma"}
        assert result.parameters["gamma"] == config.gamma
        assert config.seed == result.number
        again = parse_train(result.command.split()[2:])
        assert isinstance(again, Train)
        assert again.config == config
    assert len({r.parameters["learning_rate"] for r in results}) == 3

    assert ganglion.main(words.replace("--trials 3", "--trials 4").split()) == 0
    more = Sweep(tiny(), folder, 4, ("learning_rate", "gamma")).results()
    assert sorted(r.number for r in more) == [0, 1, 2, 3]
    assert len({r.parameters["learning_rate"] for r in more}) == 4, "the sampler does not begin anew"


def test_a_sweep_killed_twice_makes_exactly_the_trials_that_were_asked_for(tmp_path: Path) -> None:
    folder, output, draw = tmp_path / "sweep", tmp_path / "said", random.Random(3)
    words = f"sweep cartpole --output {folder} --trials 4 --search learning_rate {TINY}".replace("1000000", "400")
    for number in (0, 2):
        process = CONTEXT.Process(target=command, args=(words.split(), str(output)))
        process.start()
        while process.is_alive() and not (folder / f"trial_{number}" / "checkpoint.pt").exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.2))
        assert process.pid is not None
        assert process.is_alive(), output.read_text()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with (folder / JOURNAL).open("ab") as journal:
            journal.write(b'{"op_code": 8, "worker')  # torn, as a kill may leave it
    process = CONTEXT.Process(target=command, args=(words.split(), str(output)))
    process.start()
    process.join()
    assert process.exitcode == 0, output.read_text()
    sweep = Sweep(tiny(400), folder, 4, ("learning_rate",))
    trials = sweep.study.get_trials()
    assert [t.number for t in trials] == [0, 1, 2, 3]
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert sorted(p.name for p in folder.glob("trial_*")) == [f"trial_{n}" for n in range(4)]
    for t in trials:
        assert load_agent(sweep.run_folder(t.number))[2] <= 400
        if t.state is TrialState.COMPLETE:
            assert load_agent(sweep.run_folder(t.number))[2] == 400


def test_a_trial_that_is_worse_than_the_median_is_pruned_and_one_that_diverges_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(tiny(), tmp_path, 8, ("gamma",))
    returns = iter([5.0, 6.0, 7.0, 8.0, 9.0, 6.9, 7.1])

    def train(config: TrainConfig, run: Path, report: Callable[[Status], None]) -> None:
        try:
            value = next(returns)
        except StopIteration:
            raise DivergedError("training diverged") from None
        judged = Status(64, 128, 1.0, 0.0, 0.0, Evaluation(value, 0.0, 1.0, 0.0, 1))
        report(judged)

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "best_return", lambda run: 1.0)
    sweep.run()
    states = [t.state.name for t in sweep.study.get_trials()]
    assert states == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE", "FAIL"]


@pytest.mark.parametrize("algo", sorted(ALGORITHMS))
def test_what_is_drawn_for_an_algorithm_is_in_the_range_of_its_options(algo: str) -> None:
    tasks = [t for t in ("cartpole", "cartpole_push") if suits(t, algo)]
    config = preset(tasks[0], algo)
    spaces = searched(config)
    assert {"gamma", "hidden"} <= set(spaces)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        changed = module.drawn(config, spaces, study.ask())
        assert type(changed.options) is type(config.options)


def suits(task: str, algo: str) -> bool:
    try:
        preset(task, algo)
    except GanglionError:
        return False
    return True


def test_every_space_is_of_an_option_that_there_is() -> None:
    assert set(SPACES) <= {f.name for a in ALGORITHMS.values() for f in fields(a.options_class)}


def test_drawn_settings_reach_the_run() -> None:
    config = tiny()
    trial = FixedTrial({"learning_rate": 3e-4, "gamma": 0.95, "hidden": 32}, number=7)
    spaces = searched(config, ("learning_rate", "gamma", "hidden"))
    changed = module.drawn(config, spaces, trial)  # type: ignore[arg-type]
    options = replace(config.options, learning_rate=3e-4)  # type: ignore[call-arg]
    assert changed == replace(config, seed=7, gamma=0.95, agent=replace(config.agent, hidden=32), options=options)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(GanglionError, match="trials is 0, expected at least 1"):
        Sweep(tiny(), tmp_path, 0)
    with pytest.raises(GanglionError, match=r"ppo has no tau to search; expected some of gamma, hidden, learning_rate"):
        Sweep(tiny(), tmp_path, 1, ("tau",))
    Sweep(tiny(), tmp_path, 1)
    with pytest.raises(GanglionError, match="holds a sweep of other settings"):
        Sweep(tiny(256), tmp_path, 1)


def test_the_storage_may_be_another_one_of_optuna(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    assert [r.state for r in Sweep(tiny(), tmp_path / "a", 1, ("gamma",), url).run()] == ["complete"]
    assert len(Sweep(tiny(), tmp_path / "a", 1, ("gamma",), url).results()) == 1
    assert not (tmp_path / "a" / JOURNAL).exists()
