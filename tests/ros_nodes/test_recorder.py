"""The recorder: what it writes is read back with rosbags, and is complete after an interrupt."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.highlevel import AnyReader
from std_msgs.msg import Float64MultiArray, String

from ros_nodes.recorder import Recorder
from ros_nodes.session import Session
from runtime.errors import BagError, GanglionError
from runtime.safety import Status
from tests.ros_nodes.harness import FakeRobot, start_controller
from tests.tiny_bundle import tiny_contract

pytestmark = pytest.mark.timed

KUKA = tiny_contract("kuka_reach")


def _read(path: Path) -> list[tuple[str, int, Any]]:
    """Topic, receive time and decoded message of everything in a bag."""
    with AnyReader([path]) as reader:
        return [(c.topic, t, reader.deserialize(d, c.msgtype)) for c, t, d in reader.messages()]


def test_a_bag_holds_every_message_in_order(session: Session, tmp_path: Path) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    session.node.create_publisher(String, "/note", latched).publish(String(data="before the recorder"))
    publisher = session.node.create_publisher(Float64MultiArray, "/numbers", 100)
    session.wait(lambda: len(session.node.get_publishers_info_by_topic("/note")) == 1, "discovery")
    with Recorder(session.node, tmp_path / "bag") as recorder:
        recorder.add("/note", "std_msgs/msg/String")
        recorder.add("/numbers", "std_msgs/msg/Float64MultiArray")
        with pytest.raises(GanglionError, match="not a standard type"):
            recorder.add("/other", "robot_msgs/msg/Secret")
        session.wait(lambda: publisher.get_subscription_count() > 0, "the recorder")
        session.idle.append(recorder.poll)
        for i in range(200):
            publisher.publish(Float64MultiArray(data=[float(i), np.pi * i]))
            session.spin(0.001)
        session.spin(0.1)
        assert not (tmp_path / "bag").exists()
        session.idle.clear()
    assert recorder.messages == 201
    read = _read(tmp_path / "bag")
    assert [m.data for topic, _, m in read if topic == "/note"] == ["before the recorder"]
    numbers = [(t, m.data) for topic, t, m in read if topic == "/numbers"]
    assert [list(d) for _, d in numbers] == [[float(i), np.pi * i] for i in range(200)]
    assert (np.diff([t for t, _ in numbers]) > 0).all()
    assert list(tmp_path.glob(".*")) == []
    with pytest.raises(BagError, match="exists already"):
        Recorder(session.node, tmp_path / "bag")


def test_an_interrupted_recording_of_the_controller_is_complete(session: Session, tmp_path: Path, kuka: Path) -> None:
    robot = FakeRobot(session, KUKA)
    start_controller(session, kuka)
    robot.wait_for(Status.ACTIVE)
    wanted = ["/controller/telemetry", "/controller/contract", "/joint_states", "/diagnostics"]
    child = session.start("ros_nodes.recorder", {"output": str(tmp_path / "bag"), "topics": wanted})
    session.wait(lambda: child.log.count("recording /") == 4, "the recorder's topics")
    session.spin(1.2)
    session.children.remove(child)
    child.process.send_signal(signal.SIGINT)
    assert child.process.wait(5) == 0
    read = _read(tmp_path / "bag")
    counts = Counter(topic for topic, _, _ in read)
    telemetry = [m for topic, _, m in read if topic == wanted[0]]
    (contract,) = [m for topic, _, m in read if topic == wanted[1]]
    assert sorted(counts) == sorted(wanted)
    assert counts["/joint_states"] > 80
    assert counts["/diagnostics"] >= 1
    ticks = [int(m.data[1]) for m in telemetry]
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))
    assert len(ticks) > 80
    names = telemetry[0].layout.dim[0].label.split(",")
    assert dict(zip(names, telemetry[0].data))["value.target.z"] == 0.5
    assert json.loads(contract.data)["robot"] == "kuka_iiwa"
