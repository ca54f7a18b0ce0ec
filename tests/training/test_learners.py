"""Several learners under torchrun: equal to one with all their simulations, and runs that they share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import learner_process
from training import learners
from training.algorithms import ALGORITHMS
from training.checkpoint import load_checkpoint
from training.progress import STEPS, read_progress
from training.replay_buffer import FILE, file_of
from training.trainer import means

ROOT = Path(__file__).parents[2]
ON_POLICY = ["a2c", "vpg", "reinforce", "npg", "trpo", "ppo"]
OFF_POLICY = list(learner_process.OFF_POLICY)
FITTED = [*learner_process.FITTED, "bc"]
TINY = (
    "cartpole --num-envs 2 --workers 1 --horizon 16 --sequence 16 --overshoot 0 --model-only-steps 0 "
    "--agent.hidden 8 --device cpu --log-every 1 --checkpoint-every 64 --eval-every 0 "
)


def torchrun(count: int, module: str, *arguments: str) -> subprocess.Popen[str]:
    """`count` processes of a module."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, "-m", module, *arguments], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], timeout: float = 120.0) -> tuple[str, str]:
    """What it wrote, and what of errors, once it has ended; it is ended if that takes longer than `timeout` seconds."""
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        out, err = process.communicate(timeout=60)
        raise AssertionError(f"it has not ended in {timeout:.0f} s, and wrote: {out}{err}") from None


def finished(process: subprocess.Popen[str]) -> str:
    """What it wrote, once it has ended without an error."""
    out, err = ended(process, timeout=240.0)
    assert process.returncode == 0, err
    return out


def test_every_algorithm_is_compared() -> None:
    assert {*ON_POLICY, *OFF_POLICY, *FITTED} == set(ALGORITHMS)


@pytest.mark.parametrize("algos", [ON_POLICY, OFF_POLICY, FITTED], ids=["on policy", "off policy", "fitted"])
def test_two_learners_equal_one_with_twice_the_batch(algos: list[str]) -> None:
    """To 1e-5 after ten updates in float64; see learner_process."""
    lines = finished(torchrun(2, "tests.training.learner_process", *algos)).splitlines()
    for algo, line in zip(algos, lines, strict=True):
        difference, spread, moved = map(float, line.split())
        assert difference < 1e-5, algo
        assert spread == 0.0, f"{algo}: the learners have grown apart"
        assert moved > 1e-3, f"{algo} has not learned"


def test_a_run_goes_on_with_more_learners_and_with_fewer(tmp_path: Path) -> None:
    """Two learners take 2 x 2 x 16 steps an update, three 96, one 32; one curve, one process writes."""
    run = str(tmp_path / "run")
    options = (TINY + f"--steps 256 --output {run} --algo sac --learning-starts 32 --buffer-size 512").split()
    finished(torchrun(2, "training", *options, "--batch-size", "16", "--gradient-steps", "0.1"))
    assert load_checkpoint(tmp_path / "run")["steps"] == 256
    assert [entry[STEPS] for entry in read_progress(tmp_path / "run")] == [64, 128, 192, 256]
    assert all((tmp_path / "run" / file_of(rank)).exists() for rank in (0, 1))
    assert (tmp_path / "run" / FILE).read_bytes() != (tmp_path / "run" / file_of(1)).read_bytes()
    kill_left_one_with_more(tmp_path / "run")
    finished(torchrun(3, "training", "--resume", run, "--steps", "448"))
    assert (tmp_path / "run" / file_of(2)).exists()
    finished(torchrun(1, "training", "--resume", run, "--steps", "512"))
    steps = [entry[STEPS] for entry in read_progress(tmp_path / "run")]
    assert steps == [64, 128, 192, 256, 352, 448, 480, 512]
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def kill_left_one_with_more(run: Path) -> None:
    """The second learner has 32 transitions more than the first; learning starts where only it has enough."""
    counts = np.memmap(run / file_of(1), dtype=np.int64, mode="r+", shape=8)[-2:]
    assert counts.tolist() == [128, 128]
    counts[:] = 160
    config = json.loads((run / "config.json").read_text())
    config["options"]["learning_starts"] = 128 + 32 + 1
    (run / "config.json").write_text(json.dumps(config))


def test_a_signal_to_one_learner_saves_and_ends_all(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = torchrun(2, "training", *(TINY + f"--steps 10000000 --output {run}").split())
    deadline = time.monotonic() + 120
    while not read_progress(run):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGTERM)
    out, _ = ended(process)
    assert f"{run} is ended by SIGTERM and saved" in out
    assert out.count("saved") == 1, "one of them speaks"
    assert load_checkpoint(run)["steps"] == read_progress(run)[-1][STEPS]


def test_no_one_leaves_before_the_first_has_saved() -> None:
    """torchrun ends the others as soon as one has left with an error."""
    process = torchrun(2, "tests.training.parting_process")
    out, _ = ended(process)
    assert process.returncode != 0
    assert out == "saved\n"


def test_a_folder_that_holds_a_run_is_refused_by_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    process = torchrun(2, "training", *(TINY + f"--steps 64 --output {tmp_path}").split())
    _, err = ended(process)
    assert process.returncode != 0
    assert f"{tmp_path} already holds a run" in err


def test_alone_nothing_is_exchanged() -> None:
    value = torch.tensor([1.0, 2.0])
    assert learners.mean(value) is value
    assert learners.everyone("mine") == ["mine"]
    assert (learners.count(), learners.rank()) == (1, 0)


def test_logs_are_means_over_those_that_have_them() -> None:
    assert means([{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}
