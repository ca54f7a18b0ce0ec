"""The table of the learning algorithms: which runs there are, what is kept, and what the table says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.algorithms import Case, Options, cases, main, solve, table
from runtime.errors import GanglionError
from training.evaluation import Evaluation, Evaluator
from training.presets import preset


def test_algorithms_learn_the_tasks_that_suit_them() -> None:
    found = cases(Options(algos=("ppo", "sac"), seeds=(0, 7)))
    assert found == [
        Case("cartpole", "ppo", 0),
        Case("cartpole", "ppo", 7),
        Case("cartpole", "sac", 0),
        Case("cartpole", "sac", 7),
        Case("cartpole_push", "ppo", 0),
        Case("cartpole_push", "ppo", 7),
    ]
    with pytest.raises(GanglionError, match="none of sac suits cartpole_push"):
        cases(Options(algos=("sac",), tasks=("cartpole_push",)))


def test_a_finished_run_is_not_made_again(tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    options = Options(algos=("sac",), tasks=("cartpole",), seeds=(0, 1), steps=256, every=256, output=output)
    kept = {"task": "cartpole", "algo": "sac", "seed": 0, "solved": True, "best": 1.0, "steps": 5, "seconds": 1.5}
    other = kept | {"algo": "ppo"}
    output.write_text(json.dumps([kept, other]))
    rows = main(options)
    assert rows[:2] == [other, kept]
    assert (rows[2]["seed"], rows[2]["steps"], rows[2]["solved"]) == (1, 256, False)
    assert json.loads(output.read_text()) == rows
    assert "| cartpole | sac | 1 of 2 | 5 | 5, – |" in (tmp_path / "scores.md").read_text()


@pytest.mark.parametrize(("share", "solved"), [(0.95, True), (0.94, False)])
def test_a_run_stops_when_95_of_100_episodes_stand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: float, solved: bool
) -> None:
    def judged(self: Evaluator, agent: Any) -> Evaluation:
        count = int(self._due.sum())
        return Evaluation(500.0, 0.0, 500.0, 1.0 if count == 10 else share, count)

    monkeypatch.setattr(Evaluator, "run", judged)
    options = Options(steps=1024, every=256, output=tmp_path / "scores.json")
    short = replace(preset("cartpole"), num_envs=4, horizon=64)
    monkeypatch.setattr("benchmarks.algorithms.preset", lambda task, algo: short)
    row = solve(Case("cartpole", "ppo", 0), options)
    assert (row["solved"], row["best"], row["steps"]) == (solved, share, 256 if solved else 1024)


def test_the_table_has_medians_of_what_was_solved() -> None:
    rows = [
        {"task": "cartpole", "algo": "sac", "solved": s, "best": b, "steps": n, "seconds": t}
        for s, b, n, t in ((True, 1.0, 9000, 12.0), (False, 0.4, 200_000, 90.0), (True, 0.97, 5000, 8.0))
    ]
    assert table(rows).splitlines()[-1] == "| cartpole | sac | 2 of 3 | 7,000 | 9,000, –, 5,000 | 10 | 40% |"
