from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.errors import BagError
from runtime.replay.align import in_order
from runtime.replay.bags import Record
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.replay.timeline import Row
from tests.runtime.replay.recording import PERIOD, TYPES, BagWriter, header, twist, write_ros1
from tests.runtime.replay.test_raw_mode import DRIVE, group, turtlebot
from tests.tiny_bundle import write_tiny_bundle

MS = 10**6
START = 1_700_000_000_000_000_000


def contract() -> Contract:
    """One point that may be 45 ms old and may be missing, at 100 Hz."""
    point = replace(group("target", "point", "target", ("x", "y", "z"), 1e6, 0), max_age_s=0.045)
    return replace(turtlebot(), observations=(point,))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "cartpole", 0.0, contract()))


def point(x: float, stamp_ns: int) -> Any:
    h = header()
    h.stamp = TYPES.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return TYPES.types["geometry_msgs/msg/PointStamped"](h, TYPES.types["geometry_msgs/msg/Point"](x=x, y=0.0, z=0.0))


def write(path: Path, points: Iterable[tuple[float, int, int]]) -> Path:
    """Points of x, stamp and receive time in ms after the start; commands from the beginning to 200 ms make it tick."""
    with BagWriter(path) as bag:
        messages: list[tuple[int, str, Any]] = [
            (START + ms * MS, "/target", point(x, stamp and START + stamp * MS)) for x, stamp, ms in points
        ]
        messages += [(START + ms * MS + 1, "/cmd_vel", DRIVE) for ms in range(0, 201, 5)]
        for receive_ns, topic, message in sorted(messages, key=lambda m: m[0]):
            bag.write(topic, message, receive_ns)
    return path


def seen(bag: Path, bundle: Bundle, **options: Any) -> dict[int, float]:
    """x by the time of the tick in ms after the start; NaN where the point was not believed."""
    rows: list[Row] = []
    replay(bag, bundle, ReplayOptions(**options), observers=(rows.append,))
    return {round((r.now_ns - START) / MS): float("nan") if r.command.reasons[0] else float(r.values[0]) for r in rows}


def test_hold_asof_and_drop_by_hand(bundle: Bundle, tmp_path: Path) -> None:
    """Of points every 20 ms, the one of 40 ms comes with the one of 60 ms, after it."""
    bag = write(tmp_path / "bag", [(0, 1, 1), (20, 21, 21), (60, 61, 61), (40, 41, 62), (80, 81, 81), (100, 101, 101)])
    nan = float("nan")
    # The first message is received at 0 ms + 1 ns, so ticks are at 10, 20, ... ms.
    hold = {10: 0, 20: 0, 30: 20, 40: 20, 50: 20, 60: 20, 70: 40, 80: 40, 90: 80, 100: 80}
    np.testing.assert_equal({t: v for t, v in seen(bag, bundle).items() if t <= 100}, hold)
    after = seen(bag, bundle)
    assert [after[t] for t in (110, 120, 130, 140)] == [100] * 4
    assert np.isnan(after[150]), "older than 45 ms"
    # The first stamp is 1 ms, so ticks are at 11, 21, ... ms; what is stamped at the very time of a tick counts.
    asof = {11: 0, 21: 20, 31: 20, 41: 40, 51: 40, 61: 60, 71: 60, 81: 80, 91: 80}
    by_header = {t: v for t, v in seen(bag, bundle, clock="header", align="asof").items() if t <= 100}
    np.testing.assert_equal(by_header, asof)
    drop = {11: 0, 21: 20, 31: nan, 41: 40, 51: nan, 61: 60, 71: nan, 81: 80, 91: nan}
    once = {t: v for t, v in seen(bag, bundle, clock="header", align="drop").items() if t <= 100}
    np.testing.assert_equal(once, drop)
    late = {t: v for t, v in seen(bag, bundle, clock="header").items() if t <= 100}
    # What arrives last is seen, as on the robot: at 61 ms both are there.
    np.testing.assert_equal(late, {**asof, 41: 20, 51: 20, 61: 40, 71: 40})


def test_by_the_header_there_is_no_delay(bundle: Bundle, tmp_path: Path) -> None:
    """Every point is 30 ms old when it comes, and comes every 40 ms."""
    bag = write(tmp_path / "bag", [(ms, ms + 1, ms + 31) for ms in range(0, 160, 40)])
    received = seen(bag, bundle)
    assert [received[t] for t in (40, 50, 60, 70, 80)] == [0, 0, 0, 0, 40]
    # Without a header the commands follow the stamped points: 30 ms early.
    stamped = seen(bag, bundle, clock="header")
    assert [stamped[t] for t in (11, 21, 31, 41, 51)] == [0, 0, 0, 40, 40]


def test_what_is_wrong_with_the_stamps_is_counted(bundle: Bundle, tmp_path: Path) -> None:
    points = [(0, 1, 1), (1, 0, 10), (2, 15, 20), (3, 12, 30), (4, 31, 40), (5, 101, 110), (6, 111, 120)]
    result = replay(write(tmp_path / "bag", points), bundle)
    health = result.topics["/target"]
    assert (health.messages, health.zero_stamps, health.out_of_order) == (7, 1, 1)
    assert (health.gaps, round(health.longest_gap_s, 3)) == (1, 0.07)
    assert result.notices == (
        "/target: 1 of 7 messages are out of order",
        "/target: 1 of 7 messages have no stamp in their header",
        "/target: 1 gaps, the longest 0.07 s",
    )
    gaps = [e for e in result.timeline.events if e.kind == "gap"] if result.timeline else []
    assert [(e.subject, round(e.time_s, 3), round(e.end_s, 3)) for e in gaps] == [("/target", 0.04, 0.11)]


