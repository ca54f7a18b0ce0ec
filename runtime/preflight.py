"""Whether a live robot is the contract's: what was seen of it in a window of time, compared, without ROS.

Messages are read by attribute as in `runtime.messages`, so rclpy's, those of a bag and those of a test are alike.
"""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.commands import ARRAY
from runtime.contract import Contract, Observation
from runtime.findings import Finding, listed
from runtime.messages import deliver, topics
from runtime.plausibility import Series, check_values
from runtime.sample import NEVER, Sample

_JOINT_STATE = "sensor_msgs/msg/JointState"
_AHEAD_S = 0.05
_FAST_TICKS = 10
_WEAK = {"best_effort": "reliable", "volatile": "transient_local"}
"""What is offered, and the request that it does not satisfy."""


@dataclass(frozen=True)
class Endpoint:
    """A publisher or a subscription of a topic."""

    node: str
    """Full name of its node."""
    message_type: str
    reliability: str
    """`reliable` or `best_effort`; anything else matches everything."""
    durability: str
    """`transient_local` or `volatile`; likewise."""


@dataclass(frozen=True)
class SensorTopic:
    """What was seen of one of the contract's observation topics."""

    name: str
    """Full name."""
    publishers: tuple[Endpoint, ...] = ()
    messages: tuple[Any, ...] = ()
    """M messages in the order of their reception."""
    received_ns: tuple[int, ...] = ()
    """M times of reception on the steady clock."""
    clock_ns: tuple[int, ...] = ()
    """The same on the clock of header stamps; empty if it cannot be compared with them."""


@dataclass(frozen=True)
class CommandTopic:
    """What was seen of the command topic; own publishers are left out."""

    name: str
    subscribers: tuple[Endpoint, ...] = ()
    publishers: tuple[Endpoint, ...] = ()
    messages: int = 0
    """Commands that were seen."""
    joints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Per node that subscribes: its parameter `joints`, if it has one."""
    interfaces: dict[str, str] = field(default_factory=dict)
    """Likewise `interface_name`."""


@dataclass(frozen=True)
class Window:
    """Everything that was seen."""

    seconds: float
    topics: dict[str, SensorTopic]
    """By the topic's name in the contract."""
    command: CommandTopic
    requested: Endpoint
    """The controller's subscriptions."""
    offered: Endpoint
    """The controller's publisher of commands."""
    order: tuple[str, ...]
    """The joints as in the commands."""


def check(window: Window, contract: Contract) -> list[Finding]:
    """Everything that does not fit, errors first."""
    found: list[Finding] = []
    with np.errstate(all="ignore"):  # whatever the robot says
        series: dict[str, Series] = {}
        for name, (message_type, observations) in topics(contract.observations).items():
            topic = window.topics[name]
            found += _check_endpoints(topic, message_type, observations, window.requested)
            if not topic.messages:
                found += _check_silence(topic, observations, window.seconds)
                continue
            found += _check_rate(topic, observations, contract.rate_hz, window.seconds)
            found += _check_stamps(topic, observations)
            if message_type == _JOINT_STATE:
                found += _check_joints(topic, observations, contract)
            else:
                found += _check_content(topic, observations)
            series |= _series(topic, observations, contract)
        found += check_values(contract, series)
        found += _check_command(window, contract)
    return sorted(found, key=lambda f: f.level)


def _need(observations: tuple[Observation, ...]) -> str:
    """Level of the loss of all of them."""
    return "error" if any(o.min_valid > 0 for o in observations) else "warning"


def _check_endpoints(
    topic: SensorTopic, message_type: str, observations: tuple[Observation, ...], requested: Endpoint
) -> list[Finding]:
    if not topic.publishers:
        return [
            Finding(
                _need(observations), topic.name, "nobody publishes", f"a publisher of {message_type}",
                "Start the driver, or remap the topic.", passing=True,
            )
        ]  # fmt: skip
    found = []
    for p in topic.publishers:
        if p.message_type != message_type:
            found.append(
                Finding(
                    "error", topic.name, f"{p.node} publishes {p.message_type}", message_type,
                    "Remap the topic, or convert the messages.",
                )
            )  # fmt: skip
        elif mismatch := _mismatch(p, requested):
            found.append(_qos_finding(topic.name, f"{p.node} offers {mismatch[0]}", mismatch[1]))
    return found


def _mismatch(offered: Endpoint, requested: Endpoint) -> tuple[str, str] | None:
    """What is offered and what is requested, of the first policy that keeps the two apart."""
    for policy in ("reliability", "durability"):
        has, wants = getattr(offered, policy), getattr(requested, policy)
        if _WEAK.get(has) == wants:
            return f"{policy} {has}", f"{policy} {wants}"
    return None


def _qos_finding(where: str, got: str, wanted: str) -> Finding:
    return Finding(
        "error", where, got, f"{wanted}, which the other side requests",
        "Change the quality of service of one of the two; no message passes as it is.",
    )  # fmt: skip


