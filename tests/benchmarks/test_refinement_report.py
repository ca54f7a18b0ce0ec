"""The study's tables and its verdict, from figures by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.refinement_study.contest import TASKS
from benchmarks.refinement_study.figures import collect, difference, error_ratio, over_nominal
from benchmarks.refinement_study.report import write_report
from benchmarks.refinement_study.units import Unit
from benchmarks.refinement_study.verdict import verdict

E, D = 4, 9
SPREAD = np.array([-0.3, -0.1, 0.1, 0.3])


def figures_of(
    cost: float, final: float, error: float | None, masked: float = 0.0, surprise: float = 1.0
) -> dict[str, Any]:
    """One fault's: costs around `cost`, in which the episodes differ; constant errors (mrad)."""
    gated = np.zeros(D)
    gated[3] = masked
    return {
        "cost": (cost + SPREAD).tolist(),
        "final": (final * (1 + SPREAD)).tolist(),
        "failed": 0,
        "square_error": None if error is None else [error**2] * E,
        "gated": gated.tolist(),
        "frozen": (gated / 2).tolist(),
        "signals": {} if error is None or not surprise else {"free_energy": (surprise * cost + SPREAD).tolist()},
    }


def units(
    task: str, agent: str, variants: dict[str, dict[str, Any]], seeds: tuple[int, ...] = (0, 1)
) -> Iterator[tuple[Unit, dict[str, Any]]]:
    for seed in seeds:
        kept = {
            "settings": {},
            "switched_off": ["gyro.pole"] * (agent == "gauss_newton" and seed),
            "variants": variants,
        }
        yield Unit(task, agent, seed, "iid", E), kept


@pytest.fixture
def cartpole() -> dict[Unit, dict[str, Any]]:
    def faults(nominal: float, lost: float, biased: float, error: float | None, **more: float) -> dict[str, Any]:
        return {
            "nominal": figures_of(nominal, 1.0, error, **more),
            "dropout80": figures_of(lost, 2.0, None if error is None else 2 * error),
            "dead_gyro": figures_of(lost + 1, 2.0, error),
            "bias_gyro": figures_of(biased, 2.0, error),
        }

    steps = {f"K={k}": dict(list(faults(9.0, 20.0 - k, 0.0, 9.0 - k).items())[:3]) for k in (0, 2, 4, 8)}
    champion = faults(10.0, 12.0, 30.0, 8.0)
    checks = faults(10.0, 12.0, 15.0, 8.0, masked=0.0004)
    return {
        **dict(units("cartpole", "gru", {"default": faults(11.0, 11.0, 40.0, None)})),
        **dict(units("cartpole", "amortized", {"default": faults(10.5, 16.0, 35.0, 16.0)})),
        **dict(units("cartpole", "gauss_newton", {"default": champion, "checks": checks, **steps})),
        **dict(units("cartpole", "oracle", {"default": faults(8.0, 9.0, 50.0, 4.0, surprise=0.0)}, seeds=(0,))),
    }


def test_comparisons_by_hand(cartpole: dict[Unit, dict[str, Any]]) -> None:
    figures = collect(cartpole)
    gain = difference(figures, "amortized", "gauss_newton", "dropout80")
    assert gain is not None
    np.testing.assert_allclose((gain.mean, gain.low, gain.high), 4.0)  # what the episodes differ by cancels out
    error = error_ratio(figures, "gauss_newton", "amortized", "dead_gyro")
    assert error is not None
    np.testing.assert_allclose((error.mean, error.low, error.high), 0.5)
    bias = over_nominal(figures, "gauss_newton checks", "bias_gyro")
    assert bias is not None
    assert bias.mean == pytest.approx(1.5)
    assert bias.low < 1.5 < bias.high
    assert error_ratio(figures, "gru", "amortized", "nominal") is None
    assert difference(figures, "gauss_newton checks", "gauss_newton", "dead_lidar") is None
    oracle = difference(figures, "oracle", "gauss_newton", "nominal")  # one seed against two
    assert oracle is not None
    assert oracle.mean == pytest.approx(-2.0)


