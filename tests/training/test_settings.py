"""Settings out of their range are refused where they are made, by name; every number of an algorithm has a range."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any, get_type_hints

import pytest

from runtime.errors import GanglionError
from training.algorithms import ALGORITHMS
from training.algorithms.ppo import PPOOptions
from training.config import TrainConfig
from training.presets import preset
from training.ranges import Count, Finite, Natural, NonNegative, OpenShare, Positive, Range, Share, UpToOne, ranges

CARTPOLE = preset("cartpole")


def test_ranges_hold_at_their_ends() -> None:
    cases: list[tuple[Any, list[float], list[float]]] = [
        (Count, [1, 10**9], [0, -1]),
        (Natural, [0, 1], [-1]),
        (Positive, [1e-12, 1e12], [0.0, -1e-12]),
        (NonNegative, [0.0, 2.0], [-1e-12]),
        (Share, [0.0, 1.0], [-1e-12, 1 + 1e-12]),
        (OpenShare, [1e-12, 1 - 1e-12], [0.0, 1.0]),
        (UpToOne, [1e-12, 1.0], [0.0, 1 + 1e-12]),
        (Finite, [-1e30, 0.0], []),
    ]
    for kind, inside, outside in cases:
        (known,) = (m for m in kind.__metadata__ if isinstance(m, Range))
        assert all(known.holds(v) for v in inside), kind
        assert not any(known.holds(v) for v in outside), kind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 1.0}, "gamma is 1.0, expected a number above 0 and below 1"),
        ({"gamma": math.nan}, "gamma is nan, expected a number above 0 and below 1"),
        ({"steps": 0}, "steps is 0, expected a whole number of at least 1"),
        ({"num_envs": 0}, "num_envs is 0, expected a whole number of at least 1"),
        ({"horizon": -16}, "horizon is -16"),
        ({"workers": 65}, "workers is 65, expected at most one for each of 64 num_envs"),
        ({"model_learning_rate": -1e-3}, "model_learning_rate is -0.001, expected a number above 0"),
        ({"model_learning_rate": math.inf}, "model_learning_rate is inf, expected a number above 0"),
        ({"noise_decay": -0.1}, "noise_decay is -0.1, expected a number of at least 0"),
        ({"eval_episodes": 0}, "eval_episodes is 0, expected a whole number of at least 1"),
        ({"refine": ()}, r"refine \(\) must lie between"),
    ],
)
def test_settings_of_a_run(change: dict[str, Any], message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        replace(CARTPOLE, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a number above 0"),
        ({"gae_lambda": 1.01}, "gae_lambda is 1.01, expected a number from 0 to 1"),
        ({"epochs": 0}, "epochs is 0, expected a whole number of at least 1"),
    ],
)
def test_settings_of_an_algorithm(change: dict[str, Any], message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        PPOOptions(**change)


def test_settings_of_the_network_and_of_failing_sensors() -> None:
    with pytest.raises(GanglionError, match=r"hidden is 0, expected a whole number of at least 1"):
        replace(CARTPOLE.agent, hidden=0)
    with pytest.raises(GanglionError, match=r"dropout_share is 1.5, expected a number from 0 to 1"):
        replace(CARTPOLE.augmentation, dropout_share=1.5)
    with pytest.raises(GanglionError, match=r"burst_ticks is \(9, 3\), expected the shortest and the longest"):
        replace(CARTPOLE.augmentation, burst_ticks=(9, 3))


@pytest.mark.parametrize("kind", [TrainConfig, *(a.options_class for a in ALGORITHMS.values())])
def test_every_number_has_a_range(kind: type) -> None:
    hints = get_type_hints(kind)
    numbers = {f.name for f in fields(kind) if hints[f.name] in (int, float)}
    assert numbers <= set(ranges(kind))
