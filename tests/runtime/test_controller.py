from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import ContractError
from runtime.safety import Status
from runtime.sample import NEVER, Sample
from runtime.sensing import Reason
from tests.tiny_bundle import tiny_contract, write_tiny_bundle

PERIOD = 10_000_000
HOME = np.array([0.0, 0.4, 0.0, -1.3, 0.0, 1.0, 0.0])


def full_sample(bundle: Bundle, now_ns: int = 0) -> Sample:
    sample = Sample(bundle.contract)
    sample.put_flat(bundle.contract.layout.mean, now_ns)
    return sample


def test_first_tick_by_hand(kuka: Bundle) -> None:
    controller = Controller(kuka, refine=3)
    sample = full_sample(kuka)
    sample.put("target", np.array([0.75, 0.0, 0.5]), 0)  # one channel one scale from its mean, of twenty
    command = controller.tick(sample, 0)
    expected = HOME + 0.015 * np.tanh(np.float32(0.3) / 20)
    assert command.status is Status.ACTIVE
    np.testing.assert_allclose(command.values, expected, atol=1e-8)
    assert command.free_energy == 4.0
    assert (command.refine, command.steps) == (3, 3)
    assert command.cause == ""
    np.testing.assert_allclose(command.innovation, np.eye(20)[17], atol=1e-6)


def test_carried_state_moves_the_second_tick(kuka: Bundle) -> None:
    controller = Controller(kuka)
    controller.tick(full_sample(kuka), 0)
    second = controller.tick(full_sample(kuka, PERIOD), PERIOD)
    np.testing.assert_allclose(second.values, HOME + 0.015 * np.tanh(0.1), atol=1e-8)


def test_waits_until_every_joint_was_seen(kuka: Bundle) -> None:
    controller = Controller(kuka)
    sample = full_sample(kuka)
    sample.values[2] = np.nan
    command = controller.tick(sample, 0)
    assert command.status is Status.WAITING
    assert command.cause == "waiting for joint_position.lbr_iiwa_joint_3"
    assert command.reasons[2] == Reason.NON_FINITE
    assert controller.tick(full_sample(kuka, PERIOD), PERIOD).status is Status.ACTIVE


def test_an_effort_robot_does_not_wait(tmp_path: Path) -> None:
    contract = tiny_contract("cartpole")
    blind = tuple(replace(o, min_valid=0) for o in contract.observations)
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "cartpole", 0.3, replace(contract, observations=blind)))
    command = Controller(bundle).tick(Sample(bundle.contract), 0)
    assert command.status is Status.ACTIVE
    assert (command.reasons == Reason.MISSING).all()
    np.testing.assert_array_equal(command.values, [0.0])


def test_goes_on_with_lost_encoders_and_holds_without_the_target(kuka: Bundle) -> None:
    controller = Controller(kuka)
    first = controller.tick(full_sample(kuka), 0)
    sample = full_sample(kuka, PERIOD)
    sample.values[[0, 1, 7, 8]] = np.nan
    assert controller.tick(sample, PERIOD).status is Status.ACTIVE
    sample.values[18] = np.nan
    assert controller.tick(sample, PERIOD).status is Status.ACTIVE, "one bad message is bridged"
    later = 27 * PERIOD  # the target may be 250 ms old, and was good at PERIOD
    sample.stamp_ns[:] = later
    held = controller.tick(sample, later)
    assert held.status is Status.HOLDING
    assert held.cause == "lost target (y non-finite; needs 3 of 3)"
    again = controller.tick(sample, later)
    np.testing.assert_array_equal(again.values, held.values)
    assert np.abs(held.values - first.values).max() <= 2 * 0.015 + 1e-12


