"""A model of on-policy training on a Ray cluster: where the time of a rollout goes, for any number of actors.

A rollout of T ticks is made by W actors with n simulations each on C cores, and then learned from:

    simulating = T (call + n step) max(1, W / C)      all actors at once, those of a core in turn
    exchanging = policy + W (fragment + n T transition)  by the process that learns, one fragment after the other
    learning   = W n T learning

`call` is what a tick costs an actor however few simulations it has: the agent's tensors go through torch. All costs are
measured on one core without a cluster, but for the exchange, which is that of one Ray actor that only sends. Nothing is
fitted to the speeds that the model is then compared with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from training.agent.agent import Agent
from training.algorithms.base import Algorithm
from training.config import TrainConfig
from training.rollout import side_by_side
from training.shard import Fragment, Policy, Shard

_FEWER = 8  # times fewer simulations, for the costs that do not grow with them
_TIMES = 5


@dataclass(frozen=True)
class Costs:
    """Seconds, and the size of what is sent."""

    call: float
    """A tick of an actor, beside its simulations."""
    step: float
    """A tick of a simulation."""
    policy: float
    """Sending out a policy."""
    fragment: float
    """Taking in a fragment."""
    transition: float
    """More for each of its transitions."""
    learning: float
    """Learning from a transition."""
    size: float
    """Bytes of a transition on its way to the process that learns."""

    def phases(self, actors: int, cores: int, num_envs: int, horizon: int) -> dict[str, float]:
        """Seconds of a rollout of `num_envs` simulations in all, by what they go into."""
        envs = num_envs / actors
        return {
            "simulating": horizon * (self.call + envs * self.step) * max(1.0, actors / cores),
            "exchanging": self.policy + actors * (self.fragment + envs * horizon * self.transition),
            "learning": num_envs * horizon * self.learning,
        }

    def core_hours(self, envs: int, horizon: int) -> float:
        """Of a million steps by actors with `envs` simulations each, all cores that work added up."""
        simulating = self.call / envs + self.step
        exchanging = self.fragment / (envs * horizon) + self.transition
        return (simulating + exchanging + self.learning) * 1e6 / 3600


def measure(config: TrainConfig, agent: Agent, algorithm: Algorithm[Any]) -> Costs:
    """On a core of this machine, and the Ray cluster that it is connected to; medians. The algorithm learns."""
    policy = Policy(0, agent.state_dict(), algorithm.explorer())
    sizes = (config.num_envs, max(1, config.num_envs // _FEWER))
    fragments, simulating = zip(*(_simulate(replace(config, num_envs=n, workers=1), policy) for n in sizes))
    call, step = _line(sizes, [seconds / config.horizon for seconds in simulating])
    transitions = [n * config.horizon for n in sizes]
    fragment, transition = _line(transitions, [_receive(f) for f in fragments])
    learning = _median(lambda: algorithm.update(fragments[0].rollout)) / transitions[0]
    size = len(ray.cloudpickle.dumps(fragments[0])) / transitions[0]
    return Costs(call, step, _median(lambda: ray.put(policy)), fragment, transition, learning, size)


def _simulate(config: TrainConfig, policy: Policy) -> tuple[Fragment, float]:
    """A fragment, and the seconds that the next ones took."""
    shard = Shard(config, 0, 0, 0)
    try:
        return shard.collect(policy), _median(lambda: shard.collect(policy))
    finally:
        shard.close()


class _Sender:
    """Sends the same fragment again and again."""

    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment

    def collect(self) -> Fragment:
        return self._fragment


def _receive(fragment: Fragment) -> float:
    """Seconds until it is here, and beside others."""
    sender = ray.remote(num_cpus=0)(_Sender).remote(fragment)
    side_by_side([ray.get(sender.collect.remote()).rollout])
    seconds = _median(lambda: side_by_side([ray.get(sender.collect.remote()).rollout]))
    ray.kill(sender)
    return seconds


def _median(act: Callable[[], object]) -> float:
    """Seconds that it takes."""
    times = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _line(sizes: Any, values: Any) -> tuple[float, float]:
    """Value at size 0 and slope of the line through two points; neither is below 0."""
    slope = max(0.0, (values[0] - values[1]) / (sizes[0] - sizes[1])) if sizes[0] != sizes[1] else 0.0
    return max(0.0, values[0] - slope * sizes[0]), slope


def extrapolated(costs: Costs, cores: tuple[int, ...], envs: int, horizon: int) -> str:
    """In Markdown: an actor on each core with `envs` simulations, learned from by one process."""
    lines = [
        "| cores | steps/s | simulating | exchanging | learning | most goes into | sent, MB/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for count in cores:
        phases = costs.phases(count, count, count * envs, horizon)
        whole = sum(phases.values())
        shares = " | ".join(f"{seconds / whole:.0%}" for seconds in phases.values())
        speed = count * envs * horizon / whole
        most, sent = max(phases, key=lambda name: phases[name]), speed * costs.size / 1e6
        lines.append(f"| {count:,} | {speed:,.0f} | {shares} | {most} | {sent:.2g} |")
    return "\n".join(lines) + "\n"