def test_simulated_time_in_the_headers(bundle: Bundle, tmp_path: Path) -> None:
    """Stamps count from zero; the commands, without a header, are put beside them."""
    with BagWriter(tmp_path / "bag") as bag:
        for ms in range(0, 300, 10):
            if ms == 100:
                bag.write("/cmd_vel", DRIVE, START + ms * MS)
            bag.write("/target", point(ms, ms * MS + 5000 * MS), START + ms * MS + 1)
    rows: list[Row] = []
    options = ReplayOptions(clock="header")
    result = replay(tmp_path / "bag", bundle, options, observers=(rows.append,))
    assert (rows[0].now_ns, rows[-1].now_ns) == (5010 * MS, 5280 * MS)
    assert [r.recorded is not None for r in rows].index(True) == 8, "of 5090 ms, a period before the command"
    assert result.compared == len(rows) - 9


def test_no_header_at_all(tmp_path: Path) -> None:
    base = turtlebot()
    planar = group("base", "planar_twist", "odometry", ("vx", "vy", "wz"), 10.0, 3)
    bundle = Bundle.load(write_tiny_bundle(tmp_path / "b.onnx", "cartpole", 0.0, replace(base, observations=(planar,))))
    with BagWriter(tmp_path / "bag") as bag:
        for i in range(50):
            bag.write("/odometry", twist(0.1, 0.0), START + i * PERIOD)
    assert replay(tmp_path / "bag", bundle).ticks == 48
    with pytest.raises(BagError, match="none of the messages has a stamp in its header; replay it with --clock receiv"):
        replay(tmp_path / "bag", bundle, ReplayOptions(clock="header"))


def test_a_stamp_of_another_age_is_skipped(bundle: Bundle, tmp_path: Path) -> None:
    """One stamp is of the year 2037: the ticks go on where the others are, not over ten years."""
    far = 2_114_380_800_000 - START // MS
    points = [(float(ms), far if ms == 100 else ms + 1, ms + 1) for ms in range(0, 200, 10)]
    for align in ("hold", "asof", "drop"):
        result = replay(write(tmp_path / align, points), bundle, ReplayOptions(clock="header", align=align))
        assert 15 < result.ticks < 25


def test_ros1_readings_are_those_of_ros2(bundle: Bundle, tmp_path: Path) -> None:
    points = [(float(ms), ms + 1, ms + 1) for ms in range(0, 200, 10)]
    two = seen(write(tmp_path / "bag", points), bundle)
    messages = [("/target", point(x, START + s * MS), START + r * MS) for x, s, r in points]
    commands = [("/cmd_vel", DRIVE, START + ms * MS + 1) for ms in range(0, 201, 5)]
    bag = write_ros1(tmp_path / "one.bag", sorted(messages + commands, key=lambda m: m[2]))
    np.testing.assert_equal(seen(bag, bundle), two)


@given(st.lists(st.integers(0, 3 * 10**9), max_size=60))
def test_in_order_is_a_stable_sort_of_what_is_not_too_late(times: list[int]) -> None:
    records = [(t, Record("/t", i, i)) for i, t in enumerate(times)]
    got = [(t, r.message) for t, r in in_order(records)]
    assert got == sorted(got)
    newest, kept = -1, []
    for i, t in enumerate(times):
        newest = max(newest, t)
        if t >= newest - 10**9:
            kept.append((t, i))
    assert set(kept) <= set(got), "nothing that is at most a second late is left out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clock": "wall"}, "replay clock 'wall' is unknown; expected one of receive, header"),
        ({"align": "nearest"}, "replay alignment 'nearest' is unknown; expected one of hold, asof, drop"),
        ({"remap": ("joint_states=/a",)}, "remap 'joint_states=/a' is not understood; expected CONTRACT_TOPIC:=BAG_T"),
        ({"remap": (":=/a",)}, "remap ':=/a' is not understood"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BagError, match=message):
        ReplayOptions(**options)


def test_remaps(bundle: Bundle, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for ms in range(0, 100, 10):
            bag.write("/vision/goal", point(ms, ms), START + ms * MS)
            bag.write("/base/cmd", DRIVE, START + ms * MS)
    with pytest.raises(BagError, match="none of the bundle's sensor topics; it has /base/cmd"):
        replay(tmp_path / "bag", bundle)
    result = replay(tmp_path / "bag", bundle, ReplayOptions(remap=("target:=/vision/goal", "/cmd_vel:=cmd")))
    assert (result.ticks, result.compared) == (8, 7)
    with pytest.raises(
        BagError, match="'goal' cannot be remapped: the bundle has the topics cmd_vel, target, telemetr"
    ):
        replay(tmp_path / "bag", bundle, ReplayOptions(remap=("goal:=/vision/goal",)))