def test_safe_action_zero_returns_to_zero_at_the_largest_rate(tmp_path: Path) -> None:
    contract = tiny_contract("cartpole")
    required = tuple(replace(o, min_valid=2) for o in contract.observations)
    action = replace(contract.action, max_rate=(100.0,))
    path = write_tiny_bundle(
        tmp_path / "b.onnx", "cartpole", 0.0, replace(contract, observations=required, action=action)
    )
    bundle = Bundle.load(path)
    controller = Controller(bundle)
    for tick in range(5):
        command = controller.tick(full_sample(bundle, tick * PERIOD), tick * PERIOD)
    # tanh(0), tanh(0.1) ... times 10 N, at most 1 N per tick
    np.testing.assert_allclose(command.values, [10 * np.tanh(0.4)], atol=1e-5)
    stale_now = 5 * PERIOD + 100_000_000
    values = [controller.tick(full_sample(bundle), stale_now).values[0] for _ in range(5)]
    start = float(command.values[0])
    np.testing.assert_allclose(values, [start - 1, start - 2, start - 3, 0, 0], atol=1e-9)


@pytest.mark.parametrize("task", ["kuka_reach", "cartpole"])
def test_a_network_that_answers_nan_is_held_within_limits(task: str, tmp_path: Path) -> None:
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "nan.onnx", task, gain=float("nan")))
    controller = Controller(bundle)
    for tick in range(3):
        command = controller.tick(full_sample(bundle, tick * PERIOD), tick * PERIOD)
        assert command.status is Status.HOLDING
        assert "not finite" in command.cause
        assert np.isfinite(command.values).all()
        assert command.free_energy == 0.0


@pytest.mark.parametrize("name", ["action", "free_energy", "innovation", "verdict", "state.z", "state.arrivals"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_whatever_is_not_finite_does_not_live_on(name: str, value: float, kuka: Bundle) -> None:
    controller = Controller(kuka)
    first = controller.tick(full_sample(kuka), 0)
    inference = controller.inference
    run, broken = inference.run, True

    def breaking() -> None:
        run()
        if broken:
            kind, _, state = name.partition(".")
            array = inference.state[state] if state else getattr(inference, kind)
            array[...] = value

    inference.run = breaking  # type: ignore[method-assign]
    held = controller.tick(full_sample(kuka, PERIOD), PERIOD)
    assert (held.status, held.cause) == (Status.HOLDING, "the agent's output was not finite; its belief was reset")
    np.testing.assert_array_equal(held.values, first.values)
    assert not held.reasons.any()
    assert not held.innovation.any()
    broken = False
    again = controller.tick(full_sample(kuka, PERIOD), PERIOD)
    assert again.status is Status.ACTIVE
    assert inference.state["z"] == np.float32(0.1), "one tick after the initial value"
    assert inference.state["arrivals"] == 20, "every reading is new to the new belief"


def test_fresh_is_what_arrived_since_the_belief_looked(kuka: Bundle) -> None:
    controller = Controller(kuka)
    inference, layout = controller.inference, controller.layout
    sample = full_sample(kuka)
    sample.stamp_ns[18] = NEVER
    sample.values[2] = np.nan
    assert controller.tick(sample, 0).status is Status.WAITING
    sample.values[2] = 0.0  # the stamps are as before, but the belief has seen none of these readings
    for now_ns, target_ns, expected in (
        (PERIOD, 0, [*range(18), 19]),
        (2 * PERIOD, 0, []),
        (3 * PERIOD, 3 * PERIOD, [17, 18, 19]),
        (4 * PERIOD, 2 * PERIOD, [17, 18, 19]),
    ):
        if target_ns:
            sample.stamp_ns[layout.slices["target"]] = target_ns
        controller.tick(sample, now_ns)
        assert inference.fresh.dtype == np.float32
        assert np.flatnonzero(inference.fresh == 1).tolist() == expected
        assert ((inference.fresh == 0) | (inference.fresh == 1)).all()
    assert inference.state["arrivals"] == 19 + 0 + 3 + 3
    controller.reset()
    controller.tick(sample, 4 * PERIOD)
    assert inference.fresh.all()


def test_what_the_graph_does_not_believe(tmp_path: Path) -> None:
    verdicts = {"joint_position.lbr_iiwa_joint_3": 2, "end_effector.x": 1, "end_effector.y": 1}
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "kuka_reach", verdicts=verdicts))
    sample = full_sample(bundle)
    sample.values[15] = np.nan
    command = Controller(bundle).tick(sample, 0)
    assert command.status is Status.ACTIVE
    assert {int(i): int(command.reasons[i]) for i in np.flatnonzero(command.reasons)} == {
        2: Reason.GATED,
        14: Reason.FROZEN,
        15: Reason.NON_FINITE,
    }