def _check_silence(topic: SensorTopic, observations: tuple[Observation, ...], seconds: float) -> list[Finding]:
    if not topic.publishers:
        return []
    age_s = min(o.max_age_s for o in observations)
    level = _need(observations) if age_s < seconds else "warning"
    return [
        Finding(
            level, topic.name, f"no message within {seconds:g} s", f"one at least every {age_s:g} s",
            "See whether the driver runs, and whether messages cross the network (ros2 topic hz).", passing=True,
        )
    ]  # fmt: skip


def _check_rate(
    topic: SensorTopic, observations: tuple[Observation, ...], rate_hz: float, seconds: float
) -> list[Finding]:
    age_s = min(o.max_age_s for o in observations)
    gaps = np.diff(np.array(topic.received_ns, dtype=np.int64)) * 1e-9
    period_s = float(np.median(gaps)) if len(gaps) else seconds / 2
    expected, remedy = f"one at least every {age_s:g} s", "Raise the driver's rate."
    if period_s > age_s:
        return [Finding("error", topic.name, f"a message every {period_s:.3g} s", expected, remedy, passing=True)]
    if len(gaps) and float(gaps.max()) > age_s:
        remedy = "Look for load or a bad network; readings go stale in such gaps."
        return [Finding("warning", topic.name, f"a gap of {float(gaps.max()):.3g} s", expected, remedy)]
    if age_s < _FAST_TICKS / rate_hz and period_s > 2 / rate_hz:
        expected = f"about {rate_hz:g} Hz, at which the agent acts"
        return [Finding("warning", topic.name, f"{1 / period_s:.3g} Hz", expected, remedy)]
    return []


def _stamp_ns(message: Any) -> int | None:
    header = getattr(message, "header", None)
    return None if header is None else header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def _check_stamps(topic: SensorTopic, observations: tuple[Observation, ...]) -> list[Finding]:
    known = [s for s in map(_stamp_ns, topic.messages) if s is not None]
    if not known:
        return []
    stamps = np.array(known, dtype=np.int64)
    where, expected = f"{topic.name}: header", "the time of the measurement"
    if not stamps.any():
        remedy = "Let the driver stamp its messages; without, the latency is not known."
        return [Finding("warning", where, "stamps are zero", expected, remedy)]
    found = []
    if len(stamps) > 2 and (stamps == stamps[0]).all() and topic.clock_ns:  # a simulated clock may stand still
        remedy = "The driver repeats one measurement, or forgets to stamp: look at its source of data."
        found.append(Finding("error", where, "every stamp is the same", expected, remedy))
    backwards = int((np.diff(stamps) < 0).sum())
    if backwards:
        got = f"{backwards} of {len(stamps)} stamps go backwards"
        remedy = "Look for two publishers, messages out of order, or a clock that is set."
        found.append(Finding("warning", where, got, "rising stamps", remedy))
    if len(topic.clock_ns) == len(stamps):
        age_s = float(np.median((np.array(topic.clock_ns, dtype=np.int64) - stamps) * 1e-9))
        longest_s = min(o.max_age_s for o in observations)
        remedy = "Set the clocks of both machines by PTP or chrony"
        if age_s < -_AHEAD_S:
            found.append(Finding("warning", where, f"stamps are {-age_s:.3g} s ahead", expected, f"{remedy}."))
        elif age_s > longest_s:
            remedy += "; if they are right, the readings come too late: look for a queue or a slow driver."
            found.append(
                Finding("error", where, f"stamps are {age_s:.3g} s old", f"at most {longest_s:g} s old", remedy, True)
            )
    return found


def _check_joints(topic: SensorTopic, observations: tuple[Observation, ...], contract: Contract) -> list[Finding]:
    found = []
    seen = dict.fromkeys(name for m in topic.messages for name in m.name)
    for attribute in dict.fromkeys(o.kind.removeprefix("joint_") for o in observations):
        sizes = {(len(m.name), len(getattr(m, attribute))) for m in topic.messages}
        uneven = sorted(s for s in sizes if s[0] != s[1])
        if not uneven:
            continue
        names, values = uneven[0]
        carried = tuple(o for o in observations if o.kind == f"joint_{attribute}")
        level = "error" if values else _need(carried)
        got = f"{names} names, {values} in '{attribute}'"
        found.append(
            Finding(level, topic.name, got, "one value per name", f"Let the driver fill '{attribute}' for every name.")
        )
    repeated = [n for n in seen if any(list(m.name).count(n) > 1 for m in topic.messages)]
    if repeated:
        remedy = "Give every joint its own name."
        found.append(Finding("error", topic.name, f"names {listed(repeated)} twice", "each joint once", remedy))
    known = {c for o in observations for c in o.channels}
    strange = [n for n in seen if n not in known]
    for o in observations:
        missing = [c for c in o.channels if c not in seen]
        if not missing:
            continue
        commanded = any(c in contract.action.joints for c in missing)
        level = "error" if commanded or len(o.channels) - len(missing) < o.min_valid else "warning"
        guesses = [f"{g[0]} for {c}" for c in missing if (g := difflib.get_close_matches(c, strange, 1))]
        hint = f" Is it {listed(guesses)}?" if guesses else ""
        got = f"no joint {listed(missing)}; it names {listed(seen) or 'none'}"
        remedy = f"Rename the joints in the robot's description, or use a bundle for this robot.{hint}"
        found.append(Finding(level, f"{topic.name}: {o.name}", got, f"all of {contract.robot}", remedy))
    return found