def test_the_verdict_by_hand(cartpole: dict[Unit, dict[str, Any]]) -> None:
    rows = {(row[0], row[1]): row[2] for row in verdict(collect(cartpole), TASKS["cartpole"])[1:]}
    assert rows["J, amortized - gauss_newton", "nominal"] == "+0.50 [+0.50, +0.50]; +5 [+5, +5] % of nominal"
    assert rows["J, amortized - gauss_newton", "dropout80"] == "+4.00 [+4.00, +4.00]; +40 [+40, +40] % of nominal"
    assert rows["J, gru - gauss_newton: below 0", "2 of 2"] == "dropout80, dead_gyro"
    assert rows["J, gru - gauss_newton: above 0", "0 of 2"] == ""
    assert rows["error of the estimate, gauss_newton / amortized: largest", "dropout80"] == "0.50 [0.50, 0.50]"
    assert rows["J / nominal, gauss_newton checks: largest", "bias_gyro"].startswith("1.50 [1.4")
    # gated in 0.04 % and frozen in 0.02 %
    masked = "masked at nominal, angle_encoder.pole", "nominal"
    assert rows[masked] == "0.0600 [0.0600, 0.0600] % of ticks"
    assert not any(figure.startswith("final") for figure, _ in rows)


def test_the_verdict_on_lost_encoders() -> None:
    results = {
        unit: kept
        for agent, final in (("hold", 9.0), ("amortized", 4.0), ("gauss_newton", 2.0))
        for unit, kept in units(
            "kuka_reach",
            agent,
            {
                "default": {
                    "nominal": figures_of(5.0, 1.0, None),
                    "dead_joint_4": figures_of(5.0, final, None),
                    "encoders_out_2s": figures_of(5.0, 1.0, None),
                    "dead_end_effector": figures_of(5.0, 99.0, None),
                }
            },
        )
    }
    rows = {(row[0], row[1]): row[2] for row in verdict(collect(results), TASKS["kuka_reach"])[1:]}
    for agent, value in (("hold", "9.00"), ("amortized", "4.00"), ("gauss_newton", "2.00")):
        assert rows[f"final / nominal, {agent}: largest", "dead_joint_4"] == f"{value} [{value}, {value}]"
        assert rows[f"final / nominal, {agent}: least", "encoders_out_2s"] == "1.00 [1.00, 1.00]"


def test_no_agents_no_verdict(cartpole: dict[Unit, dict[str, Any]]) -> None:
    alone = {unit: kept for unit, kept in cartpole.items() if unit.agent == "oracle"}
    assert verdict(collect(alone), TASKS["cartpole"]) == []


def tables(text: str) -> dict[str, list[list[str]]]:
    """Rows of cells by title."""
    parts = (part.split("\n\n", 1) for part in text.split("### ")[1:])
    return {
        title: [[c.strip() for c in line.strip("|").split("|")] for line in body.splitlines() if line.startswith("|")]
        for title, body in parts
    }


def test_the_tables(cartpole: dict[Unit, dict[str, Any]], tmp_path: Path) -> None:
    write_report(cartpole, tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert "100 min(1, (x - r)² + 5 θ²)" in text
    assert text.count("a sensor check is off") == 1
    assert "gauss_newton, seed 1: a sensor check is off, no bound kept it quiet: gyro.pole." in text
    found = tables(text)
    assert next(iter(found)) == "verdict"
    costs = found["J (lower is better)"]
    assert costs[0] == ["fault", "gru", "amortized", "gauss_newton", "oracle"]
    assert [row[0] for row in costs[2:]] == ["nominal", "dropout80", "dead_gyro", "bias_gyro"]
    assert costs[2][4].startswith("8.0 [")
    steps = found["refinement steps: J"]
    assert steps[0] == ["fault", *(f"gauss_newton K={k}" for k in ("0", "1 (default)", "2", "4", "8"))]
    assert [cell.split(" ")[0] for cell in steps[3]] == ["dropout80", "20.0", "12.0", "18.0", "16.0", "12.0"]
    assert [row[0] for row in steps[2:]] == ["nominal", "dropout80", "dead_gyro"]
    errors = found["error of the estimate"]
    assert errors[0] == ["fault", "amortized", "gauss_newton", "oracle"]
    assert errors[2] == ["nominal", "16.0", "8.0", "4.0"]
    relative = found["error of the estimate / that of amortized (* the interval excludes 1)"]
    assert relative[4] == ["dead_gyro", "0.50 [0.50, 0.50]*", "0.25 [0.25, 0.25]*"]
    assert found["final / nominal"][2][3] == "2.00 [2.00, 2.00]"
    assert found["sensor checks"][5][:3] == ["bias_gyro", "30.0", "15.0"]
    detected = found["detection of faults that no mask tells (AUROC)"]
    assert detected[0] == ["fault", "amortized: free_energy", "gauss_newton: free_energy"]
    assert detected[2:] == [["bias_gyro", "1.00", "1.00"], ["mean", "1.00", "1.00"]]
    assert (tmp_path / "cartpole.png").stat().st_size > 1000