@pytest.mark.parametrize(("verdict", "word"), [(1.0, "frozen"), (2.0, "gated")])
def test_a_required_sensor_that_the_graph_does_not_believe_is_lost(verdict: float, word: str, kuka: Bundle) -> None:
    controller = Controller(kuka)
    inference = controller.inference
    run, judged = inference.run, np.zeros(20, np.float32)

    def judging() -> None:
        run()
        inference.verdict[0] = judged

    inference.run = judging  # type: ignore[method-assign]
    statuses = []
    for tick in range(40):
        judged[18] = verdict if 10 <= tick < 38 else 0.0
        command = controller.tick(full_sample(kuka, tick * PERIOD), tick * PERIOD)
        statuses.append(command.status)
        if command.status is Status.HOLDING:
            assert command.cause == f"lost target (y {word}; needs 3 of 3)"
    # Last believed at tick 9, and the target may be 250 ms old.
    assert statuses == [Status.ACTIVE] * 35 + [Status.HOLDING] * 3 + [Status.ACTIVE] * 2


def test_a_required_sensor_that_was_never_believed_is_lost_at_once(tmp_path: Path) -> None:
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "kuka_reach", verdicts={"target.x": 1}))
    command = Controller(bundle).tick(full_sample(bundle), 0)
    assert (command.status, command.cause) == (Status.HOLDING, "lost target (x frozen; needs 3 of 3)")


readings = st.floats(-1e300, 1e300) | st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -1e300])
numbers = st.floats(width=32) | st.floats(-2, 2, width=32)


@given(
    task=st.sampled_from(["kuka_reach", "cartpole"]),
    actions=st.lists(st.lists(numbers, min_size=7, max_size=7), min_size=1, max_size=6),
    pose=st.lists(st.floats(-1, 1), min_size=7, max_size=7),
)
def test_every_command_is_finite_and_within_its_limits(
    task: str, actions: list[list[float]], pose: list[float], kuka: Bundle, cartpole: Bundle
) -> None:
    bundle = kuka if task == "kuka_reach" else cartpole
    controller = Controller(bundle)
    joints, limits, inference = controller.layout.joints, controller.limits, controller.inference
    sample = full_sample(bundle)
    previous = np.zeros(joints)
    if task == "kuka_reach":
        previous = np.array(pose) * limits.high
        sample.put("joint_position", previous, 0)
    for action in actions:
        answer = np.array(action[:joints], dtype=np.float32)

        def infer(answer: np.ndarray = answer) -> None:
            inference.action[0] = answer

        inference.run = infer  # type: ignore[method-assign]
        command = controller.tick(sample, 0)
        assert command.status is (Status.ACTIVE if np.isfinite(answer).all() else Status.HOLDING)
        assert np.isfinite(command.values).all()
        assert (command.values >= limits.low).all()
        assert (command.values <= limits.high).all()
        assert (np.abs(command.values - previous) <= limits.max_step * (1 + 1e-9)).all()
        previous = command.values


@settings(max_examples=50)
@given(values=st.lists(readings, min_size=20, max_size=20), now_ns=st.integers(0, 2**62))
def test_no_sample_raises(values: list[float], now_ns: int, kuka: Bundle) -> None:
    controller = Controller(kuka)
    controller.tick(full_sample(kuka, now_ns), now_ns)
    sample = Sample(kuka.contract)
    sample.put_flat(np.array(values), now_ns)
    command = controller.tick(sample, now_ns)
    assert np.isfinite(command.values).all()
    assert command.status in (Status.ACTIVE, Status.HOLDING)


