"""Rollouts on a Ray cluster: actors simulate and act, the process that called learns.

Each actor is a shard (see `training.shard`) that answers a policy, tagged with its version, by a fragment. On-policy
algorithms wait for one fragment of every actor, all of the present version: the same rollout, whatever the machines.
Off-policy ones learn from each fragment as it comes, while the other actors go on.

An actor that dies, with its node or alone, is replaced by one that draws anew; what it was making is lost and not
counted. A node that joins takes an actor over from one that has several.
"""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from importlib.metadata import version
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorUnschedulableError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from runtime.errors import GanglionError
from runtime.fleet import connect, own_fault, put
from runtime.source import source_commit
from training import learners
from training.agent.agent import Agent
from training.algorithms.base import Algorithm
from training.config import TrainConfig
from training.rollout import Rollout, side_by_side
from training.shard import Fragment, Policy, Shard, shares

_CPUS = 0.01  # that an actor asks for: a cluster that has lost a node takes its actors in; with 0 Ray puts it anywhere
_LOOK_S = 2.0  # how often nodes are looked at
_SUSPECT_S = 30.0  # for how long a node where an actor died gets no other: Ray may still believe that it lives
_PATIENCE = 4  # times the number of actors: of more updates that a fragment has missed it is too old to learn from
_MOST_DEATHS = 5  # of actors, between two fragments, before it is no accident


def prepare(config: TrainConfig) -> list[TrainConfig]:
    """Connect to the run's cluster; the settings of each of its actors. Raises GanglionError if it cannot run there."""
    if learners.count() > 1:
        raise GanglionError("a run has several learners or a cluster, not both; leave out torchrun or --cluster")
    parts = shares(config, config.actors)
    connect(config.cluster)
    return parts


def software() -> str:
    """What must be the same on all machines, as text."""
    return f"ganglion {version('ganglion')} ({source_commit()}), Python {platform.python_version()}"


class _Remote:
    """A shard in a process of its own."""

    def __init__(self, config: TrainConfig, index: int, life: int, steps: int) -> None:
        import torch

        torch.set_num_threads(1)
        self._shard = Shard(config, index, life, steps)

    def software(self) -> str:
        return software()

    def collect(self, policy: Policy) -> Fragment:
        return self._shard.collect(policy)


class _Actor:
    """The shard of one index, through all its lives."""

    def __init__(self, config: TrainConfig, index: int, steps: int) -> None:
        self.config, self.index, self.steps = config, index, steps
        self.life, self.node = -1, ""
        self.fragments = 0
        """Accepted, in all lives."""
        self.speed = 0.0
        """Steps per second of the last fragment."""

    def begin(self, node: str) -> None:
        """A new life, on the node with this id."""
        self.life, self.node = self.life + 1, node
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        kind = ray.remote(num_cpus=_CPUS, max_restarts=0, scheduling_strategy=where)(_Remote)
        self.handle = kind.remote(self.config, self.index, self.life, self.steps)
        self.software = self.handle.software.remote()
        self.young = True
        """Whether it has answered nothing in this life."""

    def end(self) -> None:
        ray.kill(self.handle)


