"""The ablation of the variational agent: its settings, its table, and one short run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import free_energy_terms
from benchmarks.free_energy_terms import VARIANTS, Options, main, settings, surprise, table
from training.algorithms.vfe import VFEOptions
from training.presets import preset


def test_every_variant_differs_by_its_term_alone() -> None:
    usual = settings("all terms", 4, Options(steps=7))
    assert (usual.seed, usual.steps) == (4, 7)
    for variant, changed in VARIANTS.items():
        config = settings(variant, 4, Options(steps=7))
        assert isinstance(config.options, VFEOptions)
        for name in vars(config.options):
            expected = changed.get(name, getattr(usual.options, name))
            assert getattr(config.options, name) == expected
        assert replace(config, options=usual.options) == usual
    assert settings("all terms", 0, Options()).steps == preset("cartpole").steps


def test_the_surprise_is_of_the_last_tenth_and_of_all_three_terms() -> None:
    lines = [{"vfe/perception": float(i), "vfe/prediction": 1.0, "vfe/state_entropy": -2.0} for i in range(20)]
    assert surprise(lines) == pytest.approx(18.5 + 1.0 - 2.0)
    assert surprise([{"vfe/perception": 1.0, "vfe/prediction": 1.0}]) is None


def row(variant: str, solved: float, length: float, surprise: float | None) -> dict[str, Any]:
    return {"variant": variant, "solved": solved, "length": length, "surprise": surprise}


def test_the_table_gives_means_and_ranges() -> None:
    rows = [row("all terms", 1.0, 500.0, -3.0), row("all terms", 0.5, 400.0, -4.0), row("off", 0.0, 20.0, None)]
    assert list(table(rows))[2:] == [
        "| all terms | 2 | 450 | 75% (50% to 100%) | -3.50 |",
        "| off | 1 | 20 | 0% (0% to 0%) | – |",
    ]


def test_a_run_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(seeds=(0,), variants=("without (d) drift",), steps=64, episodes=2, output=tmp_path)
    small = replace(settings("without (d) drift", 0, options), num_envs=2, horizon=16)
    monkeypatch.setattr(free_energy_terms, "settings", lambda *_: small)
    (first,) = main(options)
    assert first["steps"] == 64
    assert first["length"] > 1
    assert json.loads((tmp_path / "free_energy_terms.json").read_text()) == [first]
    assert "| without (d) drift | 1 |" in (tmp_path / "free_energy_terms.md").read_text()
    monkeypatch.delattr(free_energy_terms, "train")
    assert main(options) == [first]
