"""Logged episodes: what was seen, commanded and earned, and how likely that command was. One .npz file, numpy alone.

episode          (N,) int64      number of the episode; its ticks follow each other
observation      (N, D) float    SI readings, NaN where there was none; read before the action
stamp_ns         (N, D) int64    when each reading arrived, on the episode's clock; optional, every tick if left out
action           (N, A) float    SI command as it was drawn, before limits
log_probability  (N,) float      log-density of `action` under the policy that drew it; NaN if it is not known
reward           (N,) float      earned by the tick that followed
terminated       (N,) bool       the tick ended the episode for good; false where it was cut by a time limit
channels         (D,) text       `observation.channel`, as in a contract
joints           (A,) text
rate_hz          () float
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import GanglionError
from runtime.files import write_bytes

_KINDS = {"episode": "iu", "stamp_ns": "iu", "terminated": "b", "channels": "U", "joints": "U"}
_WORDS = {"iu": "whole numbers", "b": "booleans", "U": "text", "iuf": "numbers"}
_OPTIONAL = "stamp_ns"


@dataclass(frozen=True)
class Log:
    """N ticks, episode after episode; the fields are those of the file."""

    episode: np.ndarray
    observation: np.ndarray
    stamp_ns: np.ndarray
    action: np.ndarray
    log_probability: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    channels: np.ndarray
    joints: np.ndarray
    rate_hz: np.ndarray

    def __post_init__(self) -> None:
        n, d, a = len(self.episode), len(self.channels), len(self.joints)
        shapes = {"observation": (n, d), "stamp_ns": (n, d), "action": (n, a), "channels": (d,), "joints": (a,)}
        for field in fields(self):
            value, expected = getattr(self, field.name), shapes.get(field.name, (n,))
            if field.name != "rate_hz" and value.shape != expected:
                raise GanglionError(f"log: {field.name} has shape {value.shape}, expected {expected}")
        if n == 0:
            raise GanglionError("log: it holds no ticks; record at least one episode")
        for name in ("action", "reward", "rate_hz"):
            if not np.isfinite(getattr(self, name)).all():
                raise GanglionError(f"log: {name} is not finite everywhere; leave such episodes out")
        if len(np.unique(self.episode)) != len(self.begins):
            raise GanglionError("log: the ticks of an episode do not follow each other; sort them by episode and time")

    @property
    def begins(self) -> np.ndarray:
        """Index (n,) of the first tick of every episode."""
        return np.flatnonzero(np.diff(self.episode, prepend=self.episode[0] - 1))

    @property
    def ends(self) -> np.ndarray:
        """(N,) bool, true at the last tick of every episode."""
        return np.diff(self.episode, append=self.episode[-1] - 1) != 0

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Episode (N,), counted from 0, and tick in it (N,) of every logged tick."""
        begins = self.begins
        lengths = np.diff(begins, append=len(self.episode))
        return np.repeat(np.arange(len(begins)), lengths), np.arange(len(self.episode)) - np.repeat(begins, lengths)

    def padded(self, values: np.ndarray) -> np.ndarray:
        """(N, ...) as (episodes, longest episode, ...), zero behind the end of shorter ones."""
        episode, tick = self.rows
        result = np.zeros((episode[-1] + 1, tick.max() + 1, *values.shape[1:]))
        result[episode, tick] = values
        return result

    def save(self, path: Path) -> None:
        """Write the file, all or nothing. Raises GanglionError if that fails."""
        data = io.BytesIO()
        np.savez_compressed(data, **vars(self))
        write_bytes(path, data.getvalue())


def load_log(path: Path) -> Log:
    """Read a log. Raises GanglionError that says what is missing or does not fit."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Any] = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GanglionError(f"{path} is no log ({reason}); make one with 'ganglion collect'") from error
    names = [f.name for f in fields(Log)]
    missing = [n for n in names if n not in found and n != _OPTIONAL]
    if missing:
        raise GanglionError(f"{path}: {', '.join(missing)} are missing; expected {', '.join(names)}")
    for name in names:
        kinds = _KINDS.get(name, "iuf")
        if name in found and found[name].dtype.kind not in kinds:
            raise GanglionError(f"{path}: {name} is {found[name].dtype}, expected {_WORDS[kinds]}")
    if _OPTIONAL not in found:
        found[_OPTIONAL] = _every_tick(found)
    try:
        return Log(**{name: found[name] for name in names})
    except GanglionError as error:
        raise GanglionError(f"{path}: {error}") from error


def _every_tick(found: dict[str, np.ndarray]) -> np.ndarray:
    """Stamps (N, D) of readings that are new in every tick."""
    observation = found["observation"]
    ticks = np.arange(len(observation)) * np.rint(1e9 / max(float(found["rate_hz"]), 1e-3))
    return np.broadcast_to(ticks[:, None].astype(np.int64), (len(ticks), *observation.shape[1:])).copy()


def join_logs(logs: Sequence[Log]) -> Log:
    """One log of several. Raises GanglionError unless they have the same channels, joints and rate."""
    first = logs[0]
    for other in logs[1:]:
        for name in ("channels", "joints", "rate_hz"):
            ours, theirs = getattr(first, name), getattr(other, name)
            if not np.array_equal(ours, theirs):
                raise GanglionError(f"the logs differ in their {name}: {ours} and {theirs}; give those of one robot")
    counts = np.cumsum([0] + [len(log.begins) for log in logs])
    episode = np.concatenate([log.rows[0] + start for log, start in zip(logs, counts)])
    names = ("observation", "stamp_ns", "action", "log_probability", "reward", "terminated")
    return replace(first, episode=episode, **{n: np.concatenate([getattr(log, n) for log in logs]) for n in names})
