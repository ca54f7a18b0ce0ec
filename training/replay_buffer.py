"""Experience that off-policy algorithms keep: transitions (s, a, r, s', terminated) in one ring of rows.

With a folder the ring is a memory-mapped file that is allocated whole at the start. Experience then costs a checkpoint
nothing, and a run that is killed at any time goes on with all of it: rows are written first, their count last. Each of
several learners has a file of its own.
"""

from __future__ import annotations

import mmap
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.errors import GanglionError
from training import learners
from training.agent.situation import Situation
from training.rollout import Rollout

FILE = "replay.bin"
_MAGIC = 0x31594C5052474E47  # tells such a file from any other
_HEADER = 8  # int64 numbers: magic, capacity, Z, D, A, discrete, count begun, count written


@dataclass
class Batch:
    """B transitions."""

    now: Situation
    """s: z (B, Z) and x (B, D)."""
    action: Tensor
    """(B, A), or (B,) int64 where actions are choices."""
    reward: Tensor
    """(B,), times 1 - gamma."""
    after: Situation
    """s', also where a time limit cut the episode. Where it truly ended it means nothing."""
    terminated: Tensor
    """(B,), one where the episode truly ended."""

    def __len__(self) -> int:
        return len(self.reward)


class ReplayBuffer:
    """The last `capacity` transitions, in float32 beside the CPU; the oldest one makes place for the newest."""

    def __init__(
        self, capacity: int, z: int, x: int, action: int, discrete: bool, seed: int, folder: Path | None = None
    ) -> None:
        """For z (Z,), x (D,) and actions (A,); of `discrete` ones the number is kept. In memory without a `folder`.

        Raises GanglionError if the disk is full, or if the folder holds experience of other sizes.
        """
        self.capacity = capacity
        self._discrete = discrete
        self._widths = [z, x, 1 if discrete else action, 1, 1, z, x]
        self._generator = torch.Generator("cpu").manual_seed(seed)
        sizes = [_MAGIC, capacity, z, x, action, int(discrete)]
        if folder is None:
            self._counts = np.zeros(2, dtype=np.int64)
            self._rows = torch.empty(capacity, sum(self._widths), dtype=torch.float32, device="cpu")
        else:
            self._counts, self._rows = _mapped(folder, sizes, sum(self._widths))
            self._mend()
        self.total = int(self._counts[1])
        """Transitions that were ever added."""

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return min(self.total, self.capacity)

    def _mend(self) -> None:
        """Put the last whole row in the place of those that were being written when the run was killed."""
        begun, written = (int(n) for n in self._counts)
        if begun > written > 0:
            torn = torch.arange(written, begun, device="cpu") % self.capacity
            self._rows[torn] = self._rows[(written - 1) % self.capacity].clone()
        self._counts[0] = written

    def add(self, rollout: Rollout) -> None:
        """Every transition of the rollout. Raises GanglionError if it has a gait, or more ticks than the buffer."""
        now, after = rollout.now.flat(), rollout.after.flat()
        if now.gait is not None:
            raise GanglionError("a replay buffer keeps no state of a gait; choose an on-policy --algo, for example ppo")
        action, reward, terminated = (v.flatten(0, 1) for v in (rollout.action, rollout.reward, rollout.terminated))
        columns = [now.z, now.x, action, reward, terminated, after.z, after.x]
        rows = torch.cat([c.reshape(len(reward), -1).float() for c in columns], -1).cpu()
        if rows.shape[1] != self._rows.shape[1]:
            raise GanglionError(
                f"a transition of this rollout is {rows.shape[1]} numbers, the replay buffer keeps "
                f"{self._rows.shape[1]}; make the buffer for the agent and the task of the rollout"
            )
        if len(rows) > self.capacity:
            raise GanglionError(
                f"a rollout has {len(rows)} transitions, the replay buffer holds {self.capacity}; raise "
                "--buffer-size, or lower --num-envs or --horizon"
            )
        first = self.total % self.capacity
        whole = min(len(rows), self.capacity - first)
        self._counts[0] = self.total + len(rows)
        self._rows[first : first + whole] = rows[:whole]
        self._rows[: len(rows) - whole] = rows[whole:]
        self.total += len(rows)
        self._counts[1] = self.total

    def sample(self, size: int) -> Batch:
        """`size` transitions, drawn with replacement."""
        return self.at(torch.randint(len(self), (size,), generator=self._generator, device="cpu"))

    def everything(self) -> Batch:
        """All transitions, in no order that means anything."""
        return self._batch(self._rows[: len(self)].clone())

    def at_most(self, size: int) -> Batch:
        """Everything, or `size` drawn transitions where there are more."""
        return self.sample(size) if len(self) > size else self.everything()

    def at(self, index: Tensor) -> Batch:
        """The transitions at `index` (B,) int64, below `len(self)`."""
        return self._batch(self._rows.index_select(0, index))

    def _batch(self, rows: Tensor) -> Batch:
        on_device = rows.to(torch.get_default_device())
        z, x, action, reward, terminated, next_z, next_x = on_device.split(self._widths, -1)
        return Batch(
            Situation(z, x),
            action.squeeze(-1).long() if self._discrete else action,
            reward.squeeze(-1),
            Situation(next_z, next_x),
            terminated.squeeze(-1),
        )

    def state(self) -> dict[str, Any]:
        """What continues the draws; the transitions stay in the folder."""
        return {"generator": self._generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self._generator.set_state(state["generator"])


def _mapped(folder: Path, sizes: list[int], width: int) -> tuple[np.ndarray, Tensor]:
    """Counts (2,) int64 and rows (capacity, width) float32 of the file in `folder`, which is made if there is none."""
    path, capacity = folder / file_of(learners.rank()), sizes[1]
    header = _HEADER * 8
    size = header + capacity * width * 4
    if not path.exists() and (folder / FILE).exists():
        _copy(folder / FILE, path)
    if not path.exists():
        _allocate(path, size, np.array([*sizes, 0, 0], dtype=np.int64).tobytes())
    found = path.stat().st_size
    with path.open("r+b") as file:
        numbers = np.frombuffer(file.read(header).ljust(header, b"\0"), dtype=np.int64).tolist()
        if numbers[: len(sizes)] != sizes or found != size:
            raise GanglionError(_mismatch(path, numbers, sizes, found, size))
        memory = mmap.mmap(file.fileno(), size)
    counts = np.frombuffer(memory, dtype=np.int64, count=2, offset=8 * len(sizes))
    rows = np.frombuffer(memory, dtype=np.float32, offset=header).reshape(capacity, width)
    return counts, torch.from_numpy(rows)


def file_of(rank: int) -> str:
    """Name of the file with a learner's experience."""
    return f"replay-{rank}.bin" if rank else FILE


def _copy(first: Path, path: Path) -> None:
    """A learner that joins a run begins with the experience of the first one. Raises GanglionError on a full disk."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        shutil.copyfile(first, temporary)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise GanglionError(f"cannot copy {first} for another learner ({error.strerror}); free some space") from error
    temporary.replace(path)


def _mismatch(path: Path, found: list[int], expected: list[int], size: int, right: int) -> str:
    names = ("buffer size", "latents", "channels", "actions", "discrete")
    if found[0] != _MAGIC:
        reason = "it is no replay buffer"
    else:
        differences = [f"{n} {f}, expected {e}" for n, f, e in zip(names, found[1:], expected[1:]) if f != e]
        reason = "; ".join(differences) or f"{size} bytes, expected {right}"
    return f"{path} does not hold the experience of this run ({reason}); restore its settings, or delete the file"


def _allocate(path: Path, size: int, header: bytes) -> None:
    """A file of `size` bytes that are all on the disk, so that no later write can find it full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            file.write(header)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        raise GanglionError(
            f"cannot allocate {size / 1e6:.1f} MB for the replay buffer in {path.parent}, "
            f"which has {free / 1e6:.1f} MB free ({error.strerror}); free some space, lower --buffer-size, or "
            "choose another folder"
        ) from error
    temporary.replace(path)
