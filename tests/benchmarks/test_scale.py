"""The comparison of actors with processes: ratios round by round, and its table."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("ray", reason="needs the extra 'scale'")

from benchmarks import scale
from benchmarks.scale import Options, main
from benchmarks.scale_model import Costs


def test_ratios_are_to_the_processes_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter((1000.0, 500.0, 900.0, 2000.0, 1200.0, 1900.0))

    class Nothing:
        def __init__(self, *what: Any) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(scale, "connect", lambda address: None)
    monkeypatch.setattr(scale, "ClusterCollector", Nothing)
    monkeypatch.setattr(scale, "LocalCollector", Nothing)
    costs = Costs(call=1e-3, step=1e-4, policy=0.0, fragment=0.0, transition=0.0, learning=1.0, size=0.0)
    monkeypatch.setattr(scale, "measure", lambda config, agent, algorithm: costs)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(scale, "_speed", lambda collector, rollouts: next(speeds))
    rows = main(Options(actors=(1, 2), rounds=2))
    assert [row["actors"] for row in rows] == [0, 1, 2]
    assert rows[1]["model"] == pytest.approx(64 / (1e-3 + 64e-4)), "64 simulations a tick, without learning"
    assert rows[1]["ratios"] == [0.5, 0.6]
    assert scale.table(rows, 2).splitlines()[2:] == [
        "| 2 processes | 1,500 | – | – |",
        "| 1 actors | 850 | 55% (50% to 60%) | 8,649 |",
        "| 2 actors | 1,400 | 92% (90% to 95%) | 15,238 |",
    ]


def test_a_first_rollout_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rollouts of 12 steps in half a second."""
    times = iter((1.0, 1.5))
    monkeypatch.setattr("time.perf_counter", lambda: next(times))

    class Rollout:
        reward = torch.zeros(3, 4)

    class Collector:
        made = 0

        def collect(self) -> Any:
            self.made += 1
            return Rollout()

    collector = Collector()
    assert scale._speed(collector, 2) == 48.0
    assert collector.made == 3
