"""What a replay is judged by: a few checks, each with the limit that it is held against."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.contract import Contract
from runtime.controller import MOST_SURPRISE
from runtime.replay.batch import Outcome
from runtime.replay.compare import ReplayResult
from runtime.replay.options import ReplayOptions
from runtime.replay.timeline import Timeline
from runtime.replay.words import count, number, quantity, share
from runtime.safety import Status
from runtime.surprise import Surprise

STATES = ("good", "look", "bad")
"""From nothing to see, over worth a look, to beyond its limit."""
GOOD_ERROR, MOST_ERROR = 0.01, 0.05  # of the joint's range
GOOD_MASKED = 0.01
MOST_HELD = 0.05
GOOD_LATE, MOST_LATE = 0.001, 0.01


@dataclass(frozen=True)
class Check:
    """One line of the verdict."""

    name: str
    state: str
    """One of `STATES`; empty where it does not apply."""
    value: str
    limit: str
    """What it is held against, in words."""
    detail: str = ""


@dataclass(frozen=True)
class Verdict:
    """All checks of one replay."""

    checks: tuple[Check, ...]

    @property
    def state(self) -> str:
        """The worst of the checks."""
        return max((c.state for c in self.checks if c.state), key=STATES.index, default="good")

    @property
    def headline(self) -> str:
        """The finding in a few words."""
        worst = [c.name.lower() for c in self.checks if c.state == self.state]
        if self.state == "good":
            return "As it should be"
        return ("Worth a look: " if self.state == "look" else "Beyond the limits: ") + ", ".join(worst)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"state": self.state, "checks": [asdict(c) for c in self.checks]}


def judge(result: ReplayResult, timeline: Timeline, contract: Contract, options: ReplayOptions) -> Verdict:
    """The verdict on one replay."""
    late = [_late(result, timeline)] if result.mode == "telemetry" else []
    return Verdict(
        (
            _identical(result, options),
            _command_error(result, contract),
            _held(result),
            _masked(timeline),
            _surprise(timeline, contract),
            *late,
            _bag(result, timeline),
        )
    )


def error_shares(result: ReplayResult, contract: Contract) -> dict[str, float]:
    """Root mean square error of each joint as a fraction of its range."""
    ranges = {j: h - low for j, low, h in zip(contract.action.joints, contract.action.low, contract.action.high)}
    return {joint: error["rmse"] / ranges[joint] for joint, error in result.per_joint.items()}


def joint_units(contract: Contract) -> dict[str, str]:
    """By joint; an action of several kinds names as many units as it has joints, parted by commas."""
    action = contract.action
    units = [unit.strip() for unit in action.unit.split(",")]
    return dict(zip(action.joints, units if len(units) == len(action.joints) else [action.unit] * len(action.joints)))


def masked_share(timeline: Timeline) -> np.ndarray:
    """(D,) fraction of all ticks in which each channel was masked."""
    total = max(int(timeline.ticks.sum()), 1)
    masked: np.ndarray = timeline.ticks @ timeline.masked / total
    return masked


def held_share(result: ReplayResult) -> float:
    """Fraction of the ticks in which the agent did not act after the robot's pose was known."""
    held = result.statuses.get(Status.HOLDING.name, 0) + result.statuses.get(Status.STOPPED.name, 0)
    return held / max(result.ticks, 1)


def surprise_bound(contract: Contract) -> float:
    """Of the sustained surprise, beyond which the robot holds; infinite without calibration."""
    return Surprise(contract.health, contract.rate_hz, MOST_SURPRISE).bound


def _graded(value: float, good: float, most: float) -> str:
    return "good" if value <= good else "look" if value <= most else "bad"


def _limits(good: float, most: float) -> str:
    return f"✓ {f'up to {share(good)}' if good else 'none'}, ✕ above {share(most)}"


def _identical(result: ReplayResult, options: ReplayOptions) -> Check:
    name, limit = "Bit for bit", "every tick as recorded"
    if result.mode != "telemetry":
        return Check(name, "", "not checked", "needs the node's telemetry", "the agent ran on the sensor topics")
    if options.counterfactual:
        return Check(name, "", "not checked", limit, "something else was asked for than what happened")
    if result.bit_exact:
        return Check(name, "good", "identical", limit, f"{count(result.ticks, 'tick')} compared")
    return Check(name, "bad", f"{result.differing:,} of {result.ticks:,} differ", limit, result.first_difference)


