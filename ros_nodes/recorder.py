"""Records topics to a rosbag2 bag (MCAP) without an installation of rosbag2.

python -m ros_nodes.recorder --ros-args -p output:=DIRECTORY -p topics:="['/joint_states', '/command']"
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from ros_nodes.polling import PolledSubscription
from ros_nodes.spinning import Spinner, run
from runtime.errors import BagError, GanglionError

if TYPE_CHECKING:
    from rosbags.interfaces import Qos
    from rosbags.rosbag2 import Writer

_DEPTH = 1000
_POLL_NS = 20_000_000
_SCAN_NS = 500_000_000
_FOREVER = (9223372036, 854775807)


def message_class(message_type: str) -> type:
    """Python class of a type such as `std_msgs/msg/String`. Raises GanglionError if it is not installed."""
    package, _, name = message_type.partition("/msg/")
    try:
        found: type = getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise GanglionError(
            f"the message type {message_type} is not installed; install the package {package}"
        ) from error
    return found


def _adapted_qos(node: Node, topic: str) -> QoSProfile:
    """The strongest that every present publisher of the topic offers."""
    offers = [info.qos_profile for info in node.get_publishers_info_by_topic(topic)]
    reliable = bool(offers) and all(q.reliability == ReliabilityPolicy.RELIABLE for q in offers)
    latched = bool(offers) and all(q.durability == DurabilityPolicy.TRANSIENT_LOCAL for q in offers)
    return QoSProfile(
        depth=_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _bag_qos(qos: QoSProfile) -> Qos:
    from rosbags import interfaces as bag

    forever = bag.QosTime(*_FOREVER)
    return bag.Qos(
        history=bag.QosHistory.KEEP_LAST,
        depth=qos.depth,
        reliability=bag.QosReliability(int(qos.reliability)),
        durability=bag.QosDurability(int(qos.durability)),
        deadline=forever,
        lifespan=forever,
        liveliness=bag.QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )


class Recorder:
    """Writes what arrives on its topics, as serialised; a context manager.

    The bag appears under its name when it is complete; until then it is in a hidden directory beside it.
    """

    def __init__(self, node: Node, output: Path) -> None:
        """Raises BagError if `output` exists already or cannot be written."""
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore

        self.output = output.absolute()
        self.messages = 0
        """Number of messages written."""
        self.failed = False
        """Whether it had to give up."""
        if self.output.exists():
            raise BagError(f"{output} exists already; remove it or choose another name")
        self._node = node
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._partial = self.output.parent / f".{self.output.name}.partial"
        self._topics: dict[str, tuple[PolledSubscription, Any]] = {}
        try:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            self._writer: Writer = Writer(
                self._partial / self.output.name, version=9, storage_plugin=StoragePlugin.MCAP
            )
            self._writer.open()
        except OSError as error:
            raise BagError(f"cannot write the bag {output}: {error.strerror}") from error

    def add(self, topic: str, message_type: str) -> None:
        """Record one more topic. Raises GanglionError if its type is not installed or not one of ROS 2 Jazzy."""
        if message_type not in self._types.fielddefs:
            raise GanglionError(f"{topic} cannot be recorded: {message_type} is not a standard type of ROS 2 Jazzy")
        qos = _adapted_qos(self._node, topic)
        subscription = PolledSubscription(self._node, message_class(message_type), topic, qos, raw=True)
        connection = self._writer.add_connection(
            subscription.topic, message_type, typestore=self._types, offered_qos_profiles=[_bag_qos(qos)]
        )
        self._topics[subscription.topic] = (subscription, connection)

    def poll(self) -> None:
        """Write what has arrived since the last call; the queues hold 1000 messages per topic.

        Raises BagError if that fails, as on a full disk, and gives up.
        """
        to_system_ns = time.time_ns() - time.monotonic_ns()
        with self._giving_up():
            for subscription, connection in self._topics.values():
                for data, received_ns in subscription.take():
                    self._writer.write(connection, received_ns + to_system_ns, data)
                    self.messages += 1

    def close(self) -> None:
        """Write what waits, complete the bag and put it in place, unless it has given up.

        Raises BagError if that fails.
        """
        if self.failed:
            return
        self.poll()
        self._leave()
        with self._giving_up():
            self._writer.close()
            (self._partial / self.output.name).replace(self.output)
            self._partial.rmdir()

    def _leave(self) -> None:
        for subscription, _ in self._topics.values():
            subscription.destroy()
        self._topics = {}

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = True
            self._leave()
            if self._writer.storage is not None:
                with suppress(OSError):  # it tries once more to write what it has not
                    self._writer.storage.abort()
            raise BagError(
                f"cannot write the bag {self.output}: {error.strerror}; what was recorded until then is in "
                f"{self._partial}, without an index: make room and record again"
            ) from error

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RecorderNode(Node):
    """Records the topics of its parameter, each from when it appears, until it is stopped."""

    def __init__(self) -> None:
        """Raises BagError if the output is not usable."""
        super().__init__("recorder")
        output = ParameterDescriptor(description="directory of the bag; must not exist", read_only=True)
        self.declare_parameter("output", "bag", output)
        names = ParameterDescriptor(description="full names of the topics; all of them if empty", read_only=True)
        self.declare_parameter("topics", Parameter.Type.STRING_ARRAY, names)
        self._wanted = set(self.get_parameter_or("topics", Parameter("topics", value=[""])).value) - {""}
        self._recorder = Recorder(self, Path(str(self.get_parameter("output").value)))
        self._scanned: set[str] = set()
        self._next_scan_ns = 0

    def _scan(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if topic in self._scanned or (self._wanted and topic not in self._wanted):
                continue
            if not self.count_publishers(topic):  # only they tell which quality of service to ask for
                continue
            self._scanned.add(topic)
            try:
                self._recorder.add(topic, types[0])
                self.get_logger().info(f"recording {topic} [{types[0]}]")
            except GanglionError as error:
                self.get_logger().warning(str(error))

    def cycle(self, spinner: Spinner) -> None:
        """Look for new topics now and then, and write what arrived."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_scan_ns:
            self._next_scan_ns = now_ns + _SCAN_NS
            self._scan()
        spinner.until(now_ns + _POLL_NS)
        self._recorder.poll()

    def close(self) -> None:
        """Complete the bag."""
        self._recorder.close()
        if not self._recorder.failed:
            self.get_logger().info(f"{self._recorder.messages} messages in {self._recorder.output}")


def main(args: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM."""
    return run(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
