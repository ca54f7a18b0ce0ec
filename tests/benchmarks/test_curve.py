"""Learning curves from event files written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from benchmarks.curve import Options, main
from runtime.errors import GanglionError


def test_rows_are_evenly_spaced_and_end_with_the_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight updates of 1000 steps, half a minute apart; episodes end from the third on."""
    writer = SummaryWriter(str(tmp_path / "walker"))
    for i in range(1, 9):
        writer.add_scalar("time/fps", 100.0, 1000 * i, walltime=30.0 * i)
        if i >= 3:
            writer.add_scalar("rollout/ep_rew_mean", 10.0 * i, 1000 * i, walltime=30.0 * i)
            writer.add_scalar("rollout/success_rate", i / 10, 1000 * i, walltime=30.0 * i)
    writer.close()
    rows = main(Options((tmp_path / "walker",), points=2, json=tmp_path / "curve.json"))
    assert [(r["run"], r["steps"], r["minutes"], r["return"]) for r in rows] == [
        ("walker", 5000, 2.0, 50.0),
        ("walker", 8000, 3.5, 80.0),
    ]
    assert "| walker | 8,000 | 3.5 | 80 | 80% |" in capsys.readouterr().out
    assert json.loads((tmp_path / "curve.json").read_text()) == rows


@pytest.mark.parametrize(("name", "why"), [("missing", "there is no run at"), (".", "has no learning curve yet")])
def test_no_curve_is_one_clear_error(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(GanglionError, match=why):
        main(Options((tmp_path / name,)))
