"""The contract: everything a deployment needs to know, carried as JSON inside the ONNX file.

Joints are matched by name, quantities are SI, and nothing is passed by hand. The classes are frozen;
`Contract.from_json` refuses what does not fit and says what was expected.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from runtime.errors import ContractError
from runtime.migration import check_version
from runtime.schema import from_plain, to_plain

VERSION = 3
ACTION_KINDS = ("position", "velocity", "effort")
ACTION_MODES = ("absolute", "increment")
SAFE_ACTIONS = ("hold", "zero")
PRECISIONS = ("fp32", "fp16", "int8-dynamic", "int8")
REFINEMENT_METHODS = ("hold", "amortized", "gradient", "diagonal", "gauss_newton")
WITHOUT_STEPS = ("hold", "amortized")
"""Of these, the ones that find the belief at once."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1e-3, 1e6
_LONGEST_AGE_S = 3600.0
_MOST_STEPS = 1000  # a tick of more would never end in time
_LARGEST = 1e9  # no quantity of a robot is larger in SI units, and float32 arithmetic on those that are overflows


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


def _same_length(owner: str, names: tuple[str, ...], **columns: tuple[float, ...]) -> None:
    for column, values in columns.items():
        _require(
            len(values) == len(names),
            f"{owner}: {column} has {len(values)} values for {len(names)} channels {list(names)}; give one per channel",
        )
        _bounded(f"{owner}: {column}", values)


def _bounded(what: str, values: tuple[float, ...]) -> None:
    _require(
        all(abs(v) <= _LARGEST for v in values), f"{what} must be finite, {_LARGEST:g} at most, got {list(values)}"
    )


def _positive(owner: str, **columns: tuple[float, ...]) -> None:
    for column, values in columns.items():
        _require(
            all(v >= 1 / _LARGEST for v in values),
            f"{owner}: {column} must be positive, {1 / _LARGEST:g} at least, got {list(values)}",
        )


