"""The controller's sensor topics: messages into the sample, and the check that this is the contract's robot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rclpy.clock import Clock
from rclpy.qos import QoSProfile, ReliabilityPolicy

from ros_nodes.conversion import MESSAGE_TYPES, stamp_ns
from ros_nodes.polling import PolledSubscription
from ros_nodes.topics import Topics
from runtime.contract import Contract, Observation
from runtime.messages import deliver
from runtime.messages import topics as observed
from runtime.sample import Sample

_STEADY = 5  # messages in a row that are about a period apart, after which the next one is waited for
_GRACE_NS = 500_000_000  # joint states may come from several publishers, each with some of the joints


def sensor_qos() -> QoSProfile:
    """Best effort, so that it matches every publisher; ten messages per tick and topic."""
    return QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass
class _Topic:
    subscription: PolledSubscription
    observations: tuple[Observation, ...]
    channels: np.ndarray
    has_names: bool
    header_ns: int | None = None
    received_ns: int = 0
    streak: int = 0
    """Messages in a row that came half a period to one and a half after the one before."""
    heard: bool = False
    """Whether a message came in this period."""

    def restart(self) -> None:
        self.subscription.discard()
        self.header_ns = None
        self.received_ns = self.streak = 0
        self.heard = False

    def receive(self, received_ns: int, period_ns: int) -> None:
        gap_ns = received_ns - self.received_ns
        self.streak = self.streak + 1 if period_ns < 2 * gap_ns < 3 * period_ns else 0
        self.received_ns = received_ns
        self.heard = True

    @property
    def is_steady(self) -> bool:
        """Whether it sends a message a period."""
        return self.streak >= _STEADY


class Sensors:
    """Subscribes the contract's observation topics and keeps the latest reading of every channel in `sample`."""

    def __init__(self, topics: Topics, contract: Contract, clock: Clock) -> None:
        """`clock` is that of the stamps.

        Raises ContractError if the observations do not fit ROS messages, or ROS refuses a topic.
        """
        self.sample = Sample(contract)
        self.robot = RobotCheck(contract)
        self._period_ns = 0
        self._clock = clock
        slices = contract.layout.slices
        self._topics = [
            _Topic(
                topics.subscription(MESSAGE_TYPES[message_type], topics.named(topic), sensor_qos()),
                observations,
                np.concatenate([np.arange(slices[o.name].start, slices[o.name].stop) for o in observations]),
                has_names=message_type == "sensor_msgs/msg/JointState",
            )
            for topic, (message_type, observations) in observed(contract.observations).items()
        ]
        self._waiter = topics.waiter([t.subscription for t in self._topics])
        self.robot.topics = [t.subscription.topic for t in self._topics if t.has_names]

    def restart(self, period_ns: int) -> None:
        """Forget every reading, also those that wait; from now on there is a tick in every `period_ns`."""
        self._period_ns = period_ns
        for topic in self._topics:
            topic.restart()
        self.sample.clear()
        self.robot.restart()

    def poll(self) -> None:
        """Put every message that waits into the sample."""
        for topic in self._topics:
            for message, received_ns in topic.subscription.take():
                deliver(message, topic.observations, self.sample, received_ns)
                topic.header_ns = stamp_ns(message)
                topic.receive(received_ns, self._period_ns)
                if topic.has_names:
                    self.robot.saw(message.name, received_ns)

    def await_period(self, expected_ns: int, deadline_ns: int) -> None:
        """Poll until every topic that sends a message a period, and sent one in the last, has sent the one of this.

        That is one received no sooner than three quarters of a period before `expected_ns` of the steady clock: one
        that came before that is late, and of the last period. At most to `deadline_ns`, and to it if there is no such
        topic.
        """
        since_ns = expected_ns - 3 * self._period_ns // 4
        self.poll()
        while not self._complete(since_ns) and self._waiter.until(deadline_ns):
            self.poll()

    def _complete(self, since_ns: int) -> bool:
        last_ns = since_ns - self._period_ns
        awaited = [t.received_ns >= since_ns for t in self._topics if t.is_steady and t.received_ns >= last_ns]
        return bool(awaited) and all(awaited)

    def end_period(self) -> int | None:
        """Begin the next period. Returns when the last message of this one came, of topics that send one a period.

        None if none came.
        """
        arrivals = [t.received_ns for t in self._topics if t.heard and t.is_steady]
        for topic in self._topics:
            topic.heard = False
        return max(arrivals, default=None)

    def latency_us(self, believed: np.ndarray) -> float:
        """Microseconds from the newest header stamp among the topics with a believed channel to now.

        `believed` is (D,) bool. NaN if none of them carries a stamp, or if it is of another clock and lies ahead.
        """
        stamps = [t.header_ns for t in self._topics if t.header_ns is not None and believed[t.channels].any()]
        latency_ns = self._clock.now().nanoseconds - max(stamps) if stamps else -1
        return latency_ns * 1e-3 if latency_ns >= 0 else math.nan


class RobotCheck:
    """Whether the robot whose joint states arrive has the joints that the contract commands."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._known = {c for o in contract.observations for c in o.channels} | set(contract.action.joints)
        self.topics: list[str] = []
        """Topics with joint names; without any there is nothing to check."""
        self.restart()

    def restart(self) -> None:
        """Another robot may come."""
        self._seen: dict[str, None] = {}
        self._first_ns = self.last_ns = 0

    def saw(self, names: list[str], received_ns: int) -> None:
        """Note the joint names of one message."""
        self._first_ns = self._first_ns or received_ns
        self.last_ns = received_ns
        if len(self._seen) < 1000:  # a publisher of ever new names must not fill the memory
            self._seen.update(dict.fromkeys(names))

    @property
    def missing(self) -> list[str]:
        """Commanded joints that were not seen yet."""
        return [j for j in self._contract.action.joints if j not in self._seen] if self.topics else []

    def refusal(self, now_ns: int) -> str:
        """Why this robot is not the contract's; empty if it is, or as long as more joint states may come."""
        missing = self.missing
        if not missing or not self._first_ns or now_ns - self._first_ns < _GRACE_NS:
            return ""
        unknown = [name for name in self._seen if name not in self._known]
        return (
            f"the robot does not match the bundle, which commands {self._contract.robot}: it has no joint "
            f"{', '.join(missing)}; {', '.join(self.topics)} names {', '.join(self._seen) or 'no joints'}"
            + (f", of which the bundle does not know {', '.join(unknown)}" if unknown else "")
            + ". Rename the joints in the robot's description, remap the topic, or use a bundle for this robot; "
            "nothing was commanded"
        )
