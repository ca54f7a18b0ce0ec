from __future__ import annotations

import numpy as np
import pytest

from runtime.sample import NEVER, Sample
from runtime.sensing import Reason, Watch, mask_reasons, normalise, verdict_reasons
from tests.tiny_bundle import tiny_contract

CONTRACT = tiny_contract("kuka_reach")
LAYOUT = CONTRACT.layout
NOW = 1_700_000_000_000_000_000
MS = 1_000_000
TARGET_X = 17  # range -2 to 2 m, age up to 250 ms


@pytest.mark.parametrize(
    ("value", "age_ns", "expected"),
    [
        (0.5, 0, 0),
        (-2.0, 250 * MS, 0),
        (2.0, 0, 0),
        (0.5, 250 * MS + 1, Reason.STALE),
        (0.5, -250 * MS, 0),
        (0.5, -250 * MS - 1, Reason.STALE),
        (2.0000001, 0, Reason.OUT_OF_RANGE),
        (-2.0000001, 300 * MS, Reason.OUT_OF_RANGE | Reason.STALE),
        (np.nan, 0, Reason.NON_FINITE),
        (np.inf, 0, Reason.NON_FINITE),
        (-np.inf, 300 * MS, Reason.NON_FINITE | Reason.STALE),
        (0.5, None, Reason.MISSING),
        (np.nan, None, Reason.MISSING),
        (5.0, None, Reason.MISSING),
    ],
)
def test_reasons(value: float, age_ns: int | None, expected: int) -> None:
    values, stamps = LAYOUT.mean.copy(), np.full(LAYOUT.size, NOW, dtype=np.int64)
    values[TARGET_X] = value
    stamps[TARGET_X] = NEVER if age_ns is None else NOW - age_ns
    reasons = mask_reasons(values, stamps, NOW, LAYOUT)
    assert reasons[TARGET_X] == expected
    assert not np.delete(reasons, TARGET_X).any()


def test_each_observation_has_its_own_age() -> None:
    stamps = np.full(LAYOUT.size, NOW - 100 * MS, dtype=np.int64)
    reasons = mask_reasons(LAYOUT.mean, stamps, NOW, LAYOUT)
    assert reasons.tolist() == [Reason.STALE] * 17 + [0] * 3


def test_verdicts_are_reasons() -> None:
    reasons = verdict_reasons(np.array([0, 1, 2, np.nan, 3, 1], np.float32))
    assert reasons.dtype == np.uint8
    assert reasons.tolist() == [0, Reason.FROZEN, Reason.GATED, 0, 0, Reason.FROZEN]


def test_normalise_zeroes_what_is_not_believed() -> None:
    values = LAYOUT.mean + 2 * LAYOUT.scale
    values[3] = np.nan
    believed = np.ones(LAYOUT.size, dtype=bool)
    believed[[3, 5]] = False
    expected = np.full(LAYOUT.size, 2.0)
    expected[[3, 5]] = 0.0
    np.testing.assert_allclose(normalise(values, believed, LAYOUT), expected)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ([], []),
        ([0, 1, 2, 3], []),
        ([0, 1, 2, 3, 4], [0]),
        (list(range(7, 17)), []),
        ([18], [3]),
        ([0, 1, 2, 3, 6, 19], [0, 3]),
    ],
)
def test_what_was_never_enough_is_lost(lost: list[int], expected: list[int]) -> None:
    believed = np.ones(LAYOUT.size, dtype=bool)
    believed[lost] = False
    assert Watch(LAYOUT).lost(believed, np.full(LAYOUT.size, NOW), NOW) == expected


def test_a_gap_is_bridged_up_to_the_maximum_age() -> None:
    watch = Watch(LAYOUT)
    everything, target_gone = np.ones(LAYOUT.size, dtype=bool), np.arange(LAYOUT.size) != TARGET_X
    stamps = np.full(LAYOUT.size, NOW)
    assert watch.lost(everything, stamps, NOW) == []
    for ms, expected in ((10, []), (250, []), (251, [3]), (1000, [3])):
        now = NOW + ms * MS  # messages go on, with NaN in them
        assert watch.lost(target_gone, np.full(LAYOUT.size, now), now) == expected
    assert watch.lost(everything, np.full(LAYOUT.size, NOW + 1010 * MS), NOW + 1010 * MS) == []
    assert watch.lost(target_gone, np.full(LAYOUT.size, NOW + 1020 * MS), NOW + 1020 * MS) == []
    watch.reset()
    assert watch.lost(target_gone, np.full(LAYOUT.size, NOW + 1030 * MS), NOW + 1030 * MS) == [3]


def test_a_silent_topic_is_lost_when_its_last_message_is_too_old() -> None:
    watch = Watch(LAYOUT)
    everything = np.ones(LAYOUT.size, dtype=bool)
    stamps = np.full(LAYOUT.size, NOW)
    watch.lost(everything, stamps, NOW + 200 * MS)
    stale = np.arange(LAYOUT.size) < TARGET_X
    assert watch.lost(stale, stamps, NOW + 250 * MS + 1) == [3], "no second waiting time"


def test_reasons_in_words() -> None:
    assert Reason(Reason.STALE | Reason.NON_FINITE).text == "stale, non-finite"
    assert Reason(Reason.FROZEN).text == "frozen"
    assert Reason(Reason.GATED | Reason.OUT_OF_RANGE).text == "out-of-range, gated"


def test_sample_by_name() -> None:
    sample = Sample(CONTRACT)
    sample.put_channel("joint_velocity", "lbr_iiwa_joint_3", 0.25, 7)
    sample.put_channel("joint_velocity", "someone_elses_joint", 9.0, 7)
    sample.put("target", np.array([1.0, 2.0, 3.0]), 8)
    assert sample.values[9] == 0.25
    assert sample.stamp_ns[9] == 7
    assert sample.values[17:].tolist() == [1.0, 2.0, 3.0]
    assert np.flatnonzero(sample.stamp_ns != NEVER).tolist() == [9, 17, 18, 19]
    with pytest.raises(ValueError, match="'target': got 2 values, expected 3"):
        sample.put("target", np.zeros(2), 9)
    sample.clear()
    assert (sample.stamp_ns == NEVER).all()
    assert np.isnan(sample.values).all()
