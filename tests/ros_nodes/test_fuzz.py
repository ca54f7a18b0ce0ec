"""Hostile messages and parameters: through the node's own conversion in this process, and over DDS to a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.time import Time

from ros_nodes import preflight
from ros_nodes.controller_node import ControllerNode
from ros_nodes.conversion import sensor_message, stamp_ns
from ros_nodes.domains import own_domain
from ros_nodes.session import Session
from runtime.bundle import Bundle
from runtime.files import shipped_bundle
from runtime.messages import deliver, topics
from runtime.safety import Status
from runtime.sample import Sample
from tests.fuzzing import NUMBERS, PERIOD_NS, TEXTS, Judge, every_kind
from tests.ros_nodes.harness import FakeRobot, start_controller
from tests.tiny_bundle import write_tiny_bundle

MESSAGES = 25

# (topic and place as shares of all, what is done, number, text)
attacks = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["number", "number", "numbers", "cut", "more", "twice", "rename", "empty", "stamp", "drop"]),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(NUMBERS) | st.floats(),
    st.sampled_from(TEXTS) | st.text(max_size=8),
)
Attack = tuple[float, str, float, float, str]


def numbers_of(message: Any) -> list[tuple[Any, str]]:
    """Owner and field of everything in a message that is a number, or an array of numbers."""
    parts = [getattr(message, f) for f in ("point", "orientation", "angular_velocity", "linear_acceleration") if
             hasattr(message, f)]  # fmt: skip
    parts += [getattr(message, f) for f in ("linear", "angular") if hasattr(message, f)]
    arrays = [(message, f) for f in ("position", "velocity", "effort", "data") if hasattr(message, f)]
    return arrays + [(p, axis) for p in parts for axis in "xyzw" if hasattr(p, axis)]


def spoil(message: Any, how: str, place: float, number: float, text: str) -> None:
    """Do it in place; what does not apply to this type of message is left out."""
    fields = numbers_of(message)
    owner, field = fields[int(place * len(fields))]
    values = getattr(owner, field)
    names = getattr(message, "name", [])
    if how == "number" and isinstance(values, float):
        setattr(owner, field, number)
    elif how == "number" and len(values):
        values[int(place * len(values))] = number
    elif how == "numbers" and not isinstance(values, float):
        setattr(owner, field, [number] * len(values))
    elif how == "cut" and not isinstance(values, float):
        setattr(owner, field, values[: int(place * len(values))])
    elif how == "more" and not isinstance(values, float):
        setattr(owner, field, [*values, number, number])
    elif how == "twice" and names:
        message.name = [*names, names[int(place * len(names))]]
        message.position = [*message.position, number]
    elif how == "rename" and names:
        message.name = [text if i == int(place * len(names)) else n for i, n in enumerate(names)]
    elif how == "empty" and names:
        message.name = []
    elif how == "stamp" and hasattr(message, "header"):
        message.header.stamp.sec = int(place * (2**32 - 1)) - 2**31
        message.header.stamp.nanosec = int((1 - place) * (2**32 - 1))
        message.header.frame_id = text.replace("\0", "")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    tiny = {
        "every_kind": write_tiny_bundle(folder / "every.onnx", "kuka_reach", gain=0.3, contract=every_kind()),
        "a1_stand": write_tiny_bundle(folder / "a1.onnx", "a1_stand", gain=0.3),
        "husky_goto": write_tiny_bundle(folder / "husky.onnx", "husky_goto", gain=0.3),
    }
    paths = tiny | {name: shipped_bundle(name) for name in ("kuka_reach", "cartpole")}
    return {name: Bundle.load(path) for name, path in paths.items()}


@pytest.mark.parametrize(
    ("name", "examples"),
    [("every_kind", 60), ("a1_stand", 190), ("husky_goto", 190), ("kuka_reach", 190), ("cartpole", 190)],
)
def test_whatever_message_comes_the_command_is_safe(name: str, examples: int, bundles: dict[str, Bundle]) -> None:
    """20,500 hostile messages, 25 in each example."""
    bundle = bundles[name]
    contract, judge = bundle.contract, Judge(bundle)
    layout, carried = contract.layout, list(topics(contract.observations).items())
    wave = layout.mean + 0.1 * layout.scale * np.sin(np.arange(8)[:, None] + np.arange(layout.size))
    acted = 0

    @settings(max_examples=examples)
    @given(hostile=st.lists(attacks, min_size=MESSAGES, max_size=MESSAGES))
    def run(hostile: list[Attack]) -> None:
        nonlocal acted
        judge.controller.reset()
        judge.restart()
        sample, now_ns = Sample(contract), 10**15
        for tick, (which, how, place, number, text) in enumerate(hostile):
            now_ns += PERIOD_NS
            for index, (_, (kind, observations)) in enumerate(carried):
                readings = [(o, wave[tick % 8][layout.slices[o.name]]) for o in observations]
                message = sensor_message(kind, readings, Time(nanoseconds=now_ns))
                if index == int(which * len(carried)):
                    if how == "drop":
                        continue
                    spoil(message, how, place, number, text)
                deliver(message, observations, sample, now_ns)
                stamp_ns(message)
            judge.check(judge.controller.tick(sample, now_ns), sample.values)
        acted += judge.acted

    run()
    assert acted > 5 * examples, "the agent acts in between"


def test_hostile_messages_over_dds_do_no_harm(session: Session, tmp_path: Path) -> None:
    """Some six hundred, on every topic of a robot with every kind of sensor."""
    contract = every_kind()
    robot = FakeRobot(session, contract)
    bundle = write_tiny_bundle(tmp_path / "b.onnx", "kuka_reach", 0.3, contract)
    child = start_controller(session, bundle, guard_ms=0.0)
    robot.wait_for(Status.ACTIVE)
    rng, sent = np.random.default_rng(0), 0
    kinds = ["number", "numbers", "cut", "more", "twice", "rename", "empty", "stamp"]

    def attack(message: object) -> None:
        nonlocal sent
        if rng.random() < 0.3:
            sent += 1
            text, number = str(rng.choice(TEXTS[:-1])), float(rng.choice(NUMBERS))
            spoil(message, str(rng.choice(kinds)), rng.random(), number, text)

    robot.edit = attack
    session.wait(lambda: sent > 600, "hostile messages", 30.0)
    robot.edit = lambda message: None
    robot.wait_for(Status.ACTIVE)
    session.spin(0.3)
    commands, limits = np.array(robot.commands), contract.action
    assert np.isfinite(commands).all()
    assert (commands >= np.array(limits.low) - 1e-9).all()
    assert (commands <= np.array(limits.high) + 1e-9).all()
    assert (np.abs(np.diff(commands, axis=0)) <= np.array(limits.max_rate) / contract.rate_hz + 1e-9).all()
    assert session.state("controller") == "active"
    assert "Traceback" not in child.log


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[ControllerNode]:
    """In this process; it asks for no real time, which would stay with the tests after it, and soon stops listening."""
    monkeypatch.setattr(preflight, "_CONFIGURE_S", 0.02)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    arguments = ["--ros-args", "-p", "realtime_priority:=0", "-p", "lock_memory:=false", "-p", "guard_ms:=0.0"]
    with own_domain() as domain:
        rclpy.init(args=arguments, domain_id=domain)
        made = ControllerNode()
        yield made
        made.close()
        made.destroy_node()
        rclpy.shutdown()


def parameter(name: str, value: Any) -> Parameter | None:
    """None for what no ROS parameter can hold."""
    try:
        made = Parameter(name, value=value)
        made.to_parameter_msg()
    except (TypeError, AssertionError, ValueError):
        return None
    return made


settable = ("bundle", "refine", "rate_hz", "autostart", "engage_s", "most_late_ticks", "use_sim_time", "cpus")
texts = st.sampled_from(TEXTS) | st.text(max_size=8)
anything = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.integers(-2, 10), st.sampled_from(NUMBERS), st.floats(), texts,
    st.lists(st.integers(-5, 5), max_size=3), st.lists(st.floats(), max_size=2), st.lists(texts, max_size=2),
    st.binary(max_size=3).map(lambda b: [b]),
)  # fmt: skip


def test_parameters_of_any_kind_are_taken_or_refused(node: ControllerNode, kuka: Path) -> None:
    """2,000 values by the callback that the parameter services use, and configuring with some of those taken."""
    good = Parameter("bundle", value=str(kuka))
    taken = configured = 0

    @settings(max_examples=500)
    @given(values=st.lists(st.tuples(st.sampled_from(settable), anything), min_size=4, max_size=4), tries=st.booleans())
    def run(values: list[tuple[str, Any]], tries: bool) -> None:
        nonlocal taken, configured
        for name, value in values:
            made = parameter(name, value)
            if made is not None:
                (result,) = node.set_parameters([made])
                taken += result.successful
                assert result.successful or result.reason
        node.set_parameters([good, Parameter("use_sim_time", value=False)])
        if tries and configured < 40:
            configured += 1
            node.trigger_configure()
            assert node._state_machine.current_state[1] in ("inactive", "unconfigured")
            if node._loop is not None:
                assert np.isfinite(node._loop.controller.limits.max_step).all()
                node.trigger_cleanup()

    run()
    assert 100 < taken < 1900
    assert configured == 40


@pytest.mark.parametrize(
    ("name", "value"), [("rate_hz", 1e300), ("rate_hz", 1e-300), ("engage_s", 1e308), ("guard_ms", 1e300)]
)
def test_a_setting_beyond_all_reason_is_refused(node: ControllerNode, kuka: Path, name: str, value: float) -> None:
    node.set_parameters([Parameter("bundle", value=str(kuka)), Parameter(name, value=value)])
    assert node.get_parameter(name).value != value, "it is refused at once"
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
