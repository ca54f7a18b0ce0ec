"""Bags as the ticks of a controller: what it would have seen at its rate, and what was commanded."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from runtime.commands import READABLE, read_command
from runtime.contract import Layout
from runtime.errors import BagError, GanglionError
from runtime.files import write_bytes
from runtime.messages import deliver, topics
from runtime.replay.bags import Bag
from runtime.sample import NEVER, Sample
from runtime.sensing import mask_reasons
from training.robot import RecordedRobot

_LONGEST_GAP_NS = 10_000_000_000  # after a longer silence a new recording begins


@dataclass(frozen=True)
class Ticks:
    """N ticks, recording after recording, in time order."""

    now_ns: np.ndarray
    """When each tick was (N,) int64, by the bag's receive times."""
    values: np.ndarray
    """Latest reading of every channel (N, D), SI; NaN before the first one."""
    stamp_ns: np.ndarray
    """When it was received (N, D) int64, NEVER before."""
    command: np.ndarray
    """Latest recorded command (N, A), SI; NaN before the first one. It was given after the tick before."""
    first: np.ndarray
    """(N,) bool, true where a recording begins."""

    def __len__(self) -> int:
        return len(self.now_ns)

    def __getitem__(self, rows: slice | np.ndarray) -> Ticks:
        return Ticks(**{name: array[rows] for name, array in vars(self).items()})

    @property
    def fresh(self) -> np.ndarray:
        """(N, D) bool, true where the reading is new."""
        before = np.roll(self.stamp_ns, 1, axis=0)
        before[self.first] = NEVER
        return self.stamp_ns != before

    def believed(self, layout: Layout) -> np.ndarray:
        """(N, D) bool, true where the controller would believe the reading."""
        reasons = mask_reasons(self.values, self.stamp_ns, self.now_ns[:, None], layout)  # type: ignore[arg-type]
        return np.broadcast_to(reasons == 0, self.values.shape).copy()

    def split(self, held_out: float) -> tuple[Ticks, Ticks]:
        """The first 1 - `held_out` of every recording, and the rest of it."""
        begins = np.append(np.flatnonzero(self.first), len(self))
        earlier, later = np.zeros(len(self), bool), np.zeros(len(self), bool)
        for a, b in itertools.pairwise(begins):
            cut = a + round((1 - held_out) * (b - a))
            earlier[a:cut], later[cut:b] = True, True
        first = self.first | (later & ~np.roll(later, 1))
        whole = replace(self, first=first)
        return whole[earlier], whole[later]


def read_bags(
    bags: Sequence[Path], robot: RecordedRobot, message: str = "", progress: Callable[[int, int], None] | None = None
) -> Ticks:
    """Ticks of all bags at the robot's rate, each reading as it was last received.

    `message` is the type of the commands where several types fit their topic. `progress` is called with the bags
    read and their number. Raises BagError if a bag cannot be read, or lacks a topic or the commands.
    """
    parts: list[Ticks] = []
    for index, path in enumerate(bags):
        if progress is not None:
            progress(index, len(bags))
        with Bag(path) as bag:
            parts.append(_read(bag, robot, message))
    return Ticks(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in vars(parts[0])})


def _read(bag: Bag, robot: RecordedRobot, message: str) -> Ticks:
    sensors = {}
    for topic, (message_type, observations) in topics(robot.observations).items():
        name = bag.find(topic, message_type)
        if name is None:
            raise BagError(f"{bag.path} has no topic '{topic}' [{message_type}]; it has {bag.contents()}")
        sensors[name] = observations
    commands = _command_topic(bag, robot.action.topic, message)
    sample, command = Sample(robot), np.full(len(robot.action.joints), np.nan)
    period_ns, next_ns, first = round(1e9 / robot.rate_hz), 0, True
    rows: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, bool]] = []
    for record in bag.records({*sensors, commands}):
        if next_ns == 0 or record.receive_ns - next_ns > _LONGEST_GAP_NS:
            next_ns, first = record.receive_ns + period_ns, True
            sample.clear()
        while next_ns < record.receive_ns:
            rows.append((next_ns, sample.values.copy(), sample.stamp_ns.copy(), command, first))
            next_ns, first = next_ns + period_ns, False
        if record.topic in sensors:
            deliver(record.message, sensors[record.topic], sample, record.receive_ns)
        if record.topic == commands:
            found = read_command(record.message, bag.topics[commands], robot.action)
            command = command if found is None else found
    if not rows:
        raise BagError(f"{bag.path}: its messages last less than one tick ({1 / robot.rate_hz:g} s)")
    ticks = Ticks(*(np.array(column) for column in zip(*rows)))
    if np.isnan(ticks.command).all():
        raise BagError(
            f"{bag.path}: '{commands}' never holds a command for all of {', '.join(robot.action.joints)}; correct the "
            "joints in the robot's file"
        )
    return ticks


def _command_topic(bag: Bag, topic: str, message: str) -> str:
    wanted = (message,) if message else READABLE
    found = [name for kind in wanted if bag.offers(topic, kind) and (name := bag.find(topic, kind))]
    if not found:
        raise BagError(
            f"{bag.path} has no commands on '{topic}' of the type {' or '.join(wanted)}; it has {bag.contents()}"
        )
    return found[0]


def intervals_s(ticks: Ticks) -> np.ndarray:
    """Usual time (D,) between the readings of each channel, s, as far as ticks can tell."""
    result = np.zeros(ticks.values.shape[1])
    for i, (stamps, new) in enumerate(zip(ticks.stamp_ns.T, ticks.fresh.T)):
        steps = np.diff(stamps[new & (stamps != NEVER)])
        result[i] = float(np.median(steps)) * 1e-9 if len(steps) else 0.0
    return result


def readings(ticks: Ticks) -> np.ndarray:
    """New readings (N, D), NaN where none was received in the tick."""
    return np.where(ticks.fresh, ticks.values, np.nan)


def save_ticks(path: Path, ticks: Ticks) -> None:
    """Write them, all or nothing. Raises GanglionError if that fails."""
    data = io.BytesIO()
    np.savez_compressed(data, **vars(ticks))
    write_bytes(path, data.getvalue())


def load_ticks(path: Path) -> Ticks:
    """What `save_ticks` wrote. Raises GanglionError if it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Ticks(**{f.name: file[f.name] for f in fields(Ticks)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise GanglionError(f"cannot load the recordings {path} ({error}); learn from the bags again") from error
