"""Windows of the preflight made by hand, from robots that are healthy but for what a test spoils."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace as Message
from typing import Any

import numpy as np

from runtime.contract import Contract, Observation
from runtime.findings import Finding
from runtime.messages import topics
from runtime.preflight import CommandTopic, Endpoint, SensorTopic, Window
from tests.tiny_bundle import tiny_contract

KUKA, A1 = tiny_contract("kuka_reach"), tiny_contract("a1_stand")
JOINTS = KUKA.action.joints
COUNT, PERIOD_NS, EPOCH_NS = 100, 10_000_000, 1_700_000_000_000_000_000
ARRAY = replace(
    KUKA,
    observations=(
        *KUKA.observations,
        Observation("load", "array", "load", ("a", "b"), "N", (0.0,) * 2, (1.0,) * 2, (-9.0,) * 2, (9.0,) * 2, 0.05, 2),
    ),
)

Edit = Callable[[int, Any], None]


def readings(contract: Contract, seed: int = 0, moving: bool = True) -> np.ndarray:
    """(K, D): joints that swing by 0.1 rad with their speeds, the rest about its mean, all with a little noise."""
    rng = np.random.default_rng(seed)
    layout = contract.layout
    result = np.tile(layout.mean, (COUNT, 1)) + 1e-4 * rng.standard_normal((COUNT, layout.size))
    time_s = np.arange(COUNT)[:, None] * 0.01
    for o in contract.observations:
        phase = np.linspace(0, 1, len(o.channels)) + 3 * time_s
        if moving and o.kind == "joint_position":
            result[:, layout.slices[o.name]] += 0.1 * np.sin(phase)
        if moving and o.kind == "joint_velocity":
            result[:, layout.slices[o.name]] += 0.3 * np.cos(phase)
    return result


def header(ns: int) -> Message:
    return Message(stamp=Message(sec=ns // 10**9, nanosec=ns % 10**9))


def message(kind: str, carried: list[tuple[Observation, np.ndarray]], stamp_ns: int) -> Message:
    parts = {o.kind: dict(zip(o.channels, values.tolist())) for o, values in carried}
    if kind == "sensor_msgs/msg/JointState":
        names = list(dict.fromkeys(name for part in parts.values() for name in part))
        columns = {k: [parts.get(f"joint_{k}", {}).get(n, np.nan) for n in names] for k in ("position", "velocity")}
        effort = [parts.get("joint_effort", {}).get(n, np.nan) for n in names]
        return Message(header=header(stamp_ns), name=names, effort=effort, **columns)
    if kind == "sensor_msgs/msg/Imu":
        vectors = {
            k: Message(**parts.get(k, dict.fromkeys("xyz", 0.0))) for k in ("angular_velocity", "linear_acceleration")
        }
        upright = Message(x=0.0, y=0.0, z=0.0, w=1.0)
        return Message(header=header(stamp_ns), orientation=upright, orientation_covariance=[0.0] * 9, **vectors)
    if kind == "geometry_msgs/msg/PointStamped":
        return Message(header=header(stamp_ns), point=Message(**parts["point"]))
    if kind == "geometry_msgs/msg/Twist":
        part = parts["planar_twist"]
        return Message(linear=Message(x=part["vx"], y=part["vy"], z=0.0), angular=Message(x=0.0, y=0.0, z=part["wz"]))
    return Message(data=list(parts["array"].values()))


COMMAND_TYPE = "std_msgs/msg/Float64MultiArray"


def window(contract: Contract, values: np.ndarray | None = None, edit: Edit = lambda k, m: None) -> Window:
    """A second of messages at 100 Hz, 1 ms after they were stamped; `edit` takes the tick and each of its messages."""
    values = readings(contract) if values is None else values
    seen = {}
    for name, (kind, observations) in topics(contract.observations).items():
        messages = []
        for k, row in enumerate(values):
            carried = [(o, row[contract.layout.slices[o.name]]) for o in observations]
            messages.append(message(kind, carried, EPOCH_NS + k * PERIOD_NS))
            edit(k, messages[-1])
        received = tuple(k * PERIOD_NS for k in range(len(values)))
        clock = tuple(EPOCH_NS + 1_000_000 + ns for ns in received)
        driver = Endpoint("/driver", kind, "reliable", "volatile")
        seen[name] = SensorTopic(f"/{name}", (driver,), tuple(messages), received, clock)
    drive = Endpoint("/drive", COMMAND_TYPE, "best_effort", "volatile")
    sensor, command = (
        Endpoint("/c", "", "best_effort", "volatile"),
        Endpoint("/c", COMMAND_TYPE, "reliable", "volatile"),
    )
    return Window(1.0, seen, CommandTopic("/command", (drive,)), sensor, command, contract.action.joints)


def with_topic(seen: Window, topic: str, **changes: Any) -> Window:
    return replace(seen, topics=seen.topics | {topic: replace(seen.topics[topic], **changes)})


def thinned(seen: Window, topic: str, every: int) -> Window:
    """The topic at a fraction of its rate."""
    t = seen.topics[topic]
    parts = {f: getattr(t, f)[::every] for f in ("messages", "received_ns", "clock_ns")}
    return with_topic(seen, topic, **parts)


def with_command(seen: Window, **changes: Any) -> Window:
    return replace(seen, command=replace(seen.command, **changes))


def the(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, [f.text for f in findings]
    return findings[0]


def with_joint_states(contract: Contract, change: Callable[[Any], None]) -> Window:
    def edit(k: int, m: Any) -> None:
        if hasattr(m, "name"):
            change(m)

    return window(contract, edit=edit)


def with_imu(change: Callable[[Any], None]) -> Window:
    def edit(k: int, m: Any) -> None:
        if hasattr(m, "orientation"):
            change(m)

    return window(A1, edit=edit)


def with_values(contract: Contract, observation: str, change: Callable[[np.ndarray], np.ndarray | float]) -> Window:
    values = readings(contract)
    part = contract.layout.slices[observation]
    values[:, part] = change(values[:, part])
    return window(contract, values)
