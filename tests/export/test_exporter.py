"""A run to a bundle and back: real training, real PyBullet, real onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.exporter import ExportReport, commands, describe, draft, export
from export.record import record_faulty
from runtime.bundle import Bundle
from runtime.contract import Contract, Health, SensorChecks
from runtime.controller import Controller
from runtime.errors import GanglionError
from runtime.sample import Sample
from runtime.sensing import Reason
from sim.tasks import TASKS
from training.agent.sensors import OFF
from training.checkpoint import build_agent, load_agent, save_config
from training.presets import command_line, preset
from training.trainer import train

SMALL = replace(preset("cartpole"), steps=256, num_envs=4, horizon=32, sequence=16, model_only_steps=100)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ExportReport, list[str]]:
    folder = tmp_path_factory.mktemp("export")
    train(SMALL, folder / "run")
    stages: list[str] = []
    report = export(folder / "run", folder / "out" / "cartpole.onnx", stages.append)
    return folder / "run", folder / "out" / "cartpole.onnx", report, stages


def test_the_bundle_says_where_it_came_from_and_what_was_checked(
    exported: tuple[Path, Path, ExportReport, list[str]],
) -> None:
    _, path, report, stages = exported
    contract = Bundle.load(path).contract
    assert contract == report.contract
    assert report.size_bytes == path.stat().st_size
    assert contract.parity is not None
    assert (contract.parity.observations, contract.parity.sequence_ticks) == (1000, 500)
    assert contract.parity.refine == (0, 1, 4)
    assert contract.parity.masked_fraction > 0
    assert contract.parity.max_difference < 1e-4
    assert contract.provenance.task == "cartpole"
    assert contract.provenance.steps == 256
    assert contract.refinement.method == "gauss_newton"
    assert set(contract.health.refine) == {"0", "1", "2", "4", "8"}
    quantiles = contract.health.refine["4"].free_energy
    assert list(quantiles) == sorted(quantiles)
    assert stages[0] == "load the run"
    assert stages[-3:] == ["record failing sensors", "compare torch and onnxruntime", "calibrate the health signals"]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name], "no temporary file is left"


def test_the_checks_are_in_the_contract_and_in_the_graph(
    exported: tuple[Path, Path, ExportReport, list[str]],
) -> None:
    """A reading that repeats itself is found frozen at the number of repeats that the contract names."""
    _, path, _, _ = exported
    controller = Controller(Bundle.load(path))
    contract = controller.contract
    assert list(contract.checks.channels) == list(contract.layout.channels)
    assert contract.checks.ticks > 1000
    for check in contract.checks.channels.values():
        assert check.spike == 0 or check.spike >= 4.0
        assert check.drift == 0 or check.drift >= 4.0
        assert max(check.gate_false_alarm, check.frozen_false_alarm) <= 1e-3
    name = contract.layout.channels[0]
    least = contract.checks.channels[name].repeats
    assert least >= 2
    sample, rng = Sample(contract), np.random.default_rng(0)
    frozen = []
    for tick in range(least + 3):
        values = 0.01 * rng.standard_normal(4)
        values[0] = 0.125
        sample.put_flat(values, tick)
        frozen.append(bool(controller.tick(sample, tick).reasons[0] & Reason.FROZEN))
    assert frozen == [False] * least + [True] * 3


def test_the_gate_saw_sensor_faults(exported: tuple[Path, Path, ExportReport, list[str]]) -> None:
    """What the gate compares is recorded so: the first 500 ticks hold every verdict."""
    _, path, _, _ = exported
    recording = record_faulty(Bundle.load(path), "cartpole", SMALL.seed, (0, 1, 4)).first(500)
    assert set(recording["verdict"].flat) == {0, 1, 2}
    assert 0 < recording["fresh"].mean() < 1


def test_a_draft_acts_like_the_bundle_until_a_check_speaks(
    exported: tuple[Path, Path, ExportReport, list[str]],
) -> None:
    run, path, _, _ = exported
    bundle, rough = Bundle.load(path), draft(run)
    assert rough.contract == replace(
        bundle.contract, checks=SensorChecks(), health=Health(), parity=None, digest=rough.contract.digest,
        provenance=replace(bundle.contract.provenance, created=rough.contract.provenance.created),
    )  # fmt: skip
    sample = Sample(bundle.contract)
    sample.put_flat(np.array((0.1, 0.02, -0.1, 0.03)), 0)
    here, there = (Controller(b, 1).tick(sample, 0) for b in (bundle, rough))
    np.testing.assert_array_equal(here.values, there.values)


def test_the_controller_acts_as_the_torch_agent(exported: tuple[Path, Path, ExportReport, list[str]]) -> None:
    run, path, _, _ = exported
    agent = load_agent(run)[0]
    controller = Controller(Bundle.load(path), 4)
    for name in ("spike", "drift", "repeats"):
        bounds = [getattr(c, name) or OFF for c in controller.contract.checks.channels.values()]
        getattr(agent.sensors, name).copy_(torch.tensor(bounds))
    task = TASKS["cartpole"]
    sample, rng = Sample(controller.contract), np.random.default_rng(0)
    state, previous = agent.initial(), torch.zeros(1, 1)
    mean, scale = controller.layout.mean, controller.layout.scale
    for tick in range(50):
        values = mean + 0.3 * scale * rng.standard_normal(4)
        values[tick % 4] = np.nan
        sample.put_flat(values, tick)
        command = controller.tick(sample, tick).values
        mask = torch.as_tensor(np.isfinite(values), dtype=torch.float32)[None]
        x = torch.as_tensor(np.nan_to_num((values - mean) / scale), dtype=torch.float32)[None] * mask
        with torch.no_grad():
            belief = agent.infer(x, mask, previous, state, torch.tensor([4]), torch.ones_like(x))
            action = agent.act(belief.z).clamp(-1, 1)
        state, previous = belief.state, action
        np.testing.assert_allclose(command, task.action.scale[0] * action[0].numpy(), atol=1e-4)


def test_a_policy_that_holds_the_last_value_checks_nothing(tmp_path: Path) -> None:
    hold = replace(SMALL.agent, inference=replace(SMALL.agent.inference, method="hold"))
    train(replace(SMALL, refine=(0,), agent=hold), tmp_path / "run")
    stages: list[str] = []
    contract = export(tmp_path / "run", tmp_path / "hold.onnx", stages.append).contract
    assert contract.checks == SensorChecks()
    assert contract.refinement.method == "hold"
    assert not any("sensor checks" in stage for stage in stages)
    assert Bundle.load(tmp_path / "hold.onnx").contract == contract


def test_checks_may_be_left_out(exported: tuple[Path, Path, ExportReport, list[str]], tmp_path: Path) -> None:
    run, path, _, _ = exported
    contract = export(run, tmp_path / "b.onnx", checks=False).contract
    assert contract.checks == SensorChecks()
    assert contract.parity is not None
    assert set(contract.health.refine) == set(Bundle.load(path).contract.health.refine)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_makes_a_contract_that_survives_its_file(task: str) -> None:
    config = preset(task)
    contract = describe(build_agent(config), config, 0)
    assert Contract.from_json(contract.to_json()) == contract


def test_the_commands_of_runs_that_started_from_one_another(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    save_config(first, SMALL)
    save_config(second, replace(SMALL, seed=2, start=str(first)))
    third = replace(SMALL, seed=3, start=str(second))
    one, two, three = commands(third).split(" && ")
    assert one == f"{command_line(SMALL)} --output {first}"
    assert two.endswith(f" --seed 2 --start {first} {command_line(SMALL).split(' --seed 0 ')[1]} --output {second}")
    assert three == command_line(third)
    assert commands(replace(third, start="nowhere")) == command_line(replace(third, start="nowhere"))


def test_exporting_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(GanglionError, match="not a training run"):
        export(tmp_path, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()