class ClusterCollector:
    """Collects rollouts on a cluster, for as long as the process that made it lives."""

    def __init__(self, config: TrainConfig, agent: Agent, algorithm: Algorithm[Any], steps: int) -> None:
        """`steps` were made before. Raises GanglionError if the cluster cannot be used, or actors is too large."""
        parts = prepare(config)
        self._agent, self._algorithm = agent, algorithm
        self._actors = [_Actor(part, i, steps) for i, part in enumerate(parts)]
        self._version, self._looked = 0, 0.0
        self._suspects: dict[str, float] = {}
        self._pending: dict[Any, _Actor] = {}
        self._staleness: list[int] = []
        self.dropped = 0
        """Fragments that came too late to learn from."""
        self.replaced = 0
        """Actors that died."""
        self.moved = 0
        """Actors that went to a node that had none."""
        self._deaths = 0
        for actor in self._actors:
            actor.begin(self._emptiest())

    def collect(self) -> Rollout:
        """What to learn from next: a fragment of each actor, or of one where the algorithm is off-policy.

        Raises GanglionError if an actor fails by its own fault, or actors die again and again.
        """
        self._staleness.clear()
        rollout = self._next() if self._algorithm.off_policy else self._all()
        self._version += 1
        return rollout

    def _all(self) -> Rollout:
        policy = self._policy()
        for actor in self._actors:
            self._ask(actor, policy)
        fragments: dict[int, Rollout] = {}
        while self._pending:
            fragment = self._receive(policy)
            fragments[fragment.shard] = fragment.rollout
        return side_by_side([fragments[actor.index] for actor in self._actors])

    def _next(self) -> Rollout:
        policy = self._policy()
        busy = list(self._pending.values())
        for actor in self._actors:
            if actor not in busy:
                self._ask(actor, policy)
        while True:
            fragment = self._receive(policy)
            self._ask(self._actors[fragment.shard], policy)
            age = self._version - fragment.version
            if age <= _PATIENCE * len(self._actors):
                self._staleness.append(age)
                return fragment.rollout
            self.dropped += 1

    def _policy(self) -> Any:
        state = {name: value.detach().cpu().clone() for name, value in self._agent.state_dict().items()}
        return put(Policy(self._version, state, self._algorithm.explorer()))

    def _ask(self, actor: _Actor, policy: Any) -> None:
        self._pending[actor.handle.collect.remote(policy)] = actor

    def _receive(self, policy: Any) -> Fragment:
        """The next fragment of any actor; who dies meanwhile is replaced and asked again."""
        while True:
            done, _ = ray.wait(list(self._pending), num_returns=1, timeout=_LOOK_S)
            for answer in done:
                actor = self._pending.pop(answer)
                try:
                    if actor.young:
                        self._require_same(ray.get(actor.software), actor)
                    fragment: Fragment = ray.get(answer)
                except (RayActorError, ActorUnschedulableError) as error:
                    self._replace(actor, str(error))
                    self._ask(actor, policy)
                    continue
                except RayTaskError as error:
                    raise own_fault(f"actor {actor.index}", error) from error
                self._deaths, actor.young = 0, False
                actor.fragments += 1
                actor.speed = fragment.rollout.reward.numel() / fragment.seconds
                self._spread(actor)
                return fragment

    def _require_same(self, theirs: str, actor: _Actor) -> None:
        mine = software()
        if theirs != mine:
            raise GanglionError(
                f"node {self._host(actor.node)} has {theirs}, this process {mine}; install the same on all machines"
            )

    def _replace(self, actor: _Actor, reason: str) -> None:
        if "creation task" in reason:  # its own fault, which another one would repeat
            raise GanglionError(f"actor {actor.index} cannot begin: {reason.strip().splitlines()[-1]}")
        self.replaced += 1
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            raise GanglionError(
                f"actors died {self._deaths} times in a row, the last on node {self._host(actor.node)}; memory is the "
                "usual cause: take fewer actors or --num-envs"
            )
        self._suspects[actor.node], actor.node = time.monotonic(), ""
        actor.begin(self._emptiest())

    def _spread(self, actor: _Actor) -> None:
        """Move an actor that has just answered to a node that has none, if its own has others."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        load = self._load()
        empty = [node for node, count in load.items() if count == 0]
        if empty and load.get(actor.node, 0) > 1:
            self.moved += 1
            actor.end()
            actor.begin(empty[0])

    def _load(self) -> dict[str, int]:
        """Actors on each node that lives and computes, without suspects unless there are no others."""
        here = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0]
        if not here:
            raise GanglionError("no node of the Ray cluster has a CPU; start one with 'ray start --num-cpus N'")
        since = time.monotonic() - _SUSPECT_S
        here = [node for node in here if self._suspects.get(node, -math.inf) < since] or here
        count = Counter(actor.node for actor in self._actors)
        return {node: count[node] for node in here}

    def _emptiest(self) -> str:
        """The node with the fewest actors for its CPUs."""
        cpus = {n["NodeID"]: n["Resources"].get("CPU", 0) for n in ray.nodes()}
        return min(self._load().items(), key=lambda item: (item[1] / cpus[item[0]], item[0]))[0]

    @staticmethod
    def _host(node: str) -> str:
        return next((n["NodeManagerHostname"] for n in ray.nodes() if n["NodeID"] == node), node)

    def logs(self) -> dict[str, float]:
        """Of the last rollout and in all, by TensorBoard's tag."""
        speeds = {f"cluster/actor_{a.index}_fps": a.speed for a in self._actors}
        nodes = len({a.node for a in self._actors})
        totals = {"dropped": self.dropped, "replaced": self.replaced, "moved": self.moved, "nodes": nodes}
        staleness = {"cluster/staleness": float(np.mean(self._staleness))} if self._staleness else {}
        return speeds | staleness | {f"cluster/{name}": float(value) for name, value in totals.items()}

    def fragments(self) -> list[int]:
        """How many each actor has delivered that were learned from or dropped."""
        return [actor.fragments for actor in self._actors]

    def close(self) -> None:
        """End the actors; the cluster goes on."""
        for actor in self._actors:
            actor.end()
