"""Runs on disk: real PyBullet, a few updates."""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ganglion
from ganglion.trainer import Train, parse_train
from runtime.errors import GanglionError
from training.agent.agent import Agent
from training.agent.config import InferenceConfig
from training.checkpoint import BEST, load_agent, load_checkpoint, load_config, save_checkpoint
from training.config import TrainConfig
from training.evaluation import Evaluation, evaluate
from training.interrupts import Interrupted
from training.presets import command_line, preset
from training.progress import STEPS, read_progress
from training.trainer import Status, Trainer, best_return, resume, train

SMALL = replace(
    preset("cartpole"), steps=512, num_envs=4, horizon=32, sequence=16, model_only_steps=200, checkpoint_every=256,
    overshoot=4, model_epochs=1, model_batch=8, eval_every=256, eval_episodes=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Status]]:
    run = tmp_path_factory.mktemp("run") / "a"
    statuses: list[Status] = []
    train(SMALL, run, statuses.append)
    return run, statuses


def test_a_run_reports_logs_and_saves(finished: tuple[Path, list[Status]]) -> None:
    run, statuses = finished
    assert [s.steps for s in statuses] == [128, 256, 384, 512]
    agent, config, steps = load_agent(run)
    assert (config, steps) == (SMALL, 512)
    events = EventAccumulator(str(run))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {
        "model/prediction", "model/overshooting", "train/policy_loss", "rollout/ep_rew_mean", "rollout/ep_len_mean",
        "time/fps", "time/total_timesteps", "eval/mean_reward", "eval/mean_ep_length", "eval/success_rate",
    }  # fmt: skip
    assert [entry[STEPS] for entry in read_progress(run)] == [128, 256, 384, 512]
    assert all(torch.isfinite(p).all() for p in agent.parameters())


def test_the_best_agent_by_its_evaluations_is_kept(finished: tuple[Path, list[Status]]) -> None:
    run, statuses = finished
    evaluated = {s.steps: s.evaluation for s in statuses if s.evaluation is not None}
    assert sorted(evaluated) == [256, 512]
    best, config, steps = load_agent(run, best=True)
    assert isinstance(config, TrainConfig)
    assert best_return(run) == max(e.episode_return for e in evaluated.values())
    assert evaluated[steps] == evaluate(best, config, 2)
    last, _, _ = load_agent(run)
    assert evaluated[512] == evaluate(last, config, 2)


def test_a_worse_agent_does_not_replace_the_best(tmp_path: Path) -> None:
    trainer = Trainer(SMALL, tmp_path, resume=False)
    results = iter([(5.0, 128), (3.0, 256), (5.0, 384), (7.0, 512)])
    kept = []

    class Judge:
        def run(self, agent: Agent) -> Evaluation:
            mean, trainer.steps = next(results)
            return Evaluation(mean, 0.0, 1.0, 0.0, 1)

    for _ in range(4):
        trainer._evaluate(Judge())  # type: ignore[arg-type]
        kept.append((load_checkpoint(tmp_path, BEST)["steps"], best_return(tmp_path)))
    assert kept == [(128, 5.0), (128, 5.0), (384, 5.0), (512, 7.0)]


def test_a_run_without_evaluations_has_no_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(SMALL, steps=128, eval_every=0), tmp_path / "a")
    assert ganglion.main(["export", str(tmp_path / "a"), "-o", str(tmp_path / "a.onnx"), "--best"]) == 2
    assert "has no best.pt: no evaluation ended" in capsys.readouterr().err
    with pytest.raises(GanglionError, match=r"has no best\.pt: no evaluation ended"):
        load_agent(tmp_path / "a", best=True)


def test_a_finished_run_says_so_and_goes_on_when_given_more_steps(
    finished: tuple[Path, list[Status]], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished[0], tmp_path / "a"))
    with pytest.raises(GanglionError, match=r"is finished: 512 of 512 steps; .*--resume .*a --steps 1024"):
        resume(run)
    before = load_checkpoint(run)["agent"]
    statuses: list[Status] = []
    resume(run, statuses.append, steps=768)
    assert [s.steps for s in statuses] == [640, 768]
    after = load_checkpoint(run)["agent"]
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert [entry[STEPS] for entry in read_progress(run)] == [128, 256, 384, 512, 640, 768]
    settings = load_config(run)
    assert isinstance(settings, TrainConfig)
    assert settings.steps == 768


