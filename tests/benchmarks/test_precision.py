"""The comparison of precisions, on the smallest bundle that ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import benchmarks.precision
import export.precision
from benchmarks.precision import Options, main
from runtime.files import shipped_bundle


def test_every_precision_is_a_row_and_what_a_gate_refuses_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.precision, "_PARITY_TICKS", 100)
    monkeypatch.setattr(export.precision, "_CALIBRATION_TICKS", 100)
    monkeypatch.setitem(export.precision.TOLERANCES, "int8", 1e-9)
    options = Options((shipped_bundle("cartpole"),), 2, 1, ticks=40, workers=1, output=tmp_path)
    rows = main(options)
    assert [(r["precision"], r.get("layers")) for r in rows] == [
        ("fp32", 0), ("fp16", 3), ("int8-dynamic", 3), ("int8", None)
    ]  # fmt: skip
    assert rows[3]["refused"].startswith("no layer of ")
    assert rows[2]["bytes"] < rows[1]["bytes"] < rows[0]["bytes"]
    for row in rows[:3]:
        assert (row["episodes"], row["success_rate"]) == (2, 1.0)
        assert 0 < row["tick"]["p50_us"] <= row["tick"]["p99_us"]
    assert json.loads((tmp_path / "precision.json").read_text())[0]["bundle"] == "cartpole"
    assert "| cartpole | int8 | refused: no layer" in (tmp_path / "precision.md").read_text()
    monkeypatch.setattr(benchmarks.precision, "evaluate", lambda *_, **__: pytest.fail("it was flown already"))
    assert [r.get("return_mean") for r in main(options)] == [r.get("return_mean") for r in rows]
