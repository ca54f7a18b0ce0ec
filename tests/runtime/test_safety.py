"""Engaging, stopping and going on: numbers by hand, and whatever is asked for in whatever order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bundle import Bundle
from runtime.controller import Command, Controller
from runtime.errors import ContractError
from runtime.safety import MOST_FAILURES, Request, Safety, Status
from runtime.sample import Sample
from sim.tasks import task_class

PERIOD = 10_000_000
WEIGHTS = (0.15625, 0.5, 0.84375)
"""3 s^2 - 2 s^3 at a quarter, a half and three quarters."""
A1 = task_class("a1_stand").action
EFFORT = task_class("cartpole").action
INCREMENTS = task_class("kuka_reach").action


def engaged(safety: Safety, command: np.ndarray, previous: np.ndarray, ticks: int) -> list[tuple[np.ndarray, Status]]:
    return [safety.engaged(command, previous) for _ in range(ticks)]


def test_engaging_leads_from_the_pose_to_the_command() -> None:
    safety, pose = Safety(A1, 100.0, engage_s=0.03), np.full(12, 0.2)
    safety.engage(pose)
    found = engaged(safety, pose + 0.4, np.full(12, 9.0), 5)
    assert [status for _, status in found] == [Status.ENGAGING] * 3 + [Status.ACTIVE] * 2
    for (command, _), weight in zip(found, (*WEIGHTS, 1.0, 1.0)):
        np.testing.assert_allclose(command, 0.2 + 0.4 * weight, rtol=1e-12)


def test_engaging_raises_an_effort_from_zero() -> None:
    safety = Safety(EFFORT, 100.0, engage_s=0.03)
    safety.engage(np.array([7.0]))
    found = engaged(safety, np.array([10.0]), np.array([7.0]), 4)
    np.testing.assert_allclose([c[0] for c, _ in found], [1.5625, 5.0, 8.4375, 10.0], rtol=1e-12)


def test_engaging_shortens_increments() -> None:
    safety, previous = Safety(INCREMENTS, 100.0, engage_s=0.03), np.linspace(-1, 1, 7)
    safety.engage(np.zeros(7))
    found = engaged(safety, previous + 0.01, previous, 4)
    for (command, _), weight in zip(found, (*WEIGHTS, 1.0)):
        np.testing.assert_allclose(command, previous + 0.01 * weight, rtol=1e-12)


def test_without_a_time_to_engage_nothing_changes() -> None:
    safety, command = Safety(A1, 100.0), np.linspace(-1, 1, 12)
    safety.engage(np.zeros(12))
    got, status = safety.engaged(command, np.zeros(12))
    assert status is Status.ACTIVE
    assert got is command


@pytest.mark.parametrize("engage_s", [-0.1, 1e308, float("inf"), float("nan")])
def test_a_time_that_makes_no_sense(engage_s: float) -> None:
    with pytest.raises(ContractError, match=r"engage_s is .*, expected 0 \(at once\) or more seconds, 3600 at most"):
        Safety(A1, 100.0, engage_s)


def ticks(controller: Controller, numbers: range) -> list[Command]:
    """Of readings that are all well and move a little."""
    sample, layout, found = Sample(controller.contract), controller.layout, []
    for tick in numbers:
        sample.put_flat(layout.mean + 0.1 * layout.scale * np.sin(tick), tick * PERIOD)
        found.append(controller.tick(sample, tick * PERIOD))
    return found


def test_a_stop_holds_at_once_and_until_somebody_engages(kuka: Bundle) -> None:
    controller = Controller(kuka, engage_s=0.03)
    *_, before = ticks(controller, range(10))
    assert before.status is Status.ACTIVE
    controller.request(Request.STOP, "somebody shouted")
    controller.request(Request.ENGAGE)  # in the same tick: a stop comes first
    stopped = ticks(controller, range(10, 40))
    assert {c.status for c in stopped} == {Status.STOPPED}
    assert {c.cause for c in stopped} == {"somebody shouted"}
    assert [c.request for c in stopped] == [Request.STOP] + [Request.NONE] * 29
    for command in stopped:
        np.testing.assert_array_equal(command.values, before.values)
    controller.request(Request.STOP, "somebody else")
    assert ticks(controller, range(40, 41))[0].cause == "somebody shouted"
    controller.request(Request.ENGAGE)
    again = ticks(controller, range(41, 46))
    assert [c.status for c in again] == [Status.ENGAGING] * 3 + [Status.ACTIVE] * 2
    assert again[0].request is Request.ENGAGE


def test_an_effort_is_stopped_at_its_largest_rate(cartpole: Bundle) -> None:
    controller = Controller(cartpole)
    ticks(controller, range(3))
    controller.follow(np.array([10.0]))
    controller.request(Request.STOP, "")
    step = controller.limits.max_step[0]  # 20 N
    assert step == 20.0
    assert [c.values[0] for c in ticks(controller, range(3, 5))] == [0.0, 0.0]
    controller.follow(np.array([50.0]))
    assert [c.values[0] for c in ticks(controller, range(5, 8))] == [30.0, 10.0, 0.0]


def test_whoever_was_stopped_before_the_pose_was_seen_does_not_start(kuka: Bundle) -> None:
    controller, sample = Controller(kuka), Sample(kuka.contract)
    controller.request(Request.STOP, "before the start")
    assert controller.tick(sample, 0).status is Status.WAITING
    stopped = ticks(controller, range(1, 3))
    assert [c.status for c in stopped] == [Status.STOPPED] * 2
    controller.request(Request.ENGAGE)
    assert ticks(controller, range(3, 4))[0].status is Status.ACTIVE


def test_an_agent_that_stays_broken_is_stopped_for_good(kuka: Bundle) -> None:
    controller = Controller(kuka)
    inference, broken = controller.inference, True
    run = inference.run

    def breaking() -> None:
        run()
        if broken:
            inference.action[...] = np.nan

    inference.run = breaking  # type: ignore[method-assign]
    found = ticks(controller, range(MOST_FAILURES - 1))
    broken = False
    assert [c.status for c in (*found, *ticks(controller, range(9, 10)))] == [Status.HOLDING] * 9 + [Status.ACTIVE]
    broken = True
    found = ticks(controller, range(10, 10 + MOST_FAILURES))
    assert [c.status for c in found] == [Status.HOLDING] * 9 + [Status.STOPPED]
    broken = False
    (last,) = ticks(controller, range(30, 31))
    assert last.status is Status.STOPPED
    assert last.cause == "the agent's output was not finite in 10 ticks in a row"
    controller.request(Request.ENGAGE)
    assert ticks(controller, range(31, 32))[0].status is Status.ACTIVE
    controller.request(Request.STOP, "")
    ticks(controller, range(32, 33))
    controller.reset()
    assert ticks(controller, range(34, 35))[0].status is Status.ACTIVE, "a new activation"


def test_a_finite_output_ends_the_streak_although_a_sensor_is_lost(kuka: Bundle) -> None:
    controller, sample, broken = Controller(kuka), Sample(kuka.contract), True
    inference = controller.inference
    run = inference.run

    def breaking() -> None:
        run()
        if broken:
            inference.action[...] = np.nan

    inference.run = breaking  # type: ignore[method-assign]
    ticks(controller, range(MOST_FAILURES - 1))
    broken = False
    sample.put_flat(kuka.contract.layout.mean, 10**9)
    sample.values[-1] = np.nan  # the target, which is required
    held = controller.tick(sample, 10**9)
    assert (held.status, held.cause) == (Status.HOLDING, "lost target (z non-finite; needs 3 of 3)")
    broken = True
    found = ticks(controller, range(101, 100 + MOST_FAILURES))
    assert [c.status for c in found] == [Status.HOLDING] * (MOST_FAILURES - 1), "not ten in a row"


requests = st.lists(st.sampled_from(Request), min_size=1, max_size=30)


@given(asked=requests, broken=st.lists(st.booleans(), min_size=30, max_size=30), cut=st.integers(0, 29))
def test_whatever_is_asked_for(asked: list[Request], broken: list[bool], cut: int, kuka: Bundle) -> None:
    """Commands stay finite, limited and slow; a stop lasts until somebody engages; a restored state goes on alike."""
    one, other = Controller(kuka, engage_s=0.05), Controller(kuka)
    previous, stopped, failures = None, False, 0
    for tick, what in enumerate(asked):
        commands = []
        if tick == cut:
            other.restore(one.state())
        for controller in (one, other) if tick >= cut else (one,):
            inference = controller.inference
            run = type(inference).run

            def breaking(run=run, inference=inference, bad=broken[tick]) -> None:  # type: ignore[no-untyped-def]
                run(inference)
                if bad:
                    inference.action[...] = np.inf

            inference.run = breaking  # type: ignore[method-assign]
            controller.request(what, "asked for")
            commands += ticks(controller, range(tick, tick + 1))
        command = commands[0]
        if previous is not None:
            assert (np.abs(command.values - previous) <= one.limits.max_step * (1 + 1e-9)).all()
        assert np.isfinite(command.values).all()
        if what is Request.ENGAGE:
            stopped, failures = False, 0
        failures = (failures + 1) * broken[tick]
        stopped = stopped or what is Request.STOP or failures >= MOST_FAILURES
        assert (command.status is Status.STOPPED) == stopped
        previous = command.values
        for copy in commands[1:]:
            assert copy.values.tobytes() == command.values.tobytes()
            assert (copy.status, copy.request) == (command.status, command.request)


def test_a_command_tells_what_was_asked_for_only_once(kuka: Bundle) -> None:
    controller = Controller(kuka)
    controller.request(Request.ENGAGE)
    first, second = ticks(controller, range(2))
    assert (first.request, second.request) == (Request.ENGAGE, Request.NONE)
    assert replace(first, request=Request.NONE).status is Status.ACTIVE
