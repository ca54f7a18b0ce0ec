"""The comparison of walkers, with a bundle that falls at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import benchmarks.walking
from benchmarks.walking import Options, main, wilson
from runtime.errors import GanglionError
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def falling(tmp_path: Path) -> Path:
    """All of its joints go to the end of their range."""
    return write_tiny_bundle(tmp_path / "falling.onnx", "a1_walk")


def test_every_condition_and_every_pair_is_walked_once(
    falling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options((falling,), ("hard", "two encoders"), episodes=3, workers=1, output=tmp_path / "out")
    rows = main(options)
    assert [(r["bundle"], r["condition"], r["episodes"], r["walked"]) for r in rows] == [
        ("falling", "hard", 3, 0),
        ("falling", "two encoders", 66, 0),
    ]
    assert len(rows[1]["pairs"]) == 66
    assert rows[1]["pairs"]["FR_hip_joint+RL_lower_joint"] == 0.0
    assert rows[0]["velocity_error_m_s"] > 0
    assert json.loads((tmp_path / "out" / "walking.json").read_text()) == rows
    assert "| falling | two encoders | 66 | 0.0% (0.0% to 5.5%)" in (tmp_path / "out" / "walking.md").read_text()
    monkeypatch.setattr(benchmarks.walking, "evaluate", lambda *_: pytest.fail("it was walked already"))
    assert main(options) == rows


def test_a_condition_that_does_not_exist(falling: Path, tmp_path: Path) -> None:
    with pytest.raises(GanglionError, match=r"unknown condition \['mars'\]; expected some of nominal"):
        main(Options((falling,), ("mars",), output=tmp_path))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(95, 100, 0.8882, 0.9785), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    """Tabulated values."""
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)
