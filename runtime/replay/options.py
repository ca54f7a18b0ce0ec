"""How a bag is replayed."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import BagError

MODES = ("auto", "telemetry", "raw")


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

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BagError(f"replay mode '{self.mode}' is unknown; expected one of {', '.join(MODES)}")

    @property
    def counterfactual(self) -> bool:
        """Whether something is asked for that did not happen, so that the actions need not be the recorded ones."""
        return bool(self.faults) or self.refine is not None
