"""Rollouts on a real Ray cluster of two nodes: the same as here, and training that outlives workers and nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray", reason="needs the extra 'scale'")

import ray
from ray.cluster_utils import Cluster

from runtime.errors import GanglionError
from runtime.fleet import connect
from tests.clusters import processes_of, two_nodes
from tests.training.algorithms.replayed import settings, short_run
from training import cluster as module
from training.agent.agent import Agent
from training.algorithms.base import Algorithm
from training.checkpoint import load_checkpoint
from training.cluster import ClusterCollector
from training.config import TrainConfig
from training.evaluation import evaluate
from training.progress import STEPS, read_progress
from training.rollout import Rollout, side_by_side
from training.shard import Policy, Shard, shares
from training.trainer import Status, Trainer, train

ACTORS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and another node, with a CPU each."""
    with two_nodes(**{f"health_check_{name}_ms": 500 for name in ("initial_delay", "period", "timeout")}) as started:
        yield started


def tiny(algo: str, address: str, **changes: Any) -> TrainConfig:
    config = replace(settings(algo), num_envs=5, horizon=16, sequence=16, overshoot=0, model_only_steps=0, device="cpu")
    return replace(config, cluster=address, actors=ACTORS, eval_every=0, log_every=1, **changes)


class Here:
    """The shards of a run in this process, one after the other."""

    def __init__(self, config: TrainConfig, agent: Agent, algorithm: Algorithm[Any]) -> None:
        self._shards = [Shard(part, i, 0, 0) for i, part in enumerate(shares(config, ACTORS))]
        self._agent, self._algorithm, self._version = agent, algorithm, 0

    def collect(self) -> Rollout:
        policy = Policy(self._version, self._agent.state_dict(), self._algorithm.explorer())
        self._version += 1
        return side_by_side([shard.collect(policy).rollout for shard in self._shards])

    def logs(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        for shard in self._shards:
            shard.close()


def test_an_on_policy_run_is_the_same_on_the_cluster_as_here(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five simulations, of which one actor has three, for four updates: all weights, to the last bit."""
    config = tiny("ppo", cluster.address, steps=4 * 5 * 16)
    train(config, tmp_path / "there")
    monkeypatch.setattr(Trainer, "_collector", lambda self: Here(config, self.agent, self.algorithm))
    train(config, tmp_path / "here")
    there, here = (load_checkpoint(tmp_path / name) for name in ("there", "here"))
    assert there["steps"] == here["steps"] == 320
    for name, value in here["agent"].items():
        assert torch.equal(there["agent"][name], value), name
    last = read_progress(tmp_path / "there")[-1]
    assert last["cluster/nodes"] == 2.0
    assert last["cluster/replaced"] == last["cluster/dropped"] == 0.0
    assert last["cluster/actor_0_fps"] > 0.0


class Enough(Exception):
    """All that was to happen has happened."""


def test_training_outlives_a_worker_and_a_node_and_takes_in_another(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAC on the cart-pole: each time that both nodes are at work a worker is killed, then its whole node, then another
    node joins. Every fragment is counted once, and the pole stands as long as after an undisturbed run here."""
    made: list[ClusterCollector] = []

    def remember(trainer: Trainer) -> ClusterCollector:
        made.append(ClusterCollector(trainer.config, trainer.agent, trainer.algorithm, trainer.steps))
        return made[-1]

    (other,) = cluster.worker_nodes
    accidents: list[Callable[[], Any]] = [
        lambda: os.kill(processes_of(other, "_Remote")[0], signal.SIGKILL),
        lambda: cluster.remove_node(other, allow_graceful=False),
        lambda: cluster.add_node(num_cpus=1),
    ]
    happened = 0

    def report(status: Status) -> None:
        nonlocal happened
        (collector,) = made
        at_work = not any(actor.young for actor in collector._actors)
        spread = at_work and set(collector._load().values()) == {1}
        ready = (spread, spread and collector.replaced >= 1, at_work and collector.replaced >= 2)
        if happened < len(accidents) and ready[happened]:
            accidents[happened]()
            happened += 1
        elif happened == len(accidents) and spread and status.steps >= 4096:
            raise Enough

    config = replace(short_run("sac"), cluster=cluster.address, actors=ACTORS, log_every=1, steps=1_000_000)
    monkeypatch.setattr(Trainer, "_collector", remember)
    monkeypatch.setattr(module, "_LOOK_S", 0.2)
    monkeypatch.setattr(module, "_SUSPECT_S", 4.0)
    trainer = Trainer(config, tmp_path / "run", resume=False)
    with pytest.raises(Enough):
        trainer.fit(report)
    assert happened == len(accidents)
    (collector,) = made
    assert collector.replaced >= 2, "the worker, and the actor of the node"
    assert collector.moved >= 2, "back to the node of the worker, and to the new one"
    fragment = config.num_envs // ACTORS * config.horizon
    steps = [entry[STEPS] for entry in read_progress(tmp_path / "run")]
    assert steps == list(range(fragment, trainer.steps + 1, fragment)), "each counted once"
    assert sum(collector.fragments()) == len(steps) + collector.dropped
    assert evaluate(trainer.agent, short_run("sac"), 10).episode_length > 150


def test_a_fragment_that_is_too_old_is_dropped_and_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("sac", cluster.address)
    trainer_agent = Shard(shares(config, 1)[0], 0, 0, 0)
    collector = ClusterCollector(config, trainer_agent.agent, trainer_agent.algorithm, 0)
    try:
        collector.collect()
        assert collector.logs()["cluster/staleness"] == 0.0
        collector._version += 100
        collector.collect()
        assert 1 <= collector.dropped <= ACTORS
    finally:
        collector.close()
        trainer_agent.close()


def test_a_node_with_other_software_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("ppo", cluster.address)
    shard = Shard(shares(config, 1)[0], 0, 0, 0)
    monkeypatch.setattr(module, "software", lambda: "ganglion 9.9")
    collector = ClusterCollector(config, shard.agent, shard.algorithm, 0)
    try:
        with pytest.raises(
            GanglionError, match=r"has ganglion 0\.1\.0 .*, this process ganglion 9\.9; install the same"
        ):
            collector.collect()
    finally:
        collector.close()
        shard.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", r"there is no Ray cluster at '127\.0\.0\.1:1' .*refused.*'ray start --head'"),
        ("nowhere.invalid:6379", "there is no Ray cluster at 'nowhere.invalid:6379'"),
        ("127.0.0.1:notaport", "there is no Ray cluster at"),
    ],
)
def test_a_wrong_address_is_one_error(address: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(GanglionError, match=reason):
        connect(address)


def test_another_version_of_ray_is_one_error(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray itself finds it, from a cluster that says to be of another one."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("ray._private.utils.compute_version_info", lambda: ("1.0.0", "commit", "3.6.0"))
    ray.shutdown()
    with pytest.raises(GanglionError, match=rf"cannot use the Ray cluster '{cluster.address}' \(Version mismatch"):
        connect(cluster.address)


def test_several_learners_on_a_cluster_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.learners.count", lambda: 2)
    with pytest.raises(GanglionError, match="several learners or a cluster, not both"):
        module.prepare(tiny("ppo", "local"))


def test_what_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(GanglionError, match="actors is 6, expected at most one for each of 5 num_envs"):
        shares(tiny("ppo", ""), 6)
    with pytest.raises(GanglionError, match="bc has to see every tick"):
        shares(replace(tiny("ppo", ""), algo="bc"), 2)
    assert [part.num_envs for part in shares(tiny("ppo", ""), 3)] == [2, 2, 1]


def ganglion(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    command = [sys.executable, "-m", "ganglion", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_line_trains_on_a_cluster_and_goes_on_without(cluster: Cluster, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    tiny = "--num-envs 2 --horizon 16 --overshoot 0 --model-only-steps 0 --agent.hidden 8 --device cpu --eval-every 0"
    options = (*tiny.split(), "--output", run, "--steps", "64")
    refused = ganglion("train", "cartpole", *options, "--cluster", "127.0.0.1:1")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: there is no Ray cluster at '127.0.0.1:1'")
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()
    done = ganglion("train", "cartpole", *options, "--cluster", cluster.address)
    assert done.returncode == 0, done.stderr
    assert "is trained" in done.stdout + done.stderr
    again = ganglion("train", "--resume", run, "--steps", "96", "--cluster", "")
    assert again.returncode == 0, again.stderr
    assert [entry[STEPS] for entry in read_progress(tmp_path / "run")] == [32, 64, 96]
