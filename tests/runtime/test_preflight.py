"""Each thing that is wrong with topics, joints and commands gives its own finding; nothing crashes the check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract import Contract
from runtime.findings import errors
from runtime.preflight import Endpoint, Window, check
from runtime.tables import preflight_table
from sim.tasks import TASKS
from tests.runtime.windows import (
    A1,
    ARRAY,
    COMMAND_TYPE,
    EPOCH_NS,
    JOINTS,
    KUKA,
    PERIOD_NS,
    header,
    readings,
    the,
    thinned,
    window,
    with_command,
    with_imu,
    with_joint_states,
    with_topic,
)
from tests.tiny_bundle import tiny_contract


@pytest.mark.parametrize("contract", [KUKA, A1, ARRAY], ids=["kuka", "a1", "array"])
def test_a_healthy_robot_gives_no_finding(contract: Contract) -> None:
    assert check(window(contract), contract) == []


# Topics.


def test_a_topic_without_publisher_may_come_and_is_an_error_if_it_is_needed() -> None:
    silent = {"publishers": (), "messages": (), "received_ns": (), "clock_ns": ()}
    needed = the(check(with_topic(window(KUKA), "target", **silent), KUKA))
    assert (needed.level, needed.where, needed.got, needed.passing) == ("error", "/target", "nobody publishes", True)
    assert errors([needed]) == [needed]
    assert errors([needed], lenient=True) == []
    spare = the(check(with_topic(window(KUKA), "end_effector", **silent), KUKA))
    assert (spare.level, spare.passing) == ("warning", True)


def test_a_publisher_without_messages() -> None:
    silent = {"messages": (), "received_ns": (), "clock_ns": ()}
    found = the(check(with_topic(window(KUKA), "joint_states", **silent), KUKA))
    assert (found.level, found.got, found.passing) == ("error", "no message within 1 s", True)
    patient = replace(KUKA, observations=tuple(replace(o, max_age_s=2.0) for o in KUKA.observations))
    assert the(check(with_topic(window(patient), "target", **silent), patient)).level == "warning"


def test_another_message_type_contradicts() -> None:
    other = (Endpoint("/camera", "geometry_msgs/msg/Point", "reliable", "volatile"),)
    found = the(check(with_topic(window(KUKA), "target", publishers=other), KUKA))
    assert (found.level, found.passing) == ("error", False)
    assert found.got == "/camera publishes geometry_msgs/msg/Point"
    assert found.expected == "geometry_msgs/msg/PointStamped"


@pytest.mark.parametrize(
    ("policy", "weak", "strong"),
    [("reliability", "best_effort", "reliable"), ("durability", "volatile", "transient_local")],
)
def test_qualities_of_service_that_do_not_match(policy: str, weak: str, strong: str) -> None:
    seen = window(KUKA)
    publisher = replace(seen.topics["target"].publishers[0], **{policy: weak})
    asks = replace(
        with_topic(seen, "target", publishers=(publisher,)), requested=replace(seen.requested, **{policy: strong})
    )
    asked_of_all = {f.where: f for f in check(asks, KUKA) if f.level == "error"}
    assert asked_of_all["/target"].got == f"/driver offers {policy} {weak}"
    assert asked_of_all["/target"].expected.startswith(f"{policy} {strong}")

    drive = replace(seen.command.subscribers[0], **{policy: strong})
    offers = replace(with_command(seen, subscribers=(drive,)), offered=replace(seen.offered, **{policy: weak}))
    found = the(check(offers, KUKA))
    assert (found.where, found.got) == ("/command", f"the controller offers {policy} {weak}")


def test_rates() -> None:
    slow = the(check(thinned(window(KUKA), "joint_states", 10), KUKA))
    assert (slow.level, slow.got, slow.expected) == ("error", "a message every 0.1 s", "one at least every 0.05 s")
    assert slow.passing
    low = the(check(thinned(window(KUKA), "joint_states", 3), KUKA))
    assert (low.level, low.got) == ("warning", "33.3 Hz")
    assert check(thinned(window(KUKA), "target", 10), KUKA) == []  # it may be 0.25 s old
    seen = window(KUKA)
    parts = {
        f: getattr(seen.topics["target"], f)[:30] + getattr(seen.topics["target"], f)[70:]
        for f in ("messages", "received_ns", "clock_ns")
    }
    gap = the(check(with_topic(seen, "target", **parts), KUKA))
    assert (gap.level, gap.got) == ("warning", "a gap of 0.41 s")


# Stamps.


def restamped(change: Callable[[int], int]) -> Window:
    def edit(k: int, m: Any) -> None:
        if hasattr(m, "point") and m.point.x > 0.5 - 1e-2:  # end effector and target alike
            m.header = header(change(k))

    return window(KUKA, edit=edit)


@pytest.mark.parametrize(
    ("change", "level", "got"),
    [
        (lambda k: 0, "warning", "stamps are zero"),
        (lambda k: EPOCH_NS, "error", "every stamp is the same"),
        (lambda k: EPOCH_NS + (k - 2 * (k % 5 == 4)) * PERIOD_NS, "warning", "20 of 100 stamps go backwards"),
        (lambda k: EPOCH_NS + k * PERIOD_NS + 10**9, "warning", "stamps are 0.999 s ahead"),
        (lambda k: EPOCH_NS + k * PERIOD_NS - 10**9, "error", "stamps are 1 s old"),
    ],
)
def test_stamps(change: Callable[[int], int], level: str, got: str) -> None:
    found = [f for f in check(restamped(change), KUKA) if f.where == "/target: header" and f.got == got]
    assert the(found).level == level


def test_stamps_of_another_clock_are_not_compared() -> None:
    seen = restamped(lambda k: k * PERIOD_NS + 1)
    assert errors(check(seen, KUKA)) != []
    for name in seen.topics:
        seen = with_topic(seen, name, clock_ns=())
    assert check(seen, KUKA) == []
    still = restamped(lambda k: EPOCH_NS)
    for name in still.topics:
        still = with_topic(still, name, clock_ns=())
    assert check(still, KUKA) == [], "a simulated clock may stand still"


# Joints and contents.


def test_a_renamed_joint_is_named_with_what_it_may_be() -> None:
    def rename(m: Any) -> None:
        m.name = [n.replace("lbr_iiwa_joint_4", "iiwa_joint_4") for n in m.name]

    found = check(with_joint_states(KUKA, rename), KUKA)
    assert [f.where for f in found] == ["/joint_states: joint_position", "/joint_states: joint_velocity"]
    assert found[0].level == "error"
    assert found[0].got.startswith("no joint lbr_iiwa_joint_4; it names lbr_iiwa_joint_1")
    assert "Is it iiwa_joint_4 for lbr_iiwa_joint_4?" in found[0].remedy


def test_a_missing_joint_that_is_not_commanded_is_an_error_only_if_it_is_needed() -> None:
    def cut(m: Any) -> None:
        if "FR_lower" in m.name:
            m.name, m.effort = m.name[1:], m.effort[1:]
            m.position, m.velocity = m.position[1:], m.velocity[1:]

    found = the(check(with_joint_states(A1, cut), A1))
    assert (found.level, found.where) == ("warning", "/foot_forces: foot_force")
    needy = replace(
        A1,
        observations=tuple(
            replace(o, min_valid=len(o.channels)) if o.name == "foot_force" else o for o in A1.observations
        ),
    )
    assert the(check(with_joint_states(needy, cut), needy)).level == "error"


def test_arrays_of_unequal_length() -> None:
    def shorten(m: Any) -> None:
        m.velocity = m.velocity[:5]

    found = the(check(with_joint_states(KUKA, shorten), KUKA))
    assert (found.level, found.got) == ("error", "7 names, 5 in 'velocity'")

    def empty(m: Any) -> None:
        m.velocity = []

    found = the(check(with_joint_states(KUKA, empty), KUKA))
    assert (found.level, found.got) == ("warning", "7 names, 0 in 'velocity'")  # no speed is needed to act


def test_a_name_that_comes_twice() -> None:
    def repeat(m: Any) -> None:
        m.name = [*m.name, m.name[0]]
        m.position, m.velocity = [*m.position, m.position[0]], [*m.velocity, m.velocity[0]]

    assert the(check(with_joint_states(KUKA, repeat), KUKA)).got == f"names {JOINTS[0]} twice"


def test_an_array_of_another_size() -> None:
    def grow(k: int, m: Any) -> None:
        if hasattr(m, "data"):
            m.data = [*m.data, 0.0]

    found = the(check(window(ARRAY, edit=grow), ARRAY))
    assert (found.level, found.got, found.expected) == ("error", "3 numbers", "2: a, b")


def test_what_a_driver_says_not_to_measure() -> None:
    def disclaim(m: Any) -> None:
        m.orientation_covariance = [-1.0, *[0.0] * 8]

    found = the(check(with_imu(disclaim), A1))
    assert (found.level, found.where) == ("error", "/imu: gravity")
    assert found.got == "the driver says that it has no orientation"


# Commands.


def test_nobody_obeys() -> None:
    found = the(check(with_command(window(KUKA), subscribers=()), KUKA))
    assert (found.level, found.got, found.passing) == ("error", "nobody subscribes", True)


def test_commands_of_another_type() -> None:
    other = Endpoint("/jtc", "trajectory_msgs/msg/JointTrajectory", "reliable", "volatile")
    found = the(check(with_command(window(KUKA), subscribers=(other,)), KUKA))
    assert (found.level, found.passing) == ("error", False)
    assert found.got == "/jtc takes trajectory_msgs/msg/JointTrajectory"


def test_a_trajectory_controller_looks_joints_up_by_name() -> None:
    kind = "trajectory_msgs/msg/JointTrajectory"
    seen = window(KUKA)
    seen = replace(seen, offered=replace(seen.offered, message_type=kind))
    drive = Endpoint("/jtc", kind, "reliable", "volatile")
    assert check(with_command(seen, subscribers=(drive,), joints={"/jtc": JOINTS[::-1]}), KUKA) == []
    fewer = the(check(with_command(seen, subscribers=(drive,), joints={"/jtc": JOINTS[1:]}), KUKA))
    assert fewer.where == "/jtc"


def test_other_controllers() -> None:
    other = (Endpoint("/teleop", COMMAND_TYPE, "reliable", "volatile"),)
    ready = the(check(with_command(window(KUKA), publishers=other), KUKA))
    assert (ready.level, ready.got) == ("warning", "/teleop is ready to command the robot too")
    fights = the(check(with_command(window(KUKA), publishers=other, messages=5), KUKA))
    assert (fights.level, fights.got, fights.passing) == ("error", "/teleop commands the robot too", True)


def test_joint_order_and_interface_of_the_forward_controller() -> None:
    seen = window(KUKA)
    assert check(with_command(seen, joints={"/fwd": JOINTS}, interfaces={"/fwd": "position"}), KUKA) == []
    turned = the(check(with_command(seen, joints={"/fwd": (JOINTS[1], JOINTS[0], *JOINTS[2:])}), KUKA))
    assert (turned.level, turned.where) == ("error", "/fwd")
    assert turned.got.endswith(", in another order")
    swapped = (JOINTS[1], JOINTS[0], *JOINTS[2:])
    assert check(replace(with_command(seen, joints={"/fwd": swapped}), order=swapped), KUKA) == [], "command_joints"
    fewer = the(check(with_command(seen, joints={"/fwd": JOINTS[:6]}), KUKA))
    assert not fewer.got.endswith("in another order")
    assert the(check(with_command(seen, interfaces={"/fwd": "effort"}), KUKA)).got == "it commands the effort interface"


# All together.


def test_errors_come_first_and_the_table_has_a_row_for_each() -> None:
    other = (Endpoint("/teleop", COMMAND_TYPE, "reliable", "volatile"),)
    found = check(with_command(thinned(window(KUKA), "joint_states", 10), publishers=other), KUKA)
    assert [f.level for f in found] == ["error", "warning"]
    columns, rows = preflight_table({"findings": [vars(f) for f in found]})
    assert [row[0] for row in rows] == ["error", "warning"]
    assert all(len(row) == len(columns) for row in rows)


@given(task=st.sampled_from(sorted(TASKS)), seed=st.integers(0, 10**6), moving=st.booleans())
def test_no_healthy_robot_is_refused(task: str, seed: int, moving: bool) -> None:
    contract = tiny_contract(task)
    assert errors(check(window(contract, readings(contract, seed, moving)), contract)) == []


_ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)


@given(st.data())
def test_no_robot_crashes_the_check(data: st.DataObject) -> None:
    contract = data.draw(st.sampled_from([KUKA, A1, ARRAY]))
    count = data.draw(st.integers(0, 12))
    values = np.array(data.draw(st.lists(_ANY, min_size=8, max_size=8)))
    whole = np.resize(values, (count, contract.layout.size))
    cut = data.draw(st.integers(0, 9))
    stamps = data.draw(st.lists(st.integers(0, 2**31 * 10**9), min_size=12, max_size=12))
    words = st.sampled_from(["", "/x", COMMAND_TYPE, "best_effort", "reliable", "volatile", "transient_local"])
    ends = st.lists(st.builds(Endpoint, words, words, words, words), max_size=2).map(tuple)

    def spoil(k: int, m: Any) -> None:
        if hasattr(m, "header"):
            m.header = header(stamps[k])
        if hasattr(m, "name"):
            m.name, m.velocity = m.name[cut:] + m.name[:1], m.velocity[: k + cut]
        if hasattr(m, "orientation"):
            m.orientation = Message(x=values[0], y=values[1], z=values[2], w=values[3])

    seen = window(contract, whole, spoil)
    for name in seen.topics:
        seen = with_topic(seen, name, publishers=data.draw(ends))
    seen = with_command(seen, subscribers=data.draw(ends), publishers=data.draw(ends), messages=cut)
    for finding in check(seen, contract):
        assert finding.level in ("error", "warning")
        assert finding.text
