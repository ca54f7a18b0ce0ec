"""Replay a bag: tick for tick when the controller's telemetry was recorded, on the raw sensor topics otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.errors import BagError
from runtime.replay.bags import Bag
from runtime.replay.compare import ReplayResult
from runtime.replay.raw import replay_raw
from runtime.replay.recorded import MESSAGE_TYPE, replay_telemetry
from runtime.telemetry import labels

MODES = ("auto", "telemetry", "raw")
_TELEMETRY = "telemetry"


def replay(
    bag: Path,
    bundle: Bundle,
    progress: Callable[[float], None] | None = None,
    mode: str = "auto",
    namespace: str = "",
) -> ReplayResult:
    """Run the bundle's controller on a recording and compare the commands.

    Mode `auto` uses the telemetry if the bag holds some that fits the contract. `progress` is called with the seconds
    of recording done; `namespace` chooses one robot of several. The bag is streamed, so its length does not matter.
    Raises BagError if the bag cannot be read, is of another robot or bundle, or lacks what the contract needs.
    """
    if mode not in MODES:
        raise BagError(f"replay mode '{mode}' is unknown; expected one of {', '.join(MODES)}")
    with Bag(bag, namespace) as opened:
        topic = None if mode == "raw" else find_telemetry(opened, bundle.contract, required=mode == "telemetry")
        if topic is not None:
            return replay_telemetry(opened, topic, bundle, progress)
        return replay_raw(opened, bundle, progress)


def find_telemetry(bag: Bag, contract: Contract, required: bool) -> str | None:
    """The topic of the controller's telemetry; None if there is none that fits and it is not `required`."""
    if required or bag.offers(_TELEMETRY, MESSAGE_TYPE):
        topic = bag.find(_TELEMETRY, MESSAGE_TYPE)
        if topic is None:
            raise BagError(f"{bag.path} holds no telemetry of a controller; it has {bag.contents()}")
        first = next(iter(bag.records({topic})))
        if required or len(first.message.data) == len(labels(contract)):
            return topic
    return None
