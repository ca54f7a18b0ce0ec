"""The model of a cluster's throughput, worked by hand, and that its costs are those of what runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("ray", reason="needs the extra 'scale'")

import ray
import torch

from benchmarks.scale_model import Costs, extrapolated, measure
from runtime.fleet import connect
from training.algorithms import algorithm_class
from training.checkpoint import build_agent
from training.presets import preset

COSTS = Costs(call=1e-3, step=1e-4, policy=1e-2, fragment=2e-3, transition=1e-6, learning=5e-5, size=200.0)


def test_phases_by_hand() -> None:
    """40 simulations of 100 ticks: on two actors and two cores 20 each, 100 (1 ms + 20 x 0.1 ms) = 0.3 s."""
    phases = COSTS.phases(2, 2, 40, 100)
    assert phases["simulating"] == pytest.approx(0.3)
    assert phases["exchanging"] == pytest.approx(0.01 + 2 * (0.002 + 2000e-6))
    assert phases["learning"] == pytest.approx(4000 * 5e-5)


def test_actors_of_a_core_take_turns_and_idle_cores_do_not_help() -> None:
    """Four actors with 10 each on two cores: twice 100 (1 ms + 1 ms)."""
    assert COSTS.phases(4, 2, 40, 100)["simulating"] == pytest.approx(0.4)
    assert COSTS.phases(1, 2, 40, 100) == COSTS.phases(1, 1, 40, 100)


def test_many_actors_are_bound_by_what_one_process_takes_in_and_learns() -> None:
    """Steps/s come to 1 / (fragment / nT + transition + learning) = 1 / (1e-6 + 1e-6 + 50e-6)."""
    phases = COSTS.phases(10**7, 10**7, 20 * 10**7, 100)
    assert 20 * 10**7 * 100 / sum(phases.values()) == pytest.approx(1 / 52e-6, rel=1e-3)
    assert COSTS.core_hours(20, 100) == pytest.approx((1e-3 / 20 + 1e-4 + 1e-6 + 1e-6 + 5e-5) * 1e6 / 3600)


def test_the_table_names_what_takes_longest() -> None:
    """One actor of 20: 0.3 s, 14 ms and 0.1 s. A hundred: 0.3 s, 0.41 s and 10 s."""
    assert extrapolated(COSTS, (1, 100), 20, 100).splitlines()[2:] == [
        "| 1 | 4,831 | 72% | 3% | 24% | simulating | 0.97 |",
        "| 100 | 18,674 | 3% | 4% | 93% | learning | 3.7 |",
    ]


def test_costs_are_measured() -> None:
    """A tick takes an actor time, a simulation and a transition too; a second cluster is not started."""
    connect("local")
    try:
        config = replace(preset("cartpole"), num_envs=16, horizon=32, model_only_steps=0, device="cpu")
        torch.manual_seed(0)
        agent = build_agent(config)
        costs = measure(config, agent, algorithm_class(config.algo)(config, agent))
    finally:
        ray.shutdown()
    assert min(costs.call, costs.step, costs.policy, costs.learning) > 0
    assert costs.size > 4 * (4 + 4 + 1 + 1), "two situations of four channels at the least, an action and a reward"
    assert costs.fragment + 512 * costs.transition > 0
