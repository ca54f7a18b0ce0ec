"""The ring of transitions: its order, its draws, and what a kill or a full disk leaves of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from runtime.errors import GanglionError
from training.agent.situation import Situation
from training.replay_buffer import FILE, Batch, ReplayBuffer
from training.rollout import Rollout

Z, D, A = 3, 2, 2


def rollout(first: int, ticks: int, count: int = 1, discrete: bool = False) -> Rollout:
    """Transition number n, counted from `first`, holds n in every place: s and s' are n, n + 1/2."""
    n = torch.arange(first, first + ticks * count, dtype=torch.float32).reshape(ticks, count)

    def wide(values: Tensor, width: int) -> Tensor:
        return values.unsqueeze(-1).expand(-1, -1, width)

    now, after = Situation(wide(n, Z), wide(n, D)), Situation(wide(n + 0.5, Z), wide(n + 0.5, D))
    action = n.long() if discrete else wide(n, A)
    return Rollout(n, n, n, [], n, now, after, action, n, n % 2, n)


def buffer(capacity: int, folder: Path | None = None, discrete: bool = False, seed: int = 0) -> ReplayBuffer:
    return ReplayBuffer(capacity, Z, D, A, discrete, seed, folder)


def numbers(batch: Batch) -> list[int]:
    """Of the transitions, after a look at each of their parts."""
    n = batch.reward
    for part, width in ((batch.now.z, Z), (batch.now.x, D), (batch.action, A)):
        torch.testing.assert_close(part, n.unsqueeze(-1).expand(-1, width))
    for part, width in ((batch.after.z, Z), (batch.after.x, D)):
        torch.testing.assert_close(part, n.unsqueeze(-1).expand(-1, width) + 0.5)
    torch.testing.assert_close(batch.terminated, n % 2)
    return [int(v) for v in n]


def test_the_oldest_transitions_make_place() -> None:
    kept = buffer(10)
    kept.add(rollout(0, 2, 3))
    assert (len(kept), kept.total) == (6, 6)
    assert numbers(kept.everything()) == [0, 1, 2, 3, 4, 5]
    kept.add(rollout(6, 2, 3))
    assert (len(kept), kept.total) == (10, 12)
    assert numbers(kept.everything()) == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    kept.add(rollout(12, 10))
    assert sorted(numbers(kept.everything())) == list(range(12, 22))


def test_everything_is_taken_up_to_a_number_and_then_some_is_drawn() -> None:
    kept = buffer(10)
    kept.add(rollout(0, 6))
    assert numbers(kept.at_most(6)) == numbers(kept.everything())
    assert len(kept.at_most(5)) == 5


def test_draws_cover_what_is_there_evenly_and_nothing_else() -> None:
    """Each of 6 is drawn 10,000 times of 60,000, with a standard deviation of 91."""
    kept = buffer(100)
    kept.add(rollout(0, 6))
    drawn = np.bincount(numbers(kept.sample(60_000)))
    assert len(drawn) == 6
    assert np.abs(drawn - 10_000).max() < 4 * 91


def test_a_drawn_batch_is_not_changed_by_what_is_added() -> None:
    kept = buffer(4)
    kept.add(rollout(0, 4))
    drawn, whole = kept.sample(16), kept.everything()
    before = numbers(drawn)
    kept.add(rollout(4, 4))
    assert numbers(drawn) == before
    assert numbers(whole) == [0, 1, 2, 3]


def test_choices_are_numbers_again() -> None:
    kept = buffer(4, discrete=True)
    kept.add(rollout(2, 2, discrete=True))
    action = kept.everything().action
    assert action.dtype == torch.int64
    assert action.tolist() == [2, 3]


def test_the_state_continues_the_draws() -> None:
    kept, other = buffer(50), buffer(50, seed=9)
    for one in (kept, other):
        one.add(rollout(0, 50))
    kept.sample(7)
    other.restore(kept.state())
    assert numbers(kept.sample(20)) == numbers(other.sample(20))


def test_a_resumed_run_has_all_its_experience(tmp_path: Path) -> None:
    kept = buffer(10, tmp_path / "run")
    kept.add(rollout(0, 12 // 2))
    kept.add(rollout(6, 12 // 2))
    again = buffer(10, tmp_path / "run")  # nothing told the first one that it would end
    assert (len(again), again.total) == (10, 12)
    assert numbers(again.everything()) == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    again.add(rollout(12, 1))
    assert numbers(again.everything())[:3] == [10, 11, 12]


def test_rows_without_their_count_are_not_there(tmp_path: Path) -> None:
    """Killed while the third rollout was written: of a ring that is not full its rows are past the end."""
    kept = buffer(10, tmp_path)
    kept.add(rollout(0, 4))
    kept._counts[0] = 6
    kept._rows[4:6] = torch.nan
    again = buffer(10, tmp_path)
    assert numbers(again.everything()) == [0, 1, 2, 3]
    again.add(rollout(4, 1))
    assert numbers(again.everything()) == [0, 1, 2, 3, 4]


def test_rows_torn_in_a_full_ring_become_the_last_whole_one(tmp_path: Path) -> None:
    kept = buffer(5, tmp_path)
    kept.add(rollout(0, 5))
    kept.add(rollout(5, 4))
    kept._counts[0] = 11
    kept._rows[4], kept._rows[0] = torch.nan, torch.nan
    again = buffer(5, tmp_path)
    assert numbers(again.everything()) == [8, 6, 7, 8, 8]
    assert again.total == 9


def test_the_file_is_as_large_at_the_start_as_at_the_end(tmp_path: Path) -> None:
    kept = buffer(1000, tmp_path)
    status = (tmp_path / FILE).stat()
    assert status.st_size == 64 + 1000 * (Z + D + A + 1 + 1 + Z + D) * 4
    assert status.st_blocks * 512 >= status.st_size, "allocated, not only announced"
    kept.add(rollout(0, 1000))
    assert (tmp_path / FILE).stat().st_size == status.st_size


def test_a_full_disk_is_an_error_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(GanglionError, match=r"cannot allocate 56\.0 MB .*No space left.* lower --buffer-size"):
        buffer(1_000_000, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((20, Z, D, A, False), "buffer size 10, expected 20"),
        ((10, Z - 1, D + 1, A, False), "latents 3, expected 2; channels 2, expected 3"),
        ((10, Z, D, A, True), "discrete 0, expected 1"),
    ],
)
def test_experience_of_other_sizes_is_refused(
    tmp_path: Path, other: tuple[int, int, int, int, bool], message: str
) -> None:
    buffer(10, tmp_path)
    with pytest.raises(GanglionError, match=message):
        ReplayBuffer(*other, 0, tmp_path)


@pytest.mark.parametrize(("content", "message"), [(b"", "no replay buffer"), (b"x" * 624, "no replay buffer")])
def test_another_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(GanglionError, match=message):
        buffer(10, tmp_path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    buffer(10, tmp_path)
    os.truncate(tmp_path / FILE, 200)
    with pytest.raises(GanglionError, match="200 bytes, expected 624"):
        buffer(10, tmp_path)


def test_rollouts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GanglionError, match=r"12 transitions, the replay buffer holds 10; raise --buffer-size"):
        buffer(10).add(rollout(0, 6, 2))
    with pytest.raises(GanglionError, match=r"is 14 numbers, the replay buffer keeps 13"):
        buffer(10, discrete=True).add(rollout(0, 2))
    walking = rollout(0, 2)
    walking.now = walking.now._replace(gait=torch.zeros(2, 1, 8))
    with pytest.raises(GanglionError, match="no state of a gait"):
        buffer(10).add(walking)
