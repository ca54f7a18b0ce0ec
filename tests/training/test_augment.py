"""Sensor failures of training: shares and rates as declared, what is spared, and how long it lasts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.contract import Observation
from sim.tasks import task_class
from training.augment import NO_FAILURES, Augmentation, SensorDropout, failure_units

Masks = NDArray[np.float32]
ALL = (
    Observation("position", "joint_position", "joint_states", ("a", "b", "c"), "rad", (0.0,) * 3, (1.0,) * 3,
                (-1.0,) * 3, (1.0,) * 3, 0.1, 1),
    Observation("velocity", "joint_velocity", "joint_states", ("a", "b", "c"), "rad/s", (0.0,) * 3, (1.0,) * 3,
                (-1.0,) * 3, (1.0,) * 3, 0.1, 0),
    Observation("target", "position", "target", ("x", "y"), "m", (0.0,) * 2, (1.0,) * 2, (-1.0,) * 2, (1.0,) * 2,
                0.1, 2),
)  # fmt: skip
FREE = ALL[1:2]  # three channels that may all vanish


def masks(
    observations: tuple[Observation, ...], augmentation: Augmentation, envs: int, ticks: int, seed: int = 0
) -> Masks:
    """(T, N, D)."""
    dropout = SensorDropout(observations, envs, np.random.default_rng(seed), augmentation)
    return np.stack([dropout.step() for _ in range(ticks)])


def within(successes: float, trials: float, chance: float) -> None:
    """Four standard deviations of the binomial."""
    assert abs(successes / trials - chance) < 4 * math.sqrt(chance * (1 - chance) / trials)


def test_failure_units() -> None:
    units = sorted(u.tolist() for u in failure_units(ALL))
    assert units == [[0], [0, 3], [1], [1, 4], [2], [2, 5], [3], [3, 4, 5], [4], [5]]


def test_failure_units_of_the_arm() -> None:
    units = [u.tolist() for u in failure_units(task_class("kuka_reach").observations)]
    assert [2, 9] in units, "an encoder is the position and the velocity of one joint"
    assert [14, 15, 16] in units, "the tracked end effector may vanish as a whole"
    assert not any(i >= 17 for u in units for i in u), "the required target never fails"


def test_no_failures() -> None:
    assert masks(ALL, NO_FAILURES, 50, 50).all()


def test_share_and_rate_of_dropout() -> None:
    """Rates are uniform up to the largest: mean 0.25, a quarter of them below 0.125."""
    envs, ticks = 3000, 400
    seen = masks(FREE, replace(NO_FAILURES, dropout_share=0.4, dropout_rate=0.5), envs, ticks)
    missing = 1 - seen.mean((0, 2))
    failing = missing > 0.004  # a share of 0.004 / 0.5 of the rates is too small to show
    within(failing.sum(), envs, 0.4 * (1 - 0.008))
    count = int(failing.sum())
    assert missing[failing].mean() == pytest.approx(0.25, abs=4 * 0.5 / math.sqrt(12 * count) + 0.004)
    within((missing[failing] < 0.125).sum(), count, 0.25)
    assert missing.max() < 0.5 + 4 * math.sqrt(0.25 / (3 * ticks))
    channels = seen[:, failing].mean((0, 1))
    assert np.ptp(channels) < 0.01, "no channel is worse off than another"


def runs(missing: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of one series that neither begin nor end with it."""
    edges = np.flatnonzero(np.diff(missing.astype(int)))
    if len(edges) and missing[0]:
        edges = edges[1:]
    return [int(b - a) for a, b in zip(edges[::2], edges[1::2])]


def test_share_chance_and_length_of_bursts() -> None:
    envs, ticks, chance = 2500, 300, 1 / 300
    one = (replace(FREE[0], channels=("a",), mean=(0.0,), scale=(1.0,), low=(-1.0,), high=(1.0,)),)
    augmentation = replace(NO_FAILURES, burst_share=0.5, burst_chance=chance, burst_ticks=(3, 6))
    missing = masks(one, augmentation, envs, ticks)[..., 0] == 0
    struck = missing.any(0)
    within(struck.sum(), envs, 0.5 * (1 - (1 - chance) ** ticks))
    lengths = np.array([n for series in missing.T for n in runs(series)])
    assert lengths.min() == 3
    alone = lengths[lengths <= 6]
    assert len(alone) > 0.97 * len(lengths), "longer ones are bursts that overlap"
    for length in (3, 4, 5, 6):
        assert (lengths == length).mean() == pytest.approx(0.25, abs=0.03 + 4 * math.sqrt(0.1875 / len(lengths)))


