from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.controller import Command
from runtime.replay.options import ReplayOptions
from runtime.replay.replay import replay
from runtime.replay.summary import Recorder
from runtime.replay.timeline import MOST_BINS, MOST_EVENTS, MOST_MOMENTS, Row
from runtime.safety import Request, Status
from runtime.sensing import Reason
from tests.runtime.replay.recording import Recording


def row(bundle: Bundle, tick: int, surprise: float = 1.0, free_energy: float = 0.0, mask: int = 0) -> Row:
    """Of a tick at 100 Hz; `mask` is the reason of the first channel."""
    layout = bundle.contract.layout
    reasons = np.zeros(layout.size, np.uint8)
    reasons[0] = mask
    innovation = np.full(layout.size, float(tick), np.float32)
    values = np.full(layout.joints, 0.1 * tick)
    command = Command(Status.ACTIVE, values, reasons, free_energy, innovation, 1, 1, 0.0, "")
    readings, stamps = np.zeros(layout.size), np.zeros(layout.size, np.int64)
    return Row(0.01 * tick, 10**7 * tick, 10**7 * tick, 1, tick, readings, stamps, command, surprise, 1.0, 100.0)


@pytest.mark.parametrize("ticks", [1, 249, 250, 251, MOST_BINS, MOST_BINS + 1, 3 * MOST_BINS, 9 * MOST_BINS + 77])
def test_bins_hold_every_tick_once(ticks: int, cartpole: Bundle) -> None:
    """Against a plain reduction of all ticks."""
    recorder = Recorder(cartpole.contract)
    surprises = np.random.default_rng(ticks).standard_normal(ticks)
    surprises[::7] = np.nan
    for tick, value in enumerate(surprises):
        recorder(row(cartpole, tick, float(value), mask=4 * (tick % 5 == 0)))
    timeline = recorder.timeline()
    width = 1
    while ticks > MOST_BINS * width:
        width *= 2
    bins = -(-ticks // width)
    assert len(timeline.ticks) == bins <= MOST_BINS
    assert timeline.ticks.sum() == ticks
    starts = np.arange(bins) * width
    np.testing.assert_allclose(timeline.begin_s, 0.01 * starts)
    np.testing.assert_allclose(timeline.end_s, 0.01 * np.minimum(starts + width - 1, ticks - 1))
    band = timeline.series["surprise"]
    for i in (0, bins // 2, bins - 1):
        part = surprises[starts[i] : starts[i] + width]
        if np.isnan(part).all():
            assert np.isnan([band.mean[i], band.low[i], band.high[i]]).all()
            continue
        expected = [np.nanmean(part), np.nanmin(part), np.nanmax(part)]
        assert [band.mean[i], band.low[i], band.high[i]] == pytest.approx(expected)
    masked = np.arange(ticks) % 5 == 0
    np.testing.assert_allclose(timeline.masked[:, 0], np.add.reduceat(masked, starts) / timeline.ticks)
    np.testing.assert_array_equal(timeline.reasons[:, 0], 4 * np.logical_or.reduceat(masked, starts))
    assert not timeline.masked[:, 1:].any()
    np.testing.assert_array_equal(timeline.statuses[:, Status.ACTIVE], 1.0)
    names = timeline.channels
    innovation = timeline.series[f"innovation.{names[0]}"]
    assert np.isnan(innovation.mean[0]) == (width == 1), "tick 0 is masked, so the series holds it as unknown"
    assert timeline.series[f"innovation.{names[1]}"].high[-1] == ticks - 1


def test_a_sensor_that_fails_is_an_event_from_its_beginning_to_its_end(cartpole: Bundle) -> None:
    recorder = Recorder(cartpole.contract)
    for tick in range(30):
        reason = Reason.STALE if 5 <= tick < 12 else Reason.NON_FINITE if 12 <= tick < 20 or tick >= 25 else 0
        recorder(row(cartpole, tick, mask=int(reason)))
    events = [e for e in recorder.timeline().events if e.kind == "masked"]
    channel = cartpole.contract.layout.channels[0]
    assert [(e.subject, e.text, round(e.time_s, 3), round(e.end_s, 3)) for e in events] == [
        (channel, "stale", 0.05, 0.12),
        (channel, "non-finite", 0.12, 0.2),
        (channel, "non-finite", 0.25, 0.29),
    ]


def test_statuses_requests_and_differences_are_events(cartpole: Bundle) -> None:
    recorder = Recorder(cartpole.contract)
    for tick in range(10):
        r = row(cartpole, tick)
        if 4 <= tick < 7:
            r.command = replace(r.command, status=Status.HOLDING, cause="lost imu")
        if tick == 4:
            r.command = replace(r.command, request=Request.STOP)
            r.late, r.differs = True, ("command", "free energy")
        recorder(r)
    recorder.gap(0.25, 0.5, "/imu")
    timeline = recorder.timeline()
    assert [(e.kind, e.subject, e.text, round(e.time_s, 3), round(e.end_s, 3)) for e in timeline.events] == [
        ("status", "ACTIVE", "", 0.0, 0.04),
        ("request", "STOP", "", 0.04, 0.04),
        ("late", "", "tick 4 of activation 1 was late", 0.04, 0.04),
        ("differs", "", "command, free energy at activation 1, tick 4", 0.04, 0.04),
        ("status", "HOLDING", "lost imu", 0.04, 0.07),
        ("status", "ACTIVE", "", 0.07, 0.09),
        ("gap", "/imu", "nothing was recorded for 0.25 s", 0.25, 0.5),
    ]
    assert timeline.event_counts == {"status": 3, "request": 1, "late": 1, "differs": 1, "gap": 1}


def test_events_are_bounded_and_counted(cartpole: Bundle) -> None:
    recorder = Recorder(cartpole.contract)
    for tick in range(4 * MOST_EVENTS):
        recorder(row(cartpole, tick, mask=tick % 2))
    timeline = recorder.timeline()
    assert timeline.event_counts["masked"] == 2 * MOST_EVENTS
    assert len([e for e in timeline.events if e.kind == "masked"]) == MOST_EVENTS


def test_the_worst_moments_lie_apart(cartpole: Bundle) -> None:
    recorder = Recorder(cartpole.contract)
    peaks = {100: 5.0, 150: 9.0, 350: 7.0, 351: 6.0, 600: 3.0, 800: 8.0, 1000: 2.0, 1200: 4.0}
    for tick in range(1300):
        recorder(row(cartpole, tick, peaks.get(tick, 1.0)))
    worst = recorder.timeline().worst
    found = [(m.tick, m.value) for m in worst["surprise"]]
    assert found == [(150, 9.0), (800, 8.0), (350, 7.0), (1200, 4.0), (600, 3.0)]
    assert len(found) == MOST_MOMENTS
    assert worst["error"] == (), "there is nothing to compare with"
    assert worst["surprise"][0].innovation[0] == 150


def test_the_error_of_a_row_by_hand(cartpole: Bundle) -> None:
    r = row(cartpole, 3)
    assert np.isnan(r.error)
    r.recorded = r.command.values - 0.25
    assert r.error == pytest.approx(0.25)
    r.command = replace(r.command, status=Status.WAITING)
    assert np.isnan(r.error)


def test_observers_see_every_tick_as_it_was_recorded(kuka: Bundle, tmp_path: Path) -> None:
    recording = Recording(kuka)
    recording.run(activation=1, ticks=230, seed=1)
    bag = recording.write(tmp_path / "bag")
    rows: list[Row] = []
    timeline = replay(bag, kuka, observers=(rows.append,)).timeline
    assert timeline is not None
    assert [(r.activation, r.tick) for r in rows] == [(1, i) for i in range(230)]
    assert [r.time_ns for r in rows] == [r.receive_ns for r in recording.ticks()]
    assert all(r.differs == () for r in rows)
    assert [r.recorded is None for r in rows] == [True] * 2 + [False] * 228, "the pose comes with the third tick"
    requests = [(e.subject, round(e.time_s, 1)) for e in timeline.events if e.kind == "request"]
    assert requests == [("STOP", 1.5), ("ENGAGE", 1.8)]
    target = [c.startswith("target.") for c in timeline.channels]
    assert timeline.masked[40:100, target].all(), "the target is lost from tick 40 to 99"
    assert not timeline.masked[3:40, target].all()
    np.testing.assert_array_equal(timeline.statuses.argmax(1), [r.command.status for r in rows])


def test_another_number_of_refinement_steps_on_the_recorded_ticks(kuka: Bundle, tmp_path: Path) -> None:
    """Free energy of the tests' agent is K + 1, its command the same with every K; recorded are 0, then 1."""
    recording = Recording(kuka)
    recording.run(activation=1, ticks=100, seed=1)
    rows: list[Row] = []
    result = replay(recording.write(tmp_path / "bag"), kuka, ReplayOptions(refine=0), observers=(rows.append,))
    assert {r.command.refine for r in rows} == {0}
    assert [r.differs for r in rows] == [()] * 50 + [("free energy",)] * 50
    assert result.max == pytest.approx(0.0, abs=1e-6)


def test_after_a_fault_each_tick_continues_from_the_recorded_command(kuka: Bundle, tmp_path: Path) -> None:
    recording = Recording(kuka)
    recording.run(activation=1, ticks=120, seed=1)
    bag = recording.write(tmp_path / "bag")
    rows: list[Row] = []
    result = replay(bag, kuka, ReplayOptions(faults=("lost:joint_position@0.5-0.6",)), observers=(rows.append,))
    errors = np.array([r.error for r in rows])
    assert np.nanmax(errors[:48]) == 0.0
    assert errors[55:60].min() > 1e-4, "it holds after the gap of 50 ms that it bridges"
    assert errors[62:].max() < 1e-6, "no drift remains"
    assert result.timeline is not None
    assert result.max == result.timeline.worst["error"][0].value == np.nanmax(errors)
