"""How a bag is replayed."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import BagError

MODES = ("auto", "telemetry", "raw")
CLOCKS = ("receive", "header")
ALIGNMENTS = ("hold", "asof", "drop")


@dataclass(frozen=True)
class ReplayOptions:
    """What the user may choose. Raises BagError on a choice that does not exist."""

    mode: str = "auto"
    """`telemetry`: the recorded ticks; `raw`: the sensor topics alone; `auto`: telemetry if it is this bundle's."""
    namespace: str = ""
    """Look only at the topics below this one, to choose one robot of several."""
    faults: tuple[str, ...] = ()
    """Sensor faults of `runtime.faults` that strike the recorded readings, by the time since the recording began."""
    refine: int | None = None
    """Refinement steps of every tick; as recorded, or the bundle's default in raw mode, if None."""
    remap: tuple[str, ...] = ()
    """`CONTRACT_TOPIC:=BAG_TOPIC` for every topic that the bag calls otherwise."""
    clock: str = "receive"
    """Which time a reading has in raw mode: `receive`, when it was recorded, or `header`, the stamp in it."""
    align: str = "hold"
    """What a tick sees in raw mode, see `runtime.replay.align`: `hold`, `asof` or `drop`."""

    def __post_init__(self) -> None:
        for what, value, known in (
            ("mode", self.mode, MODES),
            ("clock", self.clock, CLOCKS),
            ("alignment", self.align, ALIGNMENTS),
        ):
            if value not in known:
                raise BagError(f"replay {what} '{value}' is unknown; expected one of {', '.join(known)}")
        for text in self.remap:
            if not all(text.partition(":=")[::2]) or text.count(":=") != 1:
                raise BagError(f"remap '{text}' is not understood; expected CONTRACT_TOPIC:=BAG_TOPIC")

    @property
    def remaps(self) -> dict[str, str]:
        """The bag's name by the contract's topic, without a leading slash."""
        pairs = (text.split(":=") for text in self.remap)
        return {topic.lstrip("/"): name for topic, name in pairs}

    @property
    def counterfactual(self) -> bool:
        """Whether something is asked for that did not happen, so that the actions need not be the recorded ones."""
        return bool(self.faults) or self.refine is not None