@dataclass(frozen=True)
class Observation:
    """One group of sensor channels that arrives together."""

    name: str
    """Unique name, e.g. `joint_position`."""
    kind: str
    """What it is; a key of `runtime.messages.KINDS`, which fixes the ROS message type."""
    topic: str
    """Relative ROS topic."""
    channels: tuple[str, ...]
    """Joint names, or axes such as `x, y, z`."""
    unit: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    """Normalised value = (SI value - mean) / scale."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """Valid range in SI units; a value outside is not believed."""
    max_age_s: float
    """Older readings are not believed."""
    min_valid: int
    """Fewest believed channels with which the agent may still act; all of them makes the observation required."""

    def __post_init__(self) -> None:
        owner = f"observation '{self.name}'"
        _require(len(self.channels) > 0, f"{owner} has no channels; name at least one")
        _require(
            len(set(self.channels)) == len(self.channels),
            f"{owner} repeats a channel: {list(self.channels)}; name each once",
        )
        _same_length(owner, self.channels, mean=self.mean, scale=self.scale, low=self.low, high=self.high)
        _positive(owner, scale=self.scale)
        _require(all(a < b for a, b in zip(self.low, self.high)), f"{owner}: low must be below high in every channel")
        _require(
            0 < self.max_age_s <= _LONGEST_AGE_S,
            f"{owner}: max_age_s is {self.max_age_s}, expected more than 0 and at most {_LONGEST_AGE_S:g}",
        )
        _require(
            0 <= self.min_valid <= len(self.channels),
            f"{owner}: min_valid is {self.min_valid}, expected 0 to {len(self.channels)}",
        )

    @property
    def required(self) -> bool:
        """True if every channel must be believed before the agent may act."""
        return self.min_valid == len(self.channels)


@dataclass(frozen=True)
class Action:
    """What the agent commands. SI command = offset + scale * a (+ the previous command, in increment mode)."""

    kind: str
    """`position`, `velocity` or `effort`."""
    mode: str
    """`absolute`, or `increment`: the scaled action is added to the previous command."""
    topic: str
    joints: tuple[str, ...]
    unit: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    """Limits of the command, in its unit."""
    max_rate: tuple[float, ...]
    """Largest change of the command per second, in unit/s."""
    safe: str
    """`hold` repeats the last command, `zero` commands zero."""

    def __post_init__(self) -> None:
        _require(self.kind in ACTION_KINDS, f"action kind '{self.kind}' is unknown; expected one of {ACTION_KINDS}")
        _require(self.mode in ACTION_MODES, f"action mode '{self.mode}' is unknown; expected one of {ACTION_MODES}")
        _require(self.safe in SAFE_ACTIONS, f"safe action '{self.safe}' is unknown; expected one of {SAFE_ACTIONS}")
        _require(
            not (self.mode == "increment" and self.kind != "position"),
            f"action mode 'increment' needs kind 'position', got '{self.kind}'",
        )
        _require(len(self.joints) > 0, "the action has no joints; name at least one")
        _require(len(set(self.joints)) == len(self.joints), f"the action repeats a joint: {list(self.joints)}")
        _same_length(
            "action",
            self.joints,
            scale=self.scale,
            offset=self.offset,
            low=self.low,
            high=self.high,
            max_rate=self.max_rate,
        )
        _positive("action", scale=self.scale, max_rate=self.max_rate)
        _require(all(a < b for a, b in zip(self.low, self.high)), "action: low must be below high for every joint")


@dataclass(frozen=True)
class Node:
    """One node of the latent graph; parents come earlier in the list."""

    name: str
    size: int
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """A float32 tensor that the graph carries from tick to tick: input `state.NAME`, output `next.NAME`."""

    name: str
    shape: tuple[int, ...]
    initial: tuple[float, ...]
    """Row-major initial value."""

    def __post_init__(self) -> None:
        _require(
            all(n > 0 for n in self.shape), f"state '{self.name}' has shape {list(self.shape)}, expected sizes > 0"
        )
        size = math.prod(self.shape)
        _require(
            len(self.initial) == size,
            f"state '{self.name}': {len(self.initial)} initial values for shape {list(self.shape)}, expected {size}",
        )
        _bounded(f"state '{self.name}': initial", self.initial)


@dataclass(frozen=True)
class Refinement:
    """How many predictive-coding steps may follow the amortized answer, and of which kind."""

    method: str
    """One of REFINEMENT_METHODS; those in WITHOUT_STEPS take no steps."""
    default_steps: int
    max_steps: int
    step_sizes: tuple[float, ...]
    """Of the steps 1 to max_steps, as multiples of the method's own step; empty if the method has none."""
    covariance_block: int
    """Size of the diagonal blocks in which the posterior covariance is carried; 0 if it is not carried."""

    def __post_init__(self) -> None:
        _require(
            self.max_steps <= _MOST_STEPS, f"refinement: max_steps is {self.max_steps}, expected at most {_MOST_STEPS}"
        )
        _require(
            self.method in REFINEMENT_METHODS,
            f"refinement: method '{self.method}' is unknown; expected one of {REFINEMENT_METHODS}",
        )
        _require(
            0 <= self.default_steps <= self.max_steps,
            f"refinement: default_steps is {self.default_steps}, expected 0 to max_steps = {self.max_steps}",
        )
        _require(
            self.method not in WITHOUT_STEPS or self.max_steps == 0,
            f"refinement: max_steps is {self.max_steps}, expected 0 for the method '{self.method}', which takes no "
            "steps",
        )
        _require(
            len(self.step_sizes) in (0, self.max_steps),
            f"refinement: {len(self.step_sizes)} step_sizes, max_steps is {self.max_steps}; give one per step or none",
        )
        _require(
            all(0 < s < math.inf for s in self.step_sizes),
            f"refinement: step_sizes must be positive and finite, got {list(self.step_sizes)}",
        )
        _require(
            self.covariance_block >= 0,
            f"refinement: covariance_block is {self.covariance_block}, expected 0 or more",
        )


