"""Sensor faults by name, applied to readings: the same ones in training, evaluation, the ROS simulator and on replay.

    KIND:TARGET[=VALUE][@START[-END]]

KIND is one of `KINDS`. TARGET is an observation, `observation.channel`, a channel (a joint's name means its encoder:
position and velocity), or `all`; several are joined by `+`. START and END are seconds; without them a fault lasts from
the beginning, or wherever its user lets faults begin, to the end.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from runtime.contract import Layout
from runtime.errors import ContractError

Effect = Callable[[np.ndarray, np.ndarray, float], None]
"""(SI values (D,), receive times (D,) int64 ns, time in s since the fault began) changed in place."""


@dataclass(frozen=True)
class Kind:
    """One kind of sensor fault."""

    what: str
    value: str
    """What VALUE is, with its unit; empty if there is none."""
    low: float
    high: float
    start: Callable[[np.ndarray, float, np.random.Generator], Effect]
    """(channels (n,), VALUE, random numbers) to what it does, tick by tick from its beginning."""
    remembers: bool = False
    """Whether it has to see the ticks before its beginning too, at negative times."""


def _lost(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    def effect(values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        values[channels] = np.nan

    return effect


def _dropout(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    def effect(values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        values[channels[rng.random(len(channels)) < value]] = np.nan

    return effect


def _stuck(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    kept: list[np.ndarray] = []

    def effect(values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        if not kept:
            kept.append(values[channels].copy())
        values[channels] = kept[0]

    return effect


def _bias(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    def effect(values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        values[channels] += value

    return effect


def _scale(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    def effect(values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        values[channels] *= value

    return effect


def _noise(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    def effect(values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        values[channels] += value * rng.standard_normal(len(channels))

    return effect


def _flip(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    return _scale(channels, -1.0, rng)


def _swap(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    half = len(channels) // 2
    turned = np.concatenate((channels[half:], channels[:half]))

    def effect(values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        values[channels] = values[turned]

    return effect


def _delay(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    past: deque[tuple[float, np.ndarray]] = deque()

    def effect(values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        past.append((time_s, values[channels].copy()))
        while len(past) > 1 and past[1][0] <= time_s - value + _SHORT_S:
            past.popleft()
        if time_s >= 0.0:
            values[channels] = past[0][1]

    return effect


def _skew(channels: np.ndarray, value: float, rng: np.random.Generator) -> Effect:
    shift = round(value * 1e9)

    def effect(values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        known = channels[stamp_ns[channels] >= 0]
        stamp_ns[known] = np.maximum(stamp_ns[known] + shift, 0)

    return effect


_SHORT_S = 1e-6
KINDS: dict[str, Kind] = {
    "lost": Kind("reads NaN", "", 0.0, 0.0, _lost),
    "dropout": Kind("each channel reads NaN now and then", "probability per tick", 0.0, 1.0, _dropout),
    "stuck": Kind("repeats the reading with which it began", "", 0.0, 0.0, _stuck),
    "bias": Kind("reads too much", "SI unit of the channel", -math.inf, math.inf, _bias),
    "scale": Kind("reads a multiple", "factor", -math.inf, math.inf, _scale),
    "noise": Kind("white noise is added", "standard deviation in the channel's SI unit", 0.0, math.inf, _noise),
    "delay": Kind("reads what was true before", "s", 0.0, 10.0, _delay, remembers=True),
    "flip": Kind("wired the wrong way: the sign is changed", "", 0.0, 0.0, _flip),
    "swap": Kind("two TARGETs, joined by +, are plugged in in the wrong order", "", 0.0, 0.0, _swap),
    "skew": Kind("its clock is off", "s", -10.0, 10.0, _skew),
}
"""Every kind of sensor fault by name."""

_SHAPE = re.compile(r"(?P<kind>\w+)(:(?P<target>[^=@]+))?(=(?P<value>[^@]*))?(@(?P<start>[\d.]+)(-(?P<end>[\d.]+))?)?")


@dataclass(frozen=True)
class Spec:
    """The parts of a fault's name."""

    text: str
    kind: str
    target: str
    value: float | None
    start_s: float
    end_s: float

    @staticmethod
    def parse(text: str, start_s: float = 0.0) -> Spec:
        """Split a name. `start_s` is when faults begin that do not say. Raises ContractError that states the form."""
        found = _SHAPE.fullmatch(text)
        if found is None:
            raise ContractError(f"fault '{text}' is not understood; expected {FORM}")
        number = found["value"]
        value = None if number is None else _number(number)
        begin, end = (None if found[n] is None else _number(found[n]) for n in ("start", "end"))
        bad = [
            t
            for t, v in ((number, value), (found["start"], begin), (found["end"], end))
            if v is not None and math.isnan(v)
        ]
        if bad:
            raise ContractError(f"fault '{text}': '{bad[0]}' is no finite number")
        first = start_s if begin is None else begin
        last = math.inf if end is None else end
        if last <= first:
            raise ContractError(f"fault '{text}' ends at {last:g} s, before it begins at {first:g} s")
        return Spec(text, found["kind"], found["target"] or "", value, first, last)