def _check_content(topic: SensorTopic, observations: tuple[Observation, ...]) -> list[Finding]:
    """Arrays of another size, and quantities of an IMU of which the driver says that it does not measure them."""
    found = []
    for o in observations:
        where = f"{topic.name}: {o.name}"
        sizes = {len(m.data) for m in topic.messages} if o.kind == "array" else set()
        if sizes - {len(o.channels)}:
            remedy = "Let the driver send what the contract lists, in its order; another array is ignored."
            got, expected = f"{listed(map(str, sorted(sizes)))} numbers", f"{len(o.channels)}: {listed(o.channels)}"
            found.append(Finding("error", where, got, expected, remedy))
        part = "orientation" if o.kind == "gravity" else o.kind
        if any(getattr(m, f"{part}_covariance", (0.0,))[0] == -1 for m in topic.messages):
            remedy = "Use a sensor that measures it, or correct the driver, which sets the first covariance to -1."
            found.append(Finding("error", where, f"the driver says that it has no {part}", "a measurement", remedy))
    return found


def _series(topic: SensorTopic, observations: tuple[Observation, ...], contract: Contract) -> dict[str, Series]:
    sample, slices = Sample(contract), contract.layout.slices
    rows = []
    for m in topic.messages:
        sample.clear()
        deliver(m, observations, sample, 0)
        rows.append((sample.values.copy(), sample.stamp_ns != NEVER))
    values, present = (np.array([row[i] for row in rows]) for i in (0, 1))
    stamps = [_stamp_ns(m) for m in topic.messages]
    rising = all(a is not None and b is not None and a < b for a, b in itertools.pairwise([-1, *stamps]))
    times = np.array(stamps if rising else topic.received_ns, dtype=np.int64)
    seconds = (times - times[0]) * 1e-9
    quaternions = None
    if any(o.kind in ("orientation", "gravity") for o in observations):
        quaternions = np.array([[getattr(m.orientation, a) for a in "xyzw"] for m in topic.messages], dtype=np.float64)
    return {
        o.name: Series(seconds, values[:, slices[o.name]], present[:, slices[o.name]], quaternions)
        for o in observations
    }


def _check_command(window: Window, contract: Contract) -> list[Finding]:
    topic, wanted, found = window.command, window.offered.message_type, []
    if not topic.subscribers:
        found.append(
            Finding(
                "error", topic.name, "nobody subscribes", f"a subscription of {wanted}",
                "Start the robot's controller (ros2 control list_controllers), or remap the topic.", passing=True,
            )
        )  # fmt: skip
    fitting = [s for s in topic.subscribers if s.message_type == wanted]
    if topic.subscribers and not fitting:
        got = ", ".join(f"{s.node} takes {s.message_type}" for s in topic.subscribers)
        remedy = "Choose the node's parameter command_type to fit, use another controller, or convert the messages."
        found.append(Finding("error", topic.name, got, wanted, remedy))
    for s in fitting:
        if mismatch := _mismatch(window.offered, s):
            found.append(_qos_finding(topic.name, f"the controller offers {mismatch[0]}", mismatch[1]))
    if topic.publishers:
        names = listed(dict.fromkeys(p.node for p in topic.publishers))
        speaks = topic.messages > 0
        got = f"{names} {'commands' if speaks else 'is ready to command'} the robot too"
        remedy = "Stop the other controller: the two would fight."
        level = "error" if speaks else "warning"
        found.append(Finding(level, topic.name, got, "no other controller", remedy, passing=True))
    return found + _check_ros2_controllers(window, contract.action.kind)


def _check_ros2_controllers(window: Window, kind: str) -> list[Finding]:
    topic, order, found = window.command, window.order, []
    by_name = window.offered.message_type != ARRAY
    for node, joints in topic.joints.items():
        same = sorted(joints) == sorted(order)
        if not (same if by_name else joints == order):
            got = f"its joints are {', '.join(joints)}" + (", in another order" if same else "")
            remedy = "Give the bundle's controller its order by command_joints, or it the bundle's joints by 'joints'."
            found.append(Finding("error", node, got, ", ".join(order), remedy))
    for node, interface in topic.interfaces.items():
        if interface != kind:
            remedy = "Use the controller for this interface."
            found.append(Finding("error", node, f"it commands the {interface} interface", kind, remedy))
    return found
