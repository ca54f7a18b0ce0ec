from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.contract import Contract, Health, HealthAt
from runtime.replay.align import TopicHealth
from runtime.replay.batch import Job, Outcome
from runtime.replay.compare import ReplayResult
from runtime.replay.options import ReplayOptions
from runtime.replay.summary import Recorder
from runtime.replay.timeline import Timeline
from runtime.replay.verdict import Check, Replayed, Verdict, judge
from runtime.replay.words import count, duration, number, quantity, share, short_names, sigma
from tests.runtime.replay.test_timeline import row

TICKS = 1000


def course(bundle: Bundle, masked: int = 0, sustained: float = 0.5, late: int = 0, gaps: int = 0) -> Timeline:
    """Of 10 s, with the first channel masked in some ticks."""
    recorder = Recorder(bundle.contract)
    for tick in range(TICKS):
        r = row(bundle, tick, mask=1 if tick < masked else 0)
        r.sustained_surprise = sustained if tick == 700 else 0.1
        r.late = tick < late
        recorder(r)
    for _ in range(gaps):
        recorder.gap(1.0, 2.0, "/imu")
    return recorder.timeline()


def result(bundle: Bundle, rmse: float = 0.0, **changes: object) -> ReplayResult:
    """Bit for bit, as far as `changes` do not say otherwise."""
    found = ReplayResult(
        mode="telemetry",
        ticks=TICKS,
        bit_exact=True,
        rmse=rmse,
        max=2 * rmse,
        realtime_factor=50.0,
        compared=TICKS,
        statuses={"ACTIVE": TICKS},
        per_joint={j: {"rmse": rmse, "max": 2 * rmse} for j in bundle.contract.action.joints},
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def states(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.state for check in verdict.checks}


def calibrated(contract: Contract) -> Contract:
    """The largest average in calibration was 2: the bound is 3 times that."""
    return replace(contract, health=Health((0.5, 0.99), 1000, {"0": HealthAt((0.0, 1.0), {}, (1.0, 1.5), 2.0)}))


def test_nothing_to_see(cartpole: Bundle) -> None:
    verdict = judge(result(cartpole), course(cartpole), calibrated(cartpole.contract), ReplayOptions())
    assert set(states(verdict).values()) == {"good"}
    assert (verdict.state, verdict.headline) == ("good", "As it should be")
    assert {c.name: c.value for c in verdict.checks} == {
        "Bit for bit": "identical",
        "Command error": "0 %",
        "Held": "0 %",
        "Masked": "0 %",
        "Surprise": "0.5",
        "Late ticks": "0",
        "Bag": "whole",
    }
    json.dumps(verdict.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("part", "state"), [(0.0, "good"), (0.0099, "good"), (0.011, "look"), (0.049, "look"), (0.051, "bad")]
)
def test_the_command_error_is_held_against_the_range_of_the_joint(part: float, state: str, cartpole: Bundle) -> None:
    action = cartpole.contract.action
    off = result(cartpole, rmse=part * (action.high[0] - action.low[0]))
    assert states(judge(off, course(cartpole), cartpole.contract, ReplayOptions()))["Command error"] == state


def test_each_check_has_its_limit(cartpole: Bundle) -> None:
    contract, options = calibrated(cartpole.contract), ReplayOptions()

    def check(name: str, found: ReplayResult, timeline: Timeline) -> Check:
        return next(c for c in judge(found, timeline, contract, options).checks if c.name == name)

    good, quiet = result(cartpole), course(cartpole)
    assert check("Bit for bit", result(cartpole, bit_exact=False, differing=3), quiet).state == "bad"
    held = [result(cartpole, statuses={"ACTIVE": TICKS - n, "HOLDING": n}) for n in (0, 1, 50, 51)]
    assert [check("Held", r, quiet).state for r in held] == ["good", "look", "look", "bad"]
    size = cartpole.contract.layout.size  # one channel masked in n of 1000 ticks is a share of n / (1000 size)
    masked = [check("Masked", good, course(cartpole, masked=n)) for n in (10 * size, 10 * size + 10)]
    assert [c.state for c in masked] == ["good", "look"]
    assert masked[1].detail == f"1 of {size} channels at some time"
    surprise = [check("Surprise", good, course(cartpole, sustained=s)) for s in (6.0, 6.1)]
    assert [c.state for c in surprise] == ["good", "bad"]
    assert (surprise[1].limit, surprise[1].detail) == ("✓ up to 6, from calibration", "highest at 7.00 s")
    late = [check("Late ticks", good, course(cartpole, late=n)).state for n in (1, 2, 10, 11)]
    assert late == ["good", "look", "look", "bad"]
    assert check("Bag", good, course(cartpole, gaps=2)).value == "2 gaps"
    disorder = {"/imu": TopicHealth("sensor_msgs/msg/Imu", messages=9, out_of_order=1)}
    mess = check("Bag", result(cartpole, topics=disorder, missing=("imu",), skipped=4), quiet)
    assert (mess.state, mess.value, mess.detail) == (
        "look",
        "4 ticks skipped",
        "1 message out of order; 1 sensor missing",
    )


def test_what_cannot_be_checked_is_not_judged(cartpole: Bundle) -> None:
    raw = result(cartpole, mode="raw", bit_exact=False, per_joint={}, max=None)
    verdict = judge(raw, course(cartpole), replace(cartpole.contract, health=Health()), ReplayOptions())
    assert states(verdict) == {
        "Bit for bit": "",
        "Command error": "",
        "Held": "good",
        "Masked": "good",
        "Surprise": "",
        "Bag": "good",
    }
    faulty = ReplayOptions(faults=("lost:all",))
    differs = result(cartpole, bit_exact=False, differing=9)
    assert states(judge(differs, course(cartpole), cartpole.contract, faulty))["Bit for bit"] == ""


def test_the_headline_names_the_worst(cartpole: Bundle) -> None:
    held = result(cartpole, statuses={"ACTIVE": 900, "HOLDING": 100})
    verdict = judge(held, course(cartpole, late=5), cartpole.contract, ReplayOptions())
    assert (verdict.state, verdict.headline) == ("bad", "Beyond the limits: held")


def test_a_replay_that_failed_has_no_verdict(cartpole: Bundle) -> None:
    job = Job(Path("/data/walks/bag_3"), ReplayOptions())
    failed = Replayed(Path("a.onnx"), cartpole.contract, Outcome(job, None, "there is no bag"))
    assert failed.to_json()["verdict"] is None
    assert (failed.bag, failed.failed) == ("walks/bag_3", True)
    done = Replayed(Path("a.onnx"), cartpole.contract, Outcome(job, result(cartpole, timeline=course(cartpole))))
    assert done.to_json()["verdict"]["state"] == "good"
    assert done.to_json()["bundle"] == "a.onnx"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(0.0), "0"),
        (number(1234.6), "1,235"),
        (number(0.0123), "0.0123"),
        (number(5.8), "5.8"),
        (number(-1.0), "-1"),
        (number(1.5e-7), "1.50e-7"),
        (number(2e7), "2.00e7"),
        (number(np.nan), "–"),
        (quantity(0.00123, "rad"), "1.23 mrad"),
        (quantity(2.5e-6, "m"), "2.5 µm"),
        (quantity(1.0, "rad/s"), "1 rad/s"),
        (quantity(0.9999, "m"), "1 m"),
        (quantity(0.0, "m"), "0 m"),
        (quantity(0.5, ""), "0.5"),
        (quantity(0.005, "m/s, rad/s"), "0.005 m/s, rad/s"),
        (share(0.0), "0 %"),
        (share(1.0), "100 %"),
        (share(0.00001), "< 0.01 %"),
        (share(0.0033), "0.33 %"),
        (share(0.05), "5 %"),
        (share(0.125), "12 %"),
        (share(0.99999), "99.99 %"),
        (sigma(-0.001), "0.00"),
        (sigma(-15.24), "−15.24"),
        (duration(20.06), "20.1 s"),
        (duration(725.0), "12 min 05 s"),
        (duration(3720.0), "62 min 00 s"),
        (duration(7320.0), "2 h 02 min"),
        (count(1, "tick"), "1 tick"),
        (count(2004, "message", " out of order"), "2,004 messages out of order"),
    ],
)
def test_numbers_in_words(text: str, expected: str) -> None:
    assert text == expected


def test_names_without_what_they_share() -> None:
    assert short_names([f"lbr_iiwa_joint_{i}" for i in (1, 2)]) == ["1", "2"]
    assert short_names(["FL_hip_joint", "FR_upper_joint"]) == ["FL_hip", "FR_upper"]
    assert short_names(["x", "y"]) == ["x", "y"]
    assert short_names(["wheel_joint"]) == ["wheel_joint"]
    assert short_names(["a_joint", "joint"]) == ["a_joint", "joint"], "nothing would be left of the second"
