"""Runs of the command line that SIGKILL ends at any moment go on from their last checkpoint, with every file whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ganglion
from training.checkpoint import BEST, load_agent, load_checkpoint, load_config
from training.progress import STEPS, read_progress
from training.trainer import best_return

KILLS = 20
TINY = """
    --num-envs 1 --workers 1 --horizon 16 --sequence 16 --overshoot 0 --model-epochs 0 --model-only-steps 0 --refine 0
    --agent.hidden 8 --agent.inference.method hold --agent.inference.default-steps 0 --steps 1000000
    --checkpoint-every 1 --log-every 1 --eval-every 128 --eval-episodes 1
"""
OWN = {"ppo": "", "sac": "--learning-starts 32 --buffer-size 256 --batch-size 8 --gradient-steps 0.1"}

# Forks of a server that has imported torch, and what its optimisers import: a start takes half a second, not ten.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ganglion.command_line", "training.trainer", "sim.env", "torch._dynamo", __name__])


def command(arguments: list[str], output: str) -> None:
    """`ganglion …` as a process, which says what it has to say to a file."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    raise SystemExit(ganglion.main(arguments))


def start(arguments: list[str], output: Path) -> BaseProcess:
    process = CONTEXT.Process(target=command, args=(arguments, str(output)))
    process.start()
    return process


def wait_for_work(process: BaseProcess, run: Path) -> None:
    """Until a new checkpoint is there, if not the process ends."""
    path = run / "checkpoint.pt"
    before = path.stat().st_mtime_ns if path.exists() else 0
    while process.is_alive() and not (path.exists() and path.stat().st_mtime_ns > before):
        time.sleep(0.001)


@pytest.mark.parametrize("algo", sorted(OWN))
def test_a_run_killed_20_times_at_any_moment_ends_whole(algo: str, tmp_path: Path) -> None:
    draw = random.Random(algo)
    run, output = tmp_path / "run", tmp_path / "said"
    new = ["train", "cartpole", "--algo", algo, "--output", str(run), *TINY.split(), *OWN[algo].split()]
    for kill in range(KILLS):
        begun = (run / "config.json").exists()
        process = start(["train", "--resume", str(run)] if begun else new, output)
        if kill % 4:  # often in the middle of updates and writes, sometimes while it starts
            wait_for_work(process, run)
            time.sleep(draw.uniform(0.0, 0.1))
        else:
            time.sleep(draw.uniform(0.0, 0.5))
        assert process.is_alive(), output.read_text()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    reached = load_checkpoint(run)["steps"]
    assert reached >= 16 * KILLS // 2, "it got on in between"
    process = start(["train", "--resume", str(run), "--steps", str(reached + 256)], output)
    process.join()
    assert process.exitcode == 0, output.read_text()

    assert not list(run.glob("*.tmp"))
    config = load_config(run)
    assert (config.algo, load_agent(run)[2]) == (algo, reached + 256)
    assert load_agent(run, best=True)[2] == load_checkpoint(run, BEST)["steps"]
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    steps = [line[STEPS] for line in lines]
    assert lines == read_progress(run)
    assert steps == sorted(set(steps))
    assert steps[-1] == reached + 256
    evaluations = [line["eval/mean_reward"] for line in lines if "eval/mean_reward" in line]
    assert best_return(run) >= max(evaluations)
    events = EventAccumulator(str(run))
    events.Reload()
    assert [e.step for e in events.Scalars("time/fps")] == steps
    assert len(list(run.glob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(signum: int, code: int, tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "said"
    words = TINY.replace("--checkpoint-every 1", "--checkpoint-every 999999").replace("--workers 1", "--workers 2")
    words = words.replace("--num-envs 1", "--num-envs 2")
    process = start(["train", "cartpole", "--output", str(run), *words.split()], output)
    while process.is_alive() and not read_progress(run):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signum)
    process.join()
    said = output.read_text()
    assert process.exitcode == code, said
    assert f"saved; go on with: ganglion train --resume {run}" in " ".join(said.split())
    assert "Traceback" not in said
    assert load_checkpoint(run)["steps"] == read_progress(run)[-1][STEPS] > 0