def test_share_of_lost_sensors_which_stay_lost_to_the_end_of_the_episode() -> None:
    """One or two of five units; the other draws do not touch them."""
    envs = 3000
    augmentation = replace(NO_FAILURES, permanent_share=0.3, permanent_units=2)
    seen = masks(FREE, augmentation, envs, 20)
    assert (seen == seen[0]).all()
    within((seen[0].min(-1) == 0).sum(), envs, 0.3)


@pytest.mark.parametrize("least", [0, 1, 2])
def test_lost_sensors_do_not_return_when_others_drop_out(least: int) -> None:
    """Where too few channels are left, those that merely dropped out come back, never the lost ones."""
    observations = (replace(ALL[0], min_valid=least),)
    augmentation = Augmentation(1.0, 0.95, 1.0, 0.05, (2, 20), 1.0, 2)
    alone = replace(augmentation, dropout_share=0.0, burst_share=0.0)
    lost = masks(observations, alone, 300, 1)[0] == 0  # the same draws
    seen = masks(observations, augmentation, 300, 200)
    assert lost.any(1).mean() > (0.5 if least < 2 else 0.3)
    assert not (seen * lost).any()
    assert (seen.sum(-1) >= least).all()
    assert seen.max(0)[~lost].all(), "and every other one is seen at some time"


def test_as_few_as_needed_come_back() -> None:
    """One channel of three must stay: at a rate near one, one is what is seen."""
    seen = masks(ALL[:1], replace(NO_FAILURES, dropout_share=1.0, dropout_rate=1.0), 400, 200)
    hardest = seen.sum(-1).mean(0).min()
    assert 1.0 <= hardest < 1.1


@given(
    st.integers(0, 3), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(1, 4),
    st.integers(0, 1000),
)  # fmt: skip
def test_what_is_required_is_spared_and_the_least_number_kept(
    least: int, dropout: float, rate: float, burst: float, permanent: float, units: int, seed: int
) -> None:
    observations = (replace(ALL[0], min_valid=least), *ALL[1:])
    augmentation = Augmentation(dropout, rate, burst, 0.2, (2, 9), permanent, units)
    seen = masks(observations, augmentation, 8, 12, seed)
    assert set(np.unique(seen)) <= {0.0, 1.0}
    assert seen.dtype == np.float32
    assert (seen[..., :3].sum(-1) >= least).all()
    assert seen[..., 6:].all()


def test_only_the_environments_that_restart_draw_anew() -> None:
    augmentation = replace(NO_FAILURES, permanent_share=0.5)
    dropout = SensorDropout(FREE, 1000, np.random.default_rng(0), augmentation)
    before = dropout.step()
    which = np.arange(1000) % 2 == 0
    dropout.restart(which)
    after = dropout.step()
    assert (before[~which] == after[~which]).all()
    assert (before[which] != after[which]).any(1).mean() > 0.3


def test_a_burst_ends_with_its_episode() -> None:
    augmentation = replace(NO_FAILURES, burst_share=1.0, burst_chance=0.02, burst_ticks=(100, 200))
    dropout = SensorDropout(FREE, 1000, np.random.default_rng(0), augmentation)
    for _ in range(60):
        seen = dropout.step()
    assert (seen.min(-1) == 0).mean() > 0.6
    dropout.restart(np.ones(1000, dtype=bool))
    within((dropout.step().min(-1) == 0).sum(), 1000, 0.02)


def test_the_same_seed_gives_the_same_failures() -> None:
    one, same, other = (masks(ALL, Augmentation(), 64, 100, seed) for seed in (3, 3, 4))
    assert (one == same).all()
    assert (one != other).any()
