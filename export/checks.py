"""Calibration of the sensor checks, so that they hardly ever mask a channel of a robot whose sensors are well.

The bounds come from episodes with sensors that are well and the checks off, which are then replayed with the checks
on, as often as needed; what the bounds do wrong is measured on other episodes, flown with the checks on, since a masked
channel changes what the robot does. Who flies the episodes does not matter here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from export.record import HELD_OUT, record_healthy
from runtime.bundle import Bundle
from runtime.contract import ChannelCheck, Contract, Observation, SensorChecks
from runtime.errors import GanglionError
from sim.tasks import NOMINAL, task_class
from training.agent.agent import Agent
from training.agent.sensors import AGES, AVERAGES, DISTRUSTED, FROZEN, OFF, REPEATS, SensorBelief, matched

LARGEST_FALSE_ALARM = 1e-3
"""Fraction of a channel's nominal ticks: the goal for episodes that the calibration has not seen."""
_AIM = 0.5 * LARGEST_FALSE_ALARM  # of a calibration: a rate from few episodes is no more exact than that
_RARE = 1e-4  # fraction of the first flight's ticks that may exceed the first bounds, or mask a channel in a replay
_REPLAYED, _STARTS = max(AGES), 64  # ticks of a replay, and replays
_BIAS = 3.0  # predicted standard deviations
_LEAST = 4.5  # standard deviations
_REPEATS = range(2, 101)  # one second at 100 Hz is too late to be of use
_RAISES = (1.1,) * 10 + (1.5,) * 5  # a gross bias is still seen by bounds twenty times as high

Ticks = Mapping[str, np.ndarray]
"""Nominal ticks: what the agent was given and what it found, by the names of the graph, and the `tick` (N,) of each
since its episode began."""


@dataclass(frozen=True)
class Bounds:
    """What `SensorBelief` holds; OFF is a check that is off."""

    spike: np.ndarray
    """(D,)."""
    drift: np.ndarray
    """(ages, D)."""
    repeats: np.ndarray
    """(D,)."""

    @classmethod
    def off(cls, channels: int) -> Bounds:
        """Every check off."""
        return cls(*(np.full(size, OFF) for size in (channels, (len(AGES), channels), channels)))

    def put(self, sensors: SensorBelief) -> None:
        """Let `sensors` check by these bounds."""
        for name, values in vars(self).items():
            getattr(sensors, name).copy_(torch.from_numpy(values))

    def raised(self, by: float, gate: np.ndarray, frozen: np.ndarray) -> Bounds:
        """Multiplied by `by` for the channels (D,) bool of each check."""
        return Bounds(
            np.where(gate, by * self.spike, self.spike),
            np.where(gate, by * self.drift, self.drift),
            np.where(frozen, np.ceil(by * self.repeats), self.repeats),
        )

    def without(self, gate: np.ndarray, frozen: np.ndarray) -> Bounds:
        """Off for the channels (D,) bool of each check."""
        off = [np.where(w, OFF, b) for w, b in ((gate, self.spike), (gate, self.drift), (frozen, self.repeats))]
        return Bounds(*off)


@dataclass(frozen=True)
class Calibration:
    """Bounds, and what they did in the last nominal episodes."""

    bounds: Bounds
    gate: np.ndarray
    """Fraction (D,) of the ticks in which the gate masked the channel."""
    frozen: np.ndarray
    """Fraction (D,) of the ticks in which the channel was found frozen."""
    ticks: int
    switched_off: np.ndarray
    """Channels (D,) bool with a check that raised bounds could not keep quiet."""