def noisy_run(controller: Controller, ticks: range) -> list[bytes]:
    """Commands, answers and arrivals of ticks whose readings depend on nothing but the tick's number."""
    layout, out = controller.layout, []
    for tick in ticks:
        rng = np.random.default_rng(tick)
        sample = Sample(controller.contract)
        sample.put_flat(layout.mean + 0.3 * layout.scale * rng.standard_normal(layout.size), tick * PERIOD)
        sample.values[rng.random(layout.size) < 0.05 * (tick > 0)] = np.nan
        sample.stamp_ns[rng.random(layout.size) < 0.5] -= PERIOD
        command = controller.tick(sample, tick * PERIOD)
        arrivals = controller.inference.state["arrivals"]
        answers = (command.values, command.reasons, np.float64(command.free_energy), command.innovation, arrivals)
        out.append(b"".join(a.tobytes() for a in answers))
    return out


@pytest.mark.parametrize("cut", [0, 1, 2, 7])
def test_restored_state_continues_bit_for_bit(cut: int, kuka: Bundle) -> None:
    one = Controller(kuka, refine=1)
    noisy_run(one, range(cut))
    saved = one.state()
    rest = noisy_run(one, range(cut, 20))
    other = Controller(kuka, refine=1)
    noisy_run(other, range(50, 53))
    other.restore(saved)
    assert noisy_run(other, range(cut, 20)) == rest
    assert len(set(rest)) == len(rest)


def test_reset_and_warm_up_leave_no_trace(kuka: Bundle) -> None:
    fresh = noisy_run(Controller(kuka), range(5))
    used = Controller(kuka)
    noisy_run(used, range(9))
    used.reset()
    assert noisy_run(used, range(5)) == fresh
    used.warm_up(7)
    assert noisy_run(used, range(5)) == fresh


def test_refine_out_of_range(kuka: Bundle) -> None:
    with pytest.raises(ContractError, match="refine is 9, expected 0 to 8"):
        Controller(kuka, refine=9)
    with pytest.raises(ContractError, match="refine is -1"):
        Controller(kuka).refine = -1


def test_position_commands_need_measured_positions(tmp_path: Path) -> None:
    contract = tiny_contract("kuka_reach")
    observations = tuple(o for o in contract.observations if o.kind != "joint_position")
    path = write_tiny_bundle(tmp_path / "b.onnx", "kuka_reach", 0.0, replace(contract, observations=observations))
    with pytest.raises(ContractError, match=r"need the measured position of \['lbr_iiwa_joint_1'"):
        Controller(Bundle.load(path))


def test_a_robot_outside_its_limits_comes_back_at_the_largest_rate(kuka: Bundle) -> None:
    controller = Controller(kuka)
    sample = full_sample(kuka)
    high, step = controller.limits.high, controller.limits.max_step
    sample.put("joint_position", high + 0.05, 0)
    commands = [controller.tick(sample, 0).values for _ in range(6)]
    np.testing.assert_allclose(commands[0], high + 0.05 - step)
    np.testing.assert_allclose(commands[2], high + 0.05 - 3 * step)
    assert (commands[5] <= high).all()


def test_following_another_controller(kuka: Bundle) -> None:
    controller = Controller(kuka)
    first = controller.tick(full_sample(kuka), 0).values
    controller.follow(first + 0.5 * controller.limits.max_step)
    np.testing.assert_allclose(controller.inference.previous_action[0], 0.5, rtol=1e-6)
    second = controller.tick(full_sample(kuka), 0).values
    moved = (second - first) / controller.limits.max_step
    assert (moved > 0.5).all(), "from where the other one was, not from our own last command"
    assert (moved <= 1.5 + 1e-9).all()
    controller.follow(second + 10 * controller.limits.max_step)
    assert (controller.inference.previous_action[0] == 1.0).all(), "no action that the model never saw"