@dataclass(frozen=True)
class HealthAt:
    """Quantiles on held-out data at one number of refinement steps."""

    free_energy: tuple[float, ...]
    """Per level, in nats."""
    innovation: dict[str, tuple[float, ...]]
    """Per `observation.channel`: |innovation| in standard deviations, per level."""
    surprise: tuple[float, ...]
    """Per level, see `runtime.surprise`."""
    sustained: float
    """Largest average of the surprise over half a second."""


@dataclass(frozen=True)
class Health:
    """Calibration of the model's surprise."""

    levels: tuple[float, ...] = ()
    ticks: int = 0
    refine: dict[str, HealthAt] = field(default_factory=dict)
    """Per number of refinement steps, as text."""


@dataclass(frozen=True)
class ChannelCheck:
    """When the readings of one channel are not believed although they arrive; zero switches a check off."""

    spike: float
    """|innovation| of one tick, in predicted standard deviations."""
    drift: float
    """|slow mean of the innovation|, in its own standard deviations."""
    repeats: int
    """Exact repeats of a fresh reading that mean frozen."""
    gate_false_alarm: float
    frozen_false_alarm: float
    """Fraction of the nominal held-out ticks in which the check masked the channel."""


@dataclass(frozen=True)
class SensorChecks:
    """The checks that the graph makes of its own sensors, and how often they are wrong."""

    ticks: int = 0
    """Nominal held-out ticks behind the false-alarm rates."""
    channels: dict[str, ChannelCheck] = field(default_factory=dict)
    """Per `observation.channel`."""

    def __post_init__(self) -> None:
        _require(self.ticks >= 0, f"checks: ticks is {self.ticks}, expected 0 or more")
        for channel, check in self.channels.items():
            for name, value in vars(check).items():
                largest, expected = (1, "0 to 1") if name.endswith("_false_alarm") else (math.inf, "0 or more, finite")
                _require(
                    0 <= value <= largest and math.isfinite(value),
                    f"checks: {name} of '{channel}' is {value}, expected {expected}",
                )


@dataclass(frozen=True)
class Provenance:
    """Where the bundle came from."""

    task: str
    algorithm: str
    seed: int
    steps: int
    command: str
    commit: str
    created: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Parity:
    """What the export gate compared with onnxruntime, in normalised units: torch, or, for a bundle of another precision
    than fp32, the fp32 bundle that it was made of.
    """

    observations: int
    refine: tuple[int, ...]
    masked_fraction: float
    tolerance: float
    max_difference: float
    sequence_ticks: int = 0
    """Ticks in a row, with sensor faults, over which each of the two carried its own state."""


@dataclass(frozen=True)
class Quality:
    """How well a bundle controls in simulation."""

    success_rate: float
    return_mean: float
    active_rate: float
    """Fraction of the ticks in which the agent acted."""


@dataclass(frozen=True)
class Control:
    """What the gate of control quality compared: a converted bundle with the one that it was made of."""

    episodes: int
    """Nominal held-out episodes, the same for both."""
    own: Quality
    reference: Quality
    margin: float
    """Largest loss allowed: of the rates, and of the mean return as a fraction of the reference's."""


@dataclass(frozen=True)
class Precision:
    """In which numbers the large layers of the networks compute; inputs, outputs and all else are float32."""

    name: str = "fp32"
    """One of PRECISIONS."""
    layers: int = 0
    """Layers that compute so."""
    sensitive: int = 0
    """Large layers that were left in float32, since parity would not have held with them."""
    source: str = ""
    """Digest of the fp32 bundle that it was made of; empty for fp32."""
    control: Control | None = None

    def __post_init__(self) -> None:
        _require(self.name in PRECISIONS, f"precision '{self.name}' is unknown; expected one of {PRECISIONS}")