def calibrate_bounds(
    agent: Agent, steps: int, fly: Callable[[int], Ticks], observations: tuple[Observation, ...]
) -> Calibration:
    """Set `agent.sensors` so that no channel is masked in more than half of `LARGEST_FALSE_ALARM` of nominal ticks.

    `fly(attempt)` flies the agent at K = `steps`; every attempt, counted from 0, needs its own episodes, and all but
    the first are asked for the verdict alone. A check that is wrong too often has its bounds raised by a tenth, after
    ten times by half; after fifteen times it is switched off.
    """
    switched_off = np.zeros(agent.observation_size, dtype=bool)
    Bounds.off(agent.observation_size).put(agent.sensors)
    nominal = fly(0)
    required = np.array([o.required for o in observations for _ in o.channels])
    agent.sensors.signature.copy_(torch.from_numpy(find_signatures(agent, steps, nominal, required)))
    bounds = find_bounds(agent.sensors, nominal).without(required, required)
    bounds = quiet_in_replay(agent, steps, nominal, bounds)
    for attempt in itertools.count(1):
        bounds.put(agent.sensors)
        flown = fly(attempt)
        gate, frozen = _rates(flown["verdict"])
        noisy = (gate > _AIM, frozen > _AIM)
        if not np.any(noisy):
            break
        if attempt <= len(_RAISES):
            bounds = bounds.raised(_RAISES[attempt - 1], *noisy)
        else:
            bounds = bounds.without(*noisy)
            switched_off |= np.any(noisy, axis=0)
    return Calibration(bounds, gate, frozen, len(flown["verdict"]), switched_off)