def test_a_run_that_was_killed_before_its_first_update_begins_anew(tmp_path: Path) -> None:
    Trainer(replace(SMALL, steps=128), tmp_path / "a", resume=False)
    (tmp_path / "a" / "checkpoint.pt.tmp").write_bytes(b"torn")
    resume(tmp_path / "a")
    assert load_checkpoint(tmp_path / "a")["steps"] == 128
    assert not list((tmp_path / "a").glob("*.tmp"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"agent": {}}, "Error.* loading state_dict"),
        ({"algorithm": {"parts": {}}}, "optimizer"),
        ({"world_model": 3}, "int"),
        ({"steps": "x"}, "invalid literal"),
    ],
)
def test_a_checkpoint_of_another_agent_or_algorithm(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    trainer = Trainer(SMALL, tmp_path, resume=False)
    save_checkpoint(tmp_path, load_checkpoint(tmp_path) | change)
    with pytest.raises(GanglionError, match=rf"checkpoint.pt is not of the agent and the algorithm \(ppo\).*{reason}"):
        resume(trainer.run)


def test_weights_that_the_last_step_poisoned_are_not_saved(tmp_path: Path) -> None:
    trainer = Trainer(SMALL, tmp_path, resume=False)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        trainer.agent.log_std.fill_(math.inf)
    with pytest.raises(GanglionError, match=r"agent\.log_std is not finite and was not saved"):
        trainer.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == whole


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing fails in the middle."""
    save_checkpoint(tmp_path, {"agent": {"w": torch.ones(4)}, "steps": 1})
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(GanglionError, match=r"cannot write .*checkpoint\.pt \(.*\); make room"):
            save_checkpoint(tmp_path, {"agent": {"w": torch.ones(1_000_000)}, "steps": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "checkpoint.pt").read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_same_seed_same_weights(tmp_path: Path) -> None:
    short = replace(SMALL, steps=256, model_only_steps=100)
    weights = []
    for name, workers in (("a", 1), ("b", 2)):
        train(replace(short, workers=workers), tmp_path / name)
        weights.append(load_checkpoint(tmp_path / name)["agent"])
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_a_walker_learns_around_its_gait(tmp_path: Path) -> None:
    config = replace(
        preset("a1_walk"), steps=512, num_envs=4, horizon=64, model_only_steps=200, workers=1, overshoot=4, eval_every=0
    )  # fmt: skip
    train(config, tmp_path / "a")
    agent, loaded, _ = load_agent(tmp_path / "a")
    assert loaded == config
    assert agent.gait is not None
    state = agent.initial(2)
    assert state["gait"].shape == (2, 8)
    bare = agent.gait(state["gait"], state["z"], torch.zeros(2, agent.gait.corrections))
    torch.testing.assert_close(agent.act(state["z"], state["gait"]), bare, atol=0.1, rtol=0)


def test_a_run_begins_with_the_policy_of_another(finished: tuple[Path, list[Status]], tmp_path: Path) -> None:
    trainer = Trainer(replace(SMALL, start=str(finished[0])), tmp_path / "a", resume=False)
    mine, theirs = trainer.agent.state_dict(), load_checkpoint(finished[0])["agent"]
    taken = {name for name in mine if name.split(".")[0] in ("policy", "critic")}
    assert taken
    assert all(torch.equal(mine[name], theirs[name]) for name in taken)
    assert not torch.equal(mine["encoder.linear.weight"], theirs["encoder.linear.weight"])
    assert mine["log_std"].tolist() == [SMALL.agent.initial_log_std], "exploration begins anew"


def test_a_policy_of_another_size_is_refused(finished: tuple[Path, list[Status]], tmp_path: Path) -> None:
    wider = replace(SMALL, start=str(finished[0]), agent=replace(SMALL.agent, hidden=20))
    with pytest.raises(GanglionError, match=r"task cartpole, hidden 48.* does not fit this agent"):
        train(wider, tmp_path / "a")
    bounded = replace(SMALL, start=str(finished[0]), agent=replace(SMALL.agent, head="deterministic"))
    with pytest.raises(GanglionError, match=r"gaussian head.* does not fit this agent .*deterministic head"):
        train(bounded, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved(tmp_path: Path, signum: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught:
        train(SMALL, tmp_path / "run", lambda status: os.kill(os.getpid(), signum))
    assert caught.value.signum == signum
    assert load_checkpoint(tmp_path / "run")["steps"] == 128
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)


def test_divergence_names_the_term_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(SMALL, tmp_path, resume=False)
    trainer.save()
    with torch.no_grad():
        next(trainer.agent.critic.parameters()).fill_(math.nan)
    with pytest.raises(GanglionError, match=r"train/value_loss.* not finite"):
        trainer.fit()
    assert all(torch.isfinite(v).all() for v in load_checkpoint(tmp_path)["agent"].values())


def test_a_policy_that_is_not_finite_stops_before_it_acts(tmp_path: Path) -> None:
    trainer = Trainer(SMALL, tmp_path, resume=False)
    with torch.no_grad():
        for name, parameter in trainer.agent.model.dynamics.named_parameters():
            if name.endswith("outer_bias"):
                parameter.fill_(math.nan)
    with pytest.raises(GanglionError, match="action is not finite"):
        trainer.fit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "flying"}, "no task 'flying'"),
        ({"algo": "magic"}, "no algorithm 'magic'; expected one of .*ppo"),
        ({"sequence": 7}, "multiple of"),
        ({"overshoot": 16}, "overshoot 16 must be below sequence 16"),
        ({"refine": (0, 9)}, "between 0 and the agent's max_steps 8"),
        ({"device": "abacus"}, "no device 'abacus' on this machine"),
    ],
)
def test_bad_settings(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        train(replace(SMALL, **change), tmp_path / "run")  # type: ignore[arg-type]


def test_the_command_of_a_run_names_what_is_not_usual() -> None:
    config = replace(preset("kuka_reach"), seed=3)
    assert command_line(config) == "ganglion train kuka_reach --seed 3 --steps 1500000"
    inference = InferenceConfig("hold", max_steps=4)
    changed = replace(config, start="runs/a", refine=(0, 1), agent=replace(config.agent, inference=inference))
    line = command_line(changed)
    assert line == (
        "ganglion train kuka_reach --seed 3 --start runs/a --steps 1500000 --refine 0 1 --agent.inference.method hold "
        "--agent.inference.max-steps 4"
    )
    parsed = parse_train(line.split()[2:])
    assert isinstance(parsed, Train)
    assert parsed.config == changed


def test_the_noise_falls_to_its_bound(tmp_path: Path) -> None:
    trainer = Trainer(replace(SMALL, noise_decay=2.5), tmp_path / "a", resume=False)
    largest = []
    trainer.fit(lambda status: largest.append(trainer.agent.log_std.max().item()))
    first = SMALL.agent.initial_log_std
    shares = [(i + 1) / len(largest) for i in range(len(largest))]
    bounds = [first - 2.5 * s for s in shares]
    learned = [b for b, s in zip(bounds, shares, strict=True) if s * SMALL.steps > SMALL.model_only_steps]
    assert largest[-len(learned) :] == pytest.approx(learned)
    assert largest[0] == first


def test_a_folder_that_holds_a_run_is_not_overwritten(finished: tuple[Path, list[Status]]) -> None:
    with pytest.raises(GanglionError, match="already holds a run"):
        train(SMALL, finished[0])


def test_damaged_runs(tmp_path: Path, finished: tuple[Path, list[Status]]) -> None:
    with pytest.raises(GanglionError, match="not a training run"):
        load_config(tmp_path)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_bytes((finished[0] / "config.json").read_bytes())
    with pytest.raises(GanglionError, match="cannot load"):
        load_agent(damaged)
    whole = (finished[0] / "checkpoint.pt").read_bytes()
    (damaged / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GanglionError, match="cannot load"):
        load_agent(damaged)
    settings: TrainConfig = replace(SMALL, agent=replace(SMALL.agent, hidden=20))
    Trainer(settings, tmp_path / "other", resume=False)
    (tmp_path / "other" / "checkpoint.pt").write_bytes(whole)
    with pytest.raises(GanglionError, match="another agent"):
        load_agent(tmp_path / "other")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, finished: tuple[Path, list[Status]]) -> None:
    run = tmp_path / "hostile"
    run.mkdir()
    (run / "config.json").write_bytes((finished[0] / "config.json").read_bytes())
    torch.save({"agent": Path, "steps": 1}, run / "checkpoint.pt")
    with pytest.raises(GanglionError, match="cannot load"):
        load_agent(run)


def test_the_command_of_a_run_switches_what_is_on_or_off() -> None:
    config = preset("cartpole_push", "dqn")
    config = replace(config, options=replace(config.options, double_q=False))  # type: ignore[call-arg]
    config = replace(config, agent=replace(config.agent, precision_by_state=True))
    line = command_line(config)
    assert "--agent.precision-by-state" in line
    assert "--no-double-q" in line
    parsed = parse_train(line.split()[2:])
    assert isinstance(parsed, Train)
    assert parsed.config == config