def _command_error(result: ReplayResult, contract: Contract) -> Check:
    name = "Command error"
    limit = f"{_limits(GOOD_ERROR, MOST_ERROR)} of a joint's range, rms"
    shares = error_shares(result, contract)
    if not shares:
        return Check(name, "", "nothing recorded", limit, "the bag holds no commands to compare with")
    joint = max(shares, key=lambda j: shares[j])
    size = quantity(result.per_joint[joint]["rmse"], joint_units(contract)[joint])
    state = _graded(shares[joint], GOOD_ERROR, MOST_ERROR)
    detail = f"{joint}: rms {size}" if shares[joint] else f"{count(result.compared, 'command')} equal"
    return Check(name, state, share(shares[joint]), limit, detail)


def _held(result: ReplayResult) -> Check:
    held = held_share(result)
    by = ", ".join(f"{n:,} {s.lower()}" for s, n in result.statuses.items())
    return Check("Held", _graded(held, 0.0, MOST_HELD), share(held), f"{_limits(0.0, MOST_HELD)} of the ticks", by)


def _masked(timeline: Timeline) -> Check:
    masked = masked_share(timeline)
    part, channels = float(masked.mean()), int((masked > 0).sum())
    detail = f"{channels} of {count(len(masked), 'channel')} at some time" if channels else "every reading was believed"
    state = "good" if part <= GOOD_MASKED else "look"
    return Check("Masked", state, share(part), f"✓ up to {share(GOOD_MASKED)}", detail)


def _surprise(timeline: Timeline, contract: Contract) -> Check:
    name, bound = "Surprise", surprise_bound(contract)
    high = timeline.series["sustained_surprise"].high
    most = float(np.nanmax(high)) if np.isfinite(high).any() else math.nan
    if not math.isfinite(bound) or math.isnan(most):
        return Check(
            name, "", number(most), "the bundle is not calibrated", "mean square innovation over half a second"
        )
    at = timeline.begin_s[int(np.nanargmax(high))]
    state = "good" if most <= bound else "bad"
    return Check(name, state, number(most), f"✓ up to {number(bound)}, from calibration", f"highest at {at:.2f} s")


def _late(result: ReplayResult, timeline: Timeline) -> Check:
    late = timeline.event_counts.get("late", 0)
    part = late / max(result.ticks, 1)
    limit = f"{_limits(GOOD_LATE, MOST_LATE)} of the ticks"
    return Check(
        "Late ticks", _graded(part, GOOD_LATE, MOST_LATE), f"{late:,}", limit, f"of {result.ticks:,} on the robot"
    )


def _bag(result: ReplayResult, timeline: Timeline) -> Check:
    counts = (
        (timeline.event_counts.get("gap", 0), "gap", ""),
        (result.skipped, "tick", " skipped"),
        (sum(t.out_of_order for t in result.topics.values()), "message", " out of order"),
        (len(result.missing), "sensor", " missing"),
        (len(result.notices), "notice", ""),
    )
    found = [count(*each) for each in counts if each[0]]
    limit = "no gaps, nothing out of order or missing"
    return Check("Bag", "look" if found else "good", found[0] if found else "whole", limit, "; ".join(found[1:]))


@dataclass(frozen=True)
class Replayed:
    """One replay, and what it was made with."""

    file: Path
    """The bundle."""
    contract: Contract
    outcome: Outcome

    @property
    def failed(self) -> bool:
        """There is no result, no timeline and no verdict then."""
        return self.outcome.result is None

    @property
    def result(self) -> ReplayResult:
        """What was found."""
        assert self.outcome.result is not None, "asked of a replay that failed"
        return self.outcome.result

    @property
    def timeline(self) -> Timeline:
        """Its course."""
        assert self.result.timeline is not None, "every replay makes one"
        return self.result.timeline

    @property
    def bag(self) -> str:
        """The name of the bag, with the folder that it lies in."""
        return "/".join(self.outcome.job.bag.absolute().parts[-2:])

    @property
    def steps(self) -> str:
        """The refinement steps that were asked for, in words."""
        asked = self.outcome.job.options.refine
        if asked is not None:
            return str(asked)
        recorded = not self.failed and self.result.mode == "telemetry"
        return "as recorded" if recorded else str(self.contract.refinement.default_steps)

    def verdict(self) -> Verdict:
        """The judgement of it."""
        return judge(self.result, self.timeline, self.contract, self.outcome.job.options)

    def to_json(self) -> dict[str, Any]:
        """Plain values: those of the outcome, with the bundle and the verdict."""
        return {
            **self.outcome.to_json(),
            "bundle": str(self.file),
            "verdict": None if self.failed else self.verdict().to_json(),
        }