def _rates(verdict: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractions (D,) of the ticks in which each channel of a verdict (N, D) is gated, and found frozen."""
    return (verdict == DISTRUSTED).mean(0), (verdict == FROZEN).mean(0)


def quiet_in_replay(agent: Agent, steps: int, nominal: Ticks, bounds: Bounds) -> Bounds:
    """`bounds` raised until a replay of the nominal ticks hardly masks any channel, as far as fifteen raises go."""
    for by in _RAISES:
        bounds.put(agent.sensors)
        gate, frozen = _rates(replay(agent, steps, nominal))
        noisy = (gate > _RARE, frozen > _RARE)
        if not np.any(noisy):
            break
        bounds = bounds.raised(by, *noisy)
    return bounds


@torch.no_grad()
def replay(agent: Agent, steps: int, flown: Ticks) -> np.ndarray:
    """Verdicts (N, D) on the readings of N flown ticks, all episodes side by side.

    A channel that is masked changes the belief, but not what the robot did.
    """
    tick = flown["tick"]
    begin = np.flatnonzero(tick == 0)
    episode = np.repeat(np.arange(len(begin)), np.diff(begin, append=len(tick)))

    def given(name: str) -> torch.Tensor:
        """(ticks of the longest episode, episodes, ...)."""
        padded = np.zeros((tick.max() + 1, len(begin), *flown[name].shape[1:]), flown[name].dtype)
        padded[tick, episode] = flown[name]
        return torch.from_numpy(padded).to(agent.log_std)

    state, k = agent.initial(len(begin)), torch.full((len(begin),), steps)
    verdicts = []
    for x, mask, action, fresh in zip(*map(given, ("observation", "mask", "previous_action", "fresh"))):
        belief = agent.infer(x, mask, action, state, k, fresh)
        state = belief.state
        verdicts.append(belief.start.verdict.numpy())
    return np.stack(verdicts)[tick, episode]


def _drift(sensors: SensorBelief, averages: torch.Tensor) -> np.ndarray:
    """What `SensorBelief.drift` bounds, (N, ages, D), for averages (N, 2, D) while nothing is gated."""
    none = torch.zeros_like(averages[:, 0])
    return np.asarray(sensors.resemblance(averages, none, none).numpy())


def calibrate_checks(
    agent: Agent,
    bundle_of: Callable[[Agent], Bundle],
    task: str,
    seed: int,
    report: Callable[[str], None],
    workers: int = 1,
    ticks: int = 100_000,
    worlds: Sequence[str] = (NOMINAL,),
) -> tuple[Bundle, SensorChecks]:
    """Set the bounds of `agent.sensors`; the bundle that `bundle_of` makes of it, and what its checks do.

    Each attempt flies new episodes of the bundle in `worlds`, of `ticks` ticks in all if none ends early, in so many
    `workers`.
    `report` is told of each attempt, and which channels lose a check.
    """
    episodes = max(1, round(ticks / task_class(task).episode_steps))
    drafts: list[Bundle] = []

    def fly(attempt: int) -> Ticks:
        report(f"calibrate the sensor checks, attempt {attempt + 1}")
        drafts.append(bundle_of(agent))
        first = seed + (3 + attempt) * HELD_OUT
        names = ("verdict",) if attempt else None
        seeds = range(first, first + episodes)
        recording = record_healthy(drafts[-1], task, seeds, workers=workers, names=names, worlds=worlds)
        return recording.arrays | {"tick": recording.tick}

    found = calibrate_bounds(agent, agent.config.inference.default_steps, fly, task_class(task).observations)
    contract = drafts[-1].contract
    if found.switched_off.any():
        channels = ", ".join(itertools.compress(contract.layout.channels, found.switched_off))
        report(f"switch a sensor check off, it is wrong too often: {channels}")
    return drafts[-1], _checks(found, contract)


@torch.no_grad()
def find_signatures(agent: Agent, steps: int, nominal: Ticks, required: np.ndarray) -> np.ndarray:
    """`SensorBelief.signature` (2 D, ages D), zero for the `required` channels (D,) bool; the checks are off.

    Nominal ticks are replayed, as they were and with a bias, from where the agent then stood. Raises GanglionError if
    no episode lasts as long.
    """
    channels, tick = agent.observation_size, nominal["tick"]
    starts = np.linspace(0, max(len(tick) - _REPLAYED, 0), _STARTS).astype(np.int64)
    last = np.minimum(starts + _REPLAYED, len(tick)) - 1
    starts = starts[tick[last] - tick[starts] == _REPLAYED - 1]
    if not len(starts):
        raise GanglionError(
            f"the sensor checks cannot be calibrated: no nominal episode was seen to last {_REPLAYED} ticks; "
            f"train the agent longer, or make the task's episodes longer"
        )

    def given(name: str, at: np.ndarray) -> torch.Tensor:
        """(1 + D rows for each start, ...): the first is as it was."""
        return torch.from_numpy(nominal[name][at]).to(agent.log_std).repeat_interleave(channels + 1, 0)

    state = {name: given(f"state.{name}", starts) for name in agent.initial()}
    k, found = torch.full((len(starts) * (channels + 1),), steps), []
    std = agent.method.predict(agent.model, state, given("previous_action", starts)).variance.sqrt()
    bias = _BIAS * std * torch.eye(channels + 1, channels).roll(1, 0).to(std).repeat(len(starts), 1)
    for t in range(_REPLAYED):
        x, mask, action = (given(n, starts + t) for n in ("observation", "mask", "previous_action"))
        state = agent.infer(x + bias, mask, action, state, k, torch.ones_like(x)).state
        if t + 1 in AGES:
            averages = state["sensors"][:, AVERAGES].unflatten(0, (len(starts), channels + 1))
            moved = (averages[:, 1:] - averages[:, :1]).mean(0)  # (biased channel, 2, D)
            found.append(matched(moved.permute(1, 2, 0)).flatten(0, 1).numpy() * ~required)
    return np.concatenate(found, axis=1)


def find_bounds(sensors: SensorBelief, nominal: Ticks) -> Bounds:
    """Bounds that nominal ticks with the checks off hardly ever exceed."""
    carried = nominal["state.sensors"]
    drift = _drift(sensors, torch.from_numpy(carried[:, AVERAGES]).to(sensors.signature))
    rare = [np.quantile(values, 1 - _RARE, axis=0) for values in (np.abs(nominal["innovation"]), drift)]
    spike, drift = (np.maximum(_LEAST, values) for values in rare)
    return Bounds(spike, drift, _fewest_repeats(carried[:, REPEATS]))


def _fewest_repeats(seen: np.ndarray) -> np.ndarray:
    """For repeats so far (N, D), the fewest (D,) that hardly any tick has reached, OFF if there are none."""
    rare = np.array([(seen >= n).mean(0) < _RARE for n in _REPEATS])
    return np.where(rare.any(0), _REPEATS.start + rare.argmax(0), OFF)


def _checks(found: Calibration, contract: Contract) -> SensorChecks:
    """The contract's words for it, in which zero is off."""
    bounds = (found.bounds.spike, found.bounds.drift.min(0), found.bounds.repeats)
    spike, drift, repeats = (np.where(b < OFF, b, 0.0).tolist() for b in bounds)
    rows = zip(spike, drift, map(int, repeats), found.gate.tolist(), found.frozen.tolist())
    return SensorChecks(found.ticks, {c: ChannelCheck(*row) for c, row in zip(contract.layout.channels, rows)})