FORM = "KIND:TARGET[=VALUE][@START[-END]], e.g. lost:imu, bias:joint_1=0.1 or dropout:all=0.5@2-4"


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


@dataclass(frozen=True)
class Fault:
    """One sensor fault, resolved against a layout."""

    spec: Spec
    channels: np.ndarray
    """Indices of the affected channels."""

    @property
    def name(self) -> str:
        """As it was given."""
        return self.spec.text

    def start(self, rng: np.random.Generator) -> RunningFault:
        """The fault in one episode."""
        return RunningFault(self, rng)


class RunningFault:
    """A fault that goes through one episode."""

    def __init__(self, fault: Fault, rng: np.random.Generator) -> None:
        self._spec, self._kind = fault.spec, KINDS[fault.spec.kind]
        self._effect = self._kind.start(fault.channels, fault.spec.value or 0.0, rng)

    def apply(self, values: np.ndarray, stamp_ns: np.ndarray, time_s: float) -> None:
        """Corrupt the SI values (D,) and their receive times (D,) int64 ns in place, `time_s` into the episode.

        To be called every tick, in order.
        """
        since = time_s - self._spec.start_s + _SHORT_S
        if time_s + _SHORT_S < self._spec.end_s and (since >= 0.0 or self._kind.remembers):
            self._effect(values, stamp_ns, since)


def start_faults(texts: Iterable[str], layout: Layout) -> list[RunningFault]:
    """Faults by their names in one recording. Raises ContractError that states the accepted forms."""
    rng = np.random.default_rng(0)
    return [parse_fault(text, layout).start(rng) for text in texts]


def parse_fault(text: str, layout: Layout, start_s: float = 0.0) -> Fault:
    """Fault from its name, for the channels of `layout` (a contract's `layout`, or a task's).

    It begins at `start_s` unless it says otherwise. Required observations are spared by `all`. Raises ContractError
    that states the accepted forms.
    """
    spec = Spec.parse(text, start_s)
    kind = KINDS.get(spec.kind)
    if kind is None or not spec.target:
        raise ContractError(
            f"fault '{text}' is not understood; expected {FORM}, where KIND is one of {', '.join(KINDS)}"
        )
    if (spec.value is None) != (not kind.value):
        wanted = f"'{spec.kind}:TARGET=VALUE' ({kind.value})" if kind.value else f"'{spec.kind}:TARGET' without a value"
        raise ContractError(f"fault '{text}' is not understood; expected {wanted}")
    if spec.value is not None and not kind.low <= spec.value <= kind.high:
        raise ContractError(
            f"fault '{text}': got {spec.value:g}, expected {kind.low:g} to {kind.high:g} ({kind.value})"
        )
    found: list[np.ndarray] = []
    for target in spec.target.split("+"):
        if target == "all":
            found += [layout.channel_indices(o.name) for o in layout.observations if not o.required]
        else:
            found.append(layout.channel_indices(target))
    if not found:
        raise ContractError(f"fault '{text}': every observation is required, so 'all' spares them all; name one")
    channels = np.concatenate(found)
    if spec.kind == "swap":
        if len(found) != 2 or len(found[0]) != len(found[1]):
            raise ContractError(f"fault '{text}': expected two targets of as many channels, joined by +")
        return Fault(spec, channels)
    return Fault(spec, np.unique(channels))
