"""Replay a bag: tick for tick when the controller's telemetry was recorded, on the raw sensor topics otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.errors import BagError
from runtime.replay.bags import Bag, Progress
from runtime.replay.compare import ReplayResult
from runtime.replay.options import ReplayOptions
from runtime.replay.raw import replay_raw
from runtime.replay.recorded import MESSAGE_TYPE, replay_telemetry
from runtime.replay.ticking import Ticking
from runtime.replay.timeline import Observer
from runtime.telemetry import labels

_DEFAULT = ReplayOptions()
_TELEMETRY = "telemetry"


def replay(
    bag: Path,
    bundle: Bundle,
    options: ReplayOptions = _DEFAULT,
    progress: Progress | None = None,
    observers: Sequence[Observer] = (),
) -> ReplayResult:
    """Run the bundle's controller on a recording and compare the commands.

    Every tick is shown to the `observers`, see `runtime.replay.timeline`; `progress` is called with the seconds of
    the bag that are done, and all. The bag is streamed, so its length does not matter. Raises BagError if the bag
    cannot be read, is of another robot or bundle, or lacks what the contract needs, and ContractError for a fault or a
    number of refinement steps that the bundle does not know.
    """
    _check_remaps(options.remaps, bundle.contract)
    with Bag(bag, options.namespace, options.remaps) as opened:
        ticking = Ticking(bundle, options, observers, opened.start_ns)
        try:
            result = _replay(opened, ticking, options, progress)
        except BagError as error:
            if not opened.notices:
                raise
            raise BagError(f"{error}; beware: {'; '.join(opened.notices)}") from error
        return replace(result, refine=options.refine, notices=(*opened.notices, *result.notices))


def _replay(bag: Bag, ticking: Ticking, options: ReplayOptions, progress: Progress | None) -> ReplayResult:
    contract = ticking.controller.contract
    topic = None if options.mode == "raw" else find_telemetry(bag, contract, required=options.mode == "telemetry")
    if topic is not None:
        return replay_telemetry(bag, topic, ticking, options, progress)
    return replay_raw(bag, ticking, options, progress)


def _check_remaps(remaps: dict[str, str], contract: Contract) -> None:
    known = {o.topic.lstrip("/") for o in contract.observations} | {contract.action.topic.lstrip("/"), _TELEMETRY}
    for topic in remaps:
        if topic not in known:
            raise BagError(f"'{topic}' cannot be remapped: the bundle has the topics {', '.join(sorted(known))}")


def find_telemetry(bag: Bag, contract: Contract, required: bool) -> str | None:
    """The topic of this bundle's telemetry; None if there is none and it is not `required`."""
    if not required and not bag.offers(_TELEMETRY, MESSAGE_TYPE):
        return None
    topic = bag.find(_TELEMETRY, MESSAGE_TYPE)
    if topic is None:
        raise BagError(f"{bag.path} holds no telemetry of a controller; it has {bag.contents()}")
    digest = _recorded_digest(bag, f"{topic.rpartition('/')[0]}/contract")
    first = next(bag.records({topic}), None)
    if first is None:
        raise BagError(f"{bag.path} breaks before the first message of '{topic}'; copy or record it again")
    size = len(first.message.data)
    if size == len(labels(contract)) and digest in ("", contract.digest):
        return topic
    if required:
        raise BagError(
            f"{bag.path}: '{topic}' was recorded with another bundle (graph {digest[:12] or 'unknown'}, {size} numbers "
            f"per tick; this one: graph {contract.digest[:12]}, {len(labels(contract))} numbers); replay it with that "
            "bundle, or with --mode raw"
        )
    return None


def _recorded_digest(bag: Bag, topic: str) -> str:
    """Digest of the bundle that was running; empty if the bag does not tell."""
    for record in bag.records({topic} if bag.topics.get(topic) == "std_msgs/msg/String" else ()):
        with suppress(ValueError, AttributeError):
            return str(json.loads(record.message.data).get("digest", ""))
    return ""