@dataclass(frozen=True)
class Contract:
    """The whole contract of a bundle."""

    robot: str
    rate_hz: float
    observations: tuple[Observation, ...]
    action: Action
    nodes: tuple[Node, ...]
    acting_node: str
    states: tuple[State, ...]
    refinement: Refinement
    health: Health
    provenance: Provenance
    checks: SensorChecks = SensorChecks()
    parity: Parity | None = None
    precision: Precision = Precision()
    digest: str = ""
    """sha256 of the serialised graph."""
    version: int = VERSION

    def __post_init__(self) -> None:
        _require(self.version == VERSION, f"contract version is {self.version}, expected {VERSION}")
        _require(
            LOWEST_RATE_HZ <= self.rate_hz <= HIGHEST_RATE_HZ,
            f"rate_hz must be positive, got {self.rate_hz}; expected {LOWEST_RATE_HZ:g} to {HIGHEST_RATE_HZ:g}",
        )
        _require(len(self.observations) > 0, "the contract has no observations")
        names = [o.name for o in self.observations]
        _require(len(set(names)) == len(names), f"observation names repeat: {names}")
        seen: set[str] = set()
        for node in self.nodes:
            unknown = [p for p in node.parents if p not in seen]
            _require(not unknown, f"node '{node.name}': parents {unknown} are not listed before it")
            seen.add(node.name)
        _require(self.acting_node in seen, f"acting_node '{self.acting_node}' is not one of the nodes {sorted(seen)}")
        strange = [c for c in self.checks.channels if c not in self.layout.channels]
        _require(not strange, f"checks: {strange} are no channels; expected some of {list(self.layout.channels)}")

    @cached_property
    def layout(self) -> Layout:
        """Where each observation lies in the flat vectors of one tick."""
        return Layout(self.observations, self.action)

    def to_json(self) -> str:
        """Compact JSON text."""
        return json.dumps(to_plain(self), separators=(",", ":"), allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Contract:
        """Parse and check. Raises ContractError that names the field, what was got and what was expected."""
        try:
            plain: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ContractError(f"the contract is not JSON ({error}); export the agent again") from error
        check_version(plain, VERSION)
        return from_plain(Contract, plain, "contract")


class Layout:
    """Flat arrays of length D (all observation channels in order) and A (joints), made once.

    From a contract's observations and action, or from those of a simulated task.
    """

    def __init__(self, observations: tuple[Observation, ...], action: Action) -> None:
        self.observations = observations
        self.slices: dict[str, slice] = {}
        start = 0
        for o in observations:
            self.slices[o.name] = slice(start, start + len(o.channels))
            start += len(o.channels)
        self.size = start
        """D, the number of observation channels."""
        self.channels = tuple(f"{o.name}.{c}" for o in observations for c in o.channels)
        """`observation.channel` for every one of the D channels."""

        def flat(attribute: str) -> np.ndarray:
            return np.array([v for o in observations for v in getattr(o, attribute)], dtype=np.float64)

        self.mean, self.scale, self.low, self.high = (flat(a) for a in ("mean", "scale", "low", "high"))
        self.max_age_ns = np.array([o.max_age_s * 1e9 for o in observations for _ in o.channels], dtype=np.int64)
        self.min_valid = np.array([o.min_valid for o in observations], dtype=np.int64)
        self.starts = np.array([s.start for s in self.slices.values()], dtype=np.int64)
        """First channel of every observation."""
        self.joints = len(action.joints)
        """A, the number of commanded joints."""

    def channel_indices(self, target: str) -> np.ndarray:
        """Indices of the channels that `target` names: an observation, `observation.channel`, or a channel (joint or
        axis) of any observation. Raises ContractError if there is none.
        """
        found = [i for i, c in enumerate(self.channels) if target in (c, c.split(".", 1)[0], c.split(".", 1)[1])]
        if not found:
            raise ContractError(f"'{target}' names no sensor channel; expected one of {', '.join(self.channels)}")
        return np.array(found, dtype=np.int64)
