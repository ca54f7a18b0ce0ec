from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bundle import Bundle
from runtime.controller import Command, Controller
from runtime.errors import BagError
from runtime.safety import Request, Status
from runtime.sample import NEVER, Sample
from runtime.telemetry import labels, pack, pack_state, unpack, unpack_state
from tests.tiny_bundle import tiny_contract

CONTRACT = tiny_contract("kuka_reach")
SIZE, JOINTS = 20, 7
EPOCH = 1_700_000_000_123_456_789
ages = st.none() | st.integers(-(10**9), 2**52)


@given(
    now_ns=st.integers(0, 2**62) | st.just(EPOCH),
    values=st.lists(st.floats(), min_size=SIZE, max_size=SIZE),
    age=st.lists(ages, min_size=SIZE, max_size=SIZE),
    command=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=JOINTS, max_size=JOINTS),
    free_energy=st.floats(width=32),
    innovation=st.lists(st.floats(width=32), min_size=SIZE, max_size=SIZE),
    reasons=st.lists(st.integers(0, 63), min_size=SIZE, max_size=SIZE),
    status=st.sampled_from(Status),
    request=st.sampled_from(Request),
    tolerance=st.floats(0, 1e9, width=32),
    late=st.booleans(),
    tick=st.integers(0, 2**40),
)
def test_round_trip_is_exact(
    now_ns: int,
    values: list[float],
    age: list[int | None],
    command: list[float],
    free_energy: float,
    innovation: list[float],
    reasons: list[int],
    status: Status,
    request: Request,
    tolerance: float,
    late: bool,
    tick: int,
) -> None:
    sample = Sample(CONTRACT)
    sample.values[:] = values
    stamps = [NEVER if a is None or now_ns - a == NEVER else now_ns - a for a in age]
    sample.stamp_ns[:] = stamps
    sent = Command(
        status,
        np.array(command),
        np.array(reasons, np.uint8),
        free_energy,
        np.array(innovation, np.float32),
        3,
        2,
        tolerance,
        "",
        request,
    )
    vector = pack(CONTRACT, sample, now_ns, sent, activation=2, tick=tick, late=late, tick_us=12.5, latency_us=np.nan)
    assert vector.dtype == np.float64
    assert len(vector) == len(labels(CONTRACT))
    got = unpack(CONTRACT, vector)
    assert (got.now_ns, got.activation, got.tick, got.late, got.status) == (now_ns, 2, tick, late, status)
    assert (got.refine, got.steps, got.tolerance, got.tick_us, got.request) == (3, 2, tolerance, 12.5, request)
    assert np.isnan(got.latency_us)
    np.testing.assert_array_equal(got.free_energy, free_energy)
    assert got.values.tobytes() == sample.values.tobytes()
    assert got.stamp_ns.tolist() == sample.stamp_ns.tolist()
    assert got.reasons.tolist() == reasons
    np.testing.assert_array_equal(got.innovation, sent.innovation)
    assert got.command.tobytes() == sent.values.tobytes()


def test_labels_name_what_is_there() -> None:
    sample = Sample(CONTRACT)
    sample.put("target", np.array([1.0, 2.0, 3.0]), EPOCH - 5)
    command = Command(
        Status.ACTIVE, np.arange(7.0), np.zeros(20, np.uint8), -1.5, np.zeros(20, np.float32), 2, 1, 0.5, ""
    )
    vector = pack(CONTRACT, sample, EPOCH, command, activation=1, tick=9, late=True, tick_us=1.0, latency_us=2.0)
    named = dict(zip(labels(CONTRACT), vector))
    assert named["value.target.y"] == 2.0
    assert named["age_ns.target.z"] == 5.0
    assert named["command.lbr_iiwa_joint_4"] == 3.0
    assert (named["now_s"], named["now_ns"]) == (1_700_000_000, 123_456_789)
    assert (named["activation"], named["tick"], named["late"], named["free_energy"]) == (1, 9, 1, -1.5)
    assert len(named) == len(vector)


def test_state_round_trip(kuka: Bundle) -> None:
    controller = Controller(kuka)
    sample = Sample(kuka.contract)
    sample.put_flat(kuka.contract.layout.mean, EPOCH)
    sample.stamp_ns += np.arange(SIZE)  # neighbours that float64 would not tell apart
    for _ in range(3):
        controller.tick(sample, EPOCH)
    state = controller.state()
    activation, tick, got = unpack_state(Controller(kuka).state(), pack_state(state, 4, 200))
    assert (activation, tick) == (4, 200)
    assert got.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(got[name], value)
        assert got[name].shape == value.shape
    other = Controller(kuka)
    other.restore(got)
    sample.stamp_ns[4] += 1
    other.tick(sample, EPOCH)
    assert np.flatnonzero(other.inference.fresh).tolist() == [4], "every other reading was seen before"


def test_vectors_of_another_bundle_are_refused(kuka: Bundle) -> None:
    with pytest.raises(BagError, match=r"has 3 numbers, the bundle's contract makes 100; replay the bag with"):
        unpack(CONTRACT, np.zeros(3))
    with pytest.raises(BagError, match="a state record has 4 numbers"):
        unpack_state(Controller(kuka).state(), np.zeros(4))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("request", 3.0, "request is 3, expected a whole number from 0 to 2"),
        ("request", 0.5, "request is 0.5, expected a whole number"),
        ("status", -1.0, "status is -1, expected a whole number from 0 to 4"),
        ("status", 5.0, "status is 5, expected a whole number from 0 to 4"),
        ("now_s", np.inf, "now_s is inf, expected a whole number"),
        ("tick", np.nan, "tick is nan, expected a whole number"),
        ("activation", 1e300, r"activation is 1e\+300, expected a whole number"),
        ("age_ns.target.y", np.nan, "age_ns and reason of target.y are nan and 0, expected whole numbers"),
        ("age_ns.target.y", 1e300, r"age_ns and reason of target.y are 1e\+300 and 0"),
        ("tolerance", np.nan, "tolerance is nan"),
        ("reason.target.z", 256.0, "age_ns and reason of target.z are 5 and 256"),
    ],
)
def test_a_damaged_record_is_one_clear_error(field: str, value: float, complaint: str) -> None:
    sample = Sample(CONTRACT)
    sample.put_flat(CONTRACT.layout.mean, EPOCH - 5)
    command = Command(
        Status.ACTIVE, np.arange(7.0), np.zeros(20, np.uint8), -1.5, np.zeros(20, np.float32), 2, 1, 0.5, ""
    )
    vector = pack(CONTRACT, sample, EPOCH, command, activation=1, tick=9, late=True, tick_us=1.0, latency_us=2.0)
    unpack(CONTRACT, vector)
    vector[labels(CONTRACT).index(field)] = value
    with pytest.raises(BagError, match=complaint):
        unpack(CONTRACT, vector)


def test_a_state_that_is_not_finite_is_one_clear_error(kuka: Bundle) -> None:
    state = Controller(kuka).state()
    vector = pack_state(state, 1, 100)
    vector[-1] = np.nan
    with pytest.raises(BagError, match="its state is not finite, expected numbers; copy or record the bag again"):
        unpack_state(state, vector)
