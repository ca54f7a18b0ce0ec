"""A sweep whose trials are tasks of a real Ray cluster: killed twice, it makes the trials that were asked for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

pytest.importorskip("ray", reason="needs the extra 'scale'")

from ray.cluster_utils import Cluster

from ganglion.trainer import Train, parse_train
from runtime.errors import GanglionError
from tests.clusters import two_nodes
from tests.training.test_killed_runs import CONTEXT, TINY, command
from tests.training.test_sweep import tiny
from training.checkpoint import load_agent
from training.config import TrainConfig
from training.sweep import Sweep

TRIALS, STEPS = 20, 128


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, with a CPU each."""
    with two_nodes() as started:
        yield started


def finished(folder: Path) -> int:
    """Trials that were judged at their last step."""
    return len(list(folder.glob("trial_*/best.pt")))


def test_a_sweep_killed_twice_on_a_cluster_makes_20_trials(cluster: Cluster, tmp_path: Path) -> None:
    folder, output = tmp_path / "sweep", tmp_path / "said"
    words = (
        f"sweep cartpole --output {folder} --trials {TRIALS} --search learning_rate,gamma --cluster {cluster.address} "
    )
    words += f"--actors 2 {TINY}".replace("1000000", str(STEPS))
    for least in (3, 9):
        process = CONTEXT.Process(target=command, args=(words.split(), str(output)))
        process.start()
        while process.is_alive() and finished(folder) < least:
            time.sleep(0.01)
        assert process.pid is not None
        assert process.is_alive(), output.read_text()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    process = CONTEXT.Process(target=command, args=(words.split(), str(output)))
    process.start()
    process.join()
    assert process.exitcode == 0, output.read_text()
    sweep = Sweep(tiny(STEPS), folder, TRIALS, ("learning_rate", "gamma"))
    trials = sweep.study.get_trials()
    assert [t.number for t in trials] == list(range(TRIALS))
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({t.params["learning_rate"] for t in trials}) == TRIALS, "each draws for itself"
    assert sorted(int(p.name.split("_")[1]) for p in folder.glob("trial_*")) == list(range(TRIALS))
    assert "the best again:" in output.read_text()


def test_a_trial_begun_but_not_drawn_is_drawn_by_who_leads(tmp_path: Path) -> None:
    """A kill may come between the two. Whoever makes the trial, it is not drawn as the one after it."""
    begun = Sweep(tiny(STEPS), tmp_path, 3, ("learning_rate",)).study.ask()
    leader = Sweep(tiny(STEPS), tmp_path, 3, ("learning_rate",))
    first = leader.next_trial()
    assert first is not None
    there = Sweep(tiny(STEPS), tmp_path, 3, ("learning_rate",), leads=False)
    assert first.number == begun.number
    assert there.trial(first.number).params == first.params != {}
    second = leader.next_trial(under_way=(first.number,))
    assert second is not None
    assert second.params["learning_rate"] != first.params["learning_rate"]


def test_a_trial_that_fails_by_its_own_fault_is_one_error(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "said"
    words = f"sweep gym:NoSuchTask-v0 --output {tmp_path / 'sweep'} --trials 2 --cluster {cluster.address} {TINY}"
    process = CONTEXT.Process(target=command, args=(words.split(), str(output)))
    process.start()
    process.join()
    assert process.exitcode == 2
    assert "Traceback" not in output.read_text()


def test_the_best_trains_again_by_its_number(tmp_path: Path) -> None:
    """`train --like` the run of a trial: its settings, but for those that are given."""
    sweep = Sweep(tiny(STEPS), tmp_path / "sweep", 1, ("gamma",))
    (result,) = sweep.run()
    trial = sweep.run_folder(result.number)
    again = parse_train(["--like", str(trial), "--seed", "7", "--output", str(tmp_path / "again")])
    assert isinstance(again, Train)
    _, config, _ = load_agent(trial)
    assert isinstance(config, TrainConfig)
    assert again.config.gamma == result.parameters["gamma"]
    assert (again.config.seed, config.seed) == (7, 0)
    assert again.config.options == config.options
    with pytest.raises(GanglionError, match="is not a training run"):
        parse_train(["--like", str(tmp_path)])
    with pytest.raises(GanglionError, match="give the folder of a run"):
        parse_train(["--like"])
