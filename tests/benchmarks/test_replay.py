from __future__ import annotations

from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin

from benchmarks.replay import repeat
from runtime.bundle import Bundle
from runtime.replay.bags import Bag
from runtime.telemetry import unpack
from tests.runtime.replay.recording import Recording


def test_a_recording_is_repeated_as_new_activations(kuka: Bundle, tmp_path: Path) -> None:
    recording = Recording(kuka)
    recording.run(1, 60, seed=0)
    recording.run(2, 30, seed=1)
    bag = recording.write(tmp_path / "bag")
    path = repeat(bag, tmp_path / "long", 1.8, StoragePlugin.SQLITE3, kuka.path)
    with Bag(path) as opened:
        assert set(opened.topics) == {"/controller/telemetry"}
        records = list(opened.records({"/controller/telemetry"}))
    ticks = [unpack(kuka.contract, np.asarray(r.message.data)) for r in records]
    assert [(t.activation, t.tick) for t in ticks] == [(a, i) for a in (1, 2, 3) for i in range(60)]
    gaps = np.diff([r.receive_ns for r in records])
    assert (gaps > 0).all()
    assert gaps.max() < 15_000_000
    np.testing.assert_array_equal(ticks[70].values, ticks[10].values)
