"""The refinement study: its statistics, its judge, and the command from end to end on a small scale."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.refinement import Options, main
from benchmarks.refinement_study.cartpole_arena import ANGLE_LATENT, CartPoleArena
from benchmarks.refinement_study.cloning import Schedule, clone
from benchmarks.refinement_study.contest import AUGMENTATIONS, CONTESTANTS, TASKS, Task
from benchmarks.refinement_study.judging import judge
from benchmarks.refinement_study.oracle import Oracle, OraclePilot
from benchmarks.refinement_study.pilots import HoldMLP, Predictive, StackMLP
from benchmarks.refinement_study.sensor_bounds import calibrate_pilot
from benchmarks.refinement_study.statistics import auroc, bootstrap, bootstrap_ratio
from runtime.errors import GanglionError


def test_auroc_by_hand() -> None:
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0.0
    assert auroc(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5
    # pairs (faulty, healthy): (1, 0) above, (1, 1) tied, (1, 2) below, and all of 3: (1 + 0.5 + 0 + 3) / 6
    assert auroc(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])) == pytest.approx(0.75)


def test_the_interval_has_the_width_of_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, (1, 400))
    interval = bootstrap(values)
    assert interval.low < 2.0 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert interval.excludes_zero
    assert not bootstrap(values - values.mean()).excludes_zero


def test_a_ratio_is_as_exact_as_its_pairs_are_alike() -> None:
    under = np.random.default_rng(0).normal(5.0, 2.0, (2, 100))
    alike = bootstrap_ratio(3.0 * under, under)
    np.testing.assert_allclose((alike.mean, alike.low, alike.high), 3.0, rtol=1e-12)
    apart = bootstrap_ratio(under[:, ::-1], under)
    assert apart.mean == pytest.approx(1.0)
    assert apart.low < 0.95 < 1.05 < apart.high


def test_seeds_that_disagree_widen_the_interval() -> None:
    alike = np.zeros((3, 50)) + np.random.default_rng(0).normal(0, 0.1, 50)
    apart = alike + np.array([[-1.0], [0.0], [1.0]])
    assert bootstrap(apart).high - bootstrap(apart).low > 5 * (bootstrap(alike).high - bootstrap(alike).low)


def test_hold_keeps_the_last_value_and_stack_the_last_ten_ticks() -> None:
    hold, stack = HoldMLP(2, 1), StackMLP(2, 1)
    x, steps, action = torch.tensor([[5.0, 7.0]]), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1)
    _, state, _ = hold.tick(x, torch.tensor([[1.0, 0.0]]), action, hold.initial(1), steps)
    assert state["held"].tolist() == [[5.0, 0.0]]
    _, state, _ = hold.tick(-x, torch.tensor([[0.0, 1.0]]), action, state, steps)
    assert state["held"].tolist() == [[5.0, -7.0]]
    past = stack.initial(1)
    for value in range(12):
        _, past, _ = stack.tick(x * 0 + value, torch.ones(1, 2), action, past, steps)
    assert past["past"][0, :, 0].tolist() == list(range(2, 12))


@pytest.mark.parametrize("name", CONTESTANTS)
def test_every_contestant_flies_and_restarts(name: str) -> None:
    task = TASKS["cartpole"]
    torch.manual_seed(0)
    pilot = CONTESTANTS[name].make(task).eval()
    steps, action = torch.full((3,), CONTESTANTS[name].variants[0].steps), torch.zeros(3, 1)
    fresh = state = pilot.initial(3)
    for _ in range(3):
        command, state, _ = pilot.tick(torch.randn(3, 9), torch.ones(3, 9), action, state, steps)
    assert command.shape == (3, 1)
    restarted = pilot.restarted(state, torch.tensor([1.0, 0.0, 1.0]))
    for key, value in restarted.items():
        assert torch.equal(value[0], fresh[key][0])
        assert torch.equal(value[1], state[key][1])


def test_the_study_s_augmentation_keeps_what_is_tested_unseen() -> None:
    iid = AUGMENTATIONS["iid"]
    assert iid.burst_share == 0.0
    assert iid.permanent_share == 0.0
    assert iid.dropout_share > 0.0


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_steps_are_swept_where_the_mask_tells(task: Task) -> None:
    assert set(task.swept) <= set(task.masked) < set(task.faults)
    assert "nominal" in task.swept


@pytest.mark.parametrize(("updates", "averaged"), [(8, 2), (1, 1)])
def test_what_is_learned_is_the_mean_of_the_last_weights(updates: int, averaged: int) -> None:
    task = TASKS["cartpole"]
    torch.manual_seed(0)
    pilot = CONTESTANTS["hold"].make(task)
    seen: list[dict[str, torch.Tensor]] = []

    def keep(done: int, terms: dict[str, float]) -> None:
        seen.append({name: value.clone() for name, value in pilot.state_dict().items()})

    clone(pilot, task.make_world, Schedule(updates, ticks=2, worlds=4), AUGMENTATIONS["iid"], 0, keep)
    assert len(seen) == updates
    for name, value in pilot.state_dict().items():
        torch.testing.assert_close(value, torch.stack([s[name] for s in seen[-averaged:]]).mean(0))
    if updates > 1:
        assert any(not torch.equal(v, seen[-1][n]) for n, v in pilot.state_dict().items())


def test_on_the_mean_of_the_weights_only_the_noise_of_the_latents_settles() -> None:
    task, seen = TASKS["cartpole"], list[dict[str, torch.Tensor]]()
    torch.manual_seed(0)
    pilot = CONTESTANTS["gauss_newton"].make(task)

    def keep(done: int, terms: dict[str, float]) -> None:
        seen.append({name: value.detach().clone() for name, value in pilot.named_parameters()})

    schedule = Schedule(4, ticks=10, worlds=4, settling=8)
    clone(pilot, task.make_world, schedule, AUGMENTATIONS["iid"], 0, keep)
    assert len(seen) == schedule.total == 12
    noise = "agent.model.latent_log_precision.raw"
    for name, value in pilot.named_parameters():
        kept = seen[-2:] if name == noise else seen[3:4]
        torch.testing.assert_close(value, torch.stack([s[name] for s in kept]).mean(0))
    assert bool((seen[-1][noise] != seen[3][noise]).all())


def test_a_pilot_without_latents_has_no_noise_to_settle() -> None:
    task = TASKS["cartpole"]
    with pytest.raises(TypeError, match="HoldMLP has no latents"):
        clone(
            CONTESTANTS["hold"].make(task), task.make_world, Schedule(1, ticks=2, worlds=4, settling=1),
            AUGMENTATIONS["iid"], 0,
        )  # fmt: skip


def test_the_judge_pairs_episodes_and_the_oracle_is_hard_to_beat() -> None:
    faults = ("nominal", "dead_gyro+accelerometer", "payload_x1.5")
    best = judge(OraclePilot(), CartPoleArena(faults, 6, 3), 0, checks=False, estimate=ANGLE_LATENT)
    assert best.cost.shape == (3, 6)
    assert not best.failed.any()
    assert np.sqrt(best.square_error.mean(1)).max() < 0.1  # 20 mrad
    assert best.signals == {}
    task = TASKS["cartpole"]
    torch.manual_seed(0)
    pilot = CONTESTANTS["amortized"].make(task)
    assert isinstance(pilot, Predictive)
    verdict = judge(pilot, CartPoleArena(faults, 6, 3), 0, checks=False, estimate=task.estimate)
    assert (verdict.cost.mean(1) > best.cost.mean(1)).all()
    assert verdict.failed.all()
    assert verdict.gated.max() == 0.0
    assert verdict.signals["innovation"].shape == (3, 6)


def test_the_pilot_flies_as_the_oracle_itself() -> None:
    """But for the float32 of what the judge hands out."""
    arenas = [CartPoleArena(("dead_gyro",), 4, 0) for _ in range(2)]
    pilot, oracle = OraclePilot(), Oracle(4)
    state, steps = pilot.initial(4), torch.zeros(4, dtype=torch.int64)
    for _ in range(150):
        (readings, mask), (again, _) = (arena.observe() for arena in arenas)
        x = torch.as_tensor(np.where(mask > 0, again / arenas[1].layout.scale, 0.0), dtype=torch.float32)
        x[:, 5] -= 9.81  # the accelerometer's mean, in its scale of 1
        previous = torch.as_tensor(arenas[1].executed())
        command, state, seen = pilot.tick(x, torch.as_tensor(mask), previous, state, steps)
        action = oracle.act(readings, mask, arenas[0].executed()[:, 0])
        np.testing.assert_allclose(command[:, 0], action, atol=1e-4)
        np.testing.assert_allclose(seen.z[:, ANGLE_LATENT], oracle.estimate[:, 2] / 0.2, atol=1e-4)
        arenas[0].step(action[:, None])
        arenas[1].step(command.numpy())


def test_the_calibration_flies_every_episode_once_and_not_too_many_at_once() -> None:
    flown: list[tuple[int, int]] = []

    def make_arena(faults: tuple[str, ...], episodes: int, seed: int) -> CartPoleArena:
        assert faults == ("nominal",)
        flown.append((seed, episodes))
        arena = CartPoleArena(faults, episodes, seed)
        arena.ticks = 60
        return arena

    task = replace(TASKS["cartpole"], make_arena=make_arena, rows=3)
    torch.manual_seed(0)
    pilot = CONTESTANTS["gauss_newton"].make(task)
    assert isinstance(pilot, Predictive)
    found = calibrate_pilot(pilot, task, 1, seed=100, ticks=300)
    assert flown == [(100 + 3 * i, 3) for i in range(len(flown))]
    assert len(flown) >= 4  # twice with the checks off, and twice with the first bounds
    assert found.ticks == 2 * 3 * 60
    np.testing.assert_allclose(pilot.agent.sensors.spike, found.bounds.spike, rtol=1e-6)


def test_a_small_study_from_end_to_end_goes_on_where_it_was(tmp_path: Path) -> None:
    options = Options(
        tasks=("cartpole",), agents=("hold", "amortized", "oracle"), seeds=(0, 1), episodes=2, effort=0.001,
        faults=("dead_gyro", "bias_gyro"), workers=1, output=tmp_path,
    )  # fmt: skip
    main(options)
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["cartpole"]) == {"hold", "amortized", "oracle"}
    assert set(results["cartpole"]["hold"]) == {"nominal", "dead_gyro", "bias_gyro"}
    assert results["cartpole"]["hold"]["nominal"]["episodes"] == 2
    assert "dead_gyro" in (tmp_path / "tables.md").read_text()
    assert (tmp_path / "cartpole.png").stat().st_size > 1000
    stamps = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("cartpole-*")}
    assert len(stamps) == 2 * 2 * 2 + 1  # figures and weights, but the oracle's figures alone, of one seed
    main(options)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("cartpole-*")} == stamps


def test_a_study_that_is_ended_takes_its_workers_along(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.refinement", "--tasks", "cartpole", "--output", str(tmp_path)]
    with subprocess.Popen([*command, "--agents", "hold", "--seeds", "0", "1"], stderr=subprocess.DEVNULL) as study:
        children = Path(f"/proc/{study.pid}/task/{study.pid}/children")
        workers: list[str] = []
        while len(workers) < 2 and study.poll() is None:
            time.sleep(0.1)
            workers = [p for p in children.read_text().split() if "spawn_main" in _command_line(p)]
        study.terminate()
    assert len(workers) == 2
    deadline = time.monotonic() + 60.0
    while any("spawn_main" in _command_line(p) for p in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any("spawn_main" in _command_line(p) for p in workers)


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_unknown_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(GanglionError, match="unknown agent lstm; expected some of amortized"):
        main(Options(agents=("lstm",), output=tmp_path))
    with pytest.raises(GanglionError, match="unknown fault earthquake"):
        main(Options(faults=("earthquake",), output=tmp_path))
