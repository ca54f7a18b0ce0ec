"""A run to a bundle and back: real training, real PyBullet, real onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export.exporter import ExportReport, describe, export, write_bundle
from export.gate import ParityError, check_parity
from export.graph import build_model
from export.record import record_ticks
from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import GanglionError
from runtime.sample import Sample
from sim.tasks import TASKS
from tests.training.test_trainer import SMALL
from training.checkpoint import build_agent, load_agent
from training.config import preset
from training.trainer import train


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ExportReport]:
    folder = tmp_path_factory.mktemp("export")
    train(replace(SMALL, steps=256), folder / "run")
    report = export(folder / "run", folder / "out" / "cartpole.onnx")
    return folder / "run", folder / "out" / "cartpole.onnx", report


def test_the_bundle_says_where_it_came_from_and_what_was_checked(exported: tuple[Path, Path, ExportReport]) -> None:
    _, path, report = exported
    contract = Bundle.load(path).contract
    assert contract == report.contract
    assert contract.parity is not None
    assert contract.parity.observations >= 200
    assert contract.parity.refine == (0, 1, 8)
    assert contract.parity.masked_fraction > 0
    assert contract.parity.max_difference < 1e-4
    assert contract.provenance.task == "cartpole"
    assert contract.provenance.steps == 256
    assert set(contract.health.refine) == {"0", "1", "2", "4", "8", "16"}
    quantiles = contract.health.refine["4"].free_energy
    assert list(quantiles) == sorted(quantiles)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name], "no temporary file is left"


def test_the_controller_acts_as_the_torch_agent(exported: tuple[Path, Path, ExportReport]) -> None:
    run, path, _ = exported
    agent = load_agent(run)[0]
    controller = Controller(Bundle.load(path), 4)
    task = TASKS["cartpole"]
    sample, rng = Sample(controller.contract), np.random.default_rng(0)
    z, previous = torch.zeros(1, agent.model.size), torch.zeros(1, 1)
    mean, scale = controller.layout.mean, controller.layout.scale
    for tick in range(50):
        values = mean + 0.3 * scale * rng.standard_normal(4)
        values[tick % 4] = np.nan
        sample.put_flat(values, tick)
        command = controller.tick(sample, tick).values
        mask = torch.as_tensor(np.isfinite(values), dtype=torch.float32)[None]
        x = torch.as_tensor(np.nan_to_num((values - mean) / scale), dtype=torch.float32)[None] * mask
        with torch.no_grad():
            belief, _ = agent.infer(x, mask, z, previous, torch.tensor([4]))
            action = agent.act(belief.z).clamp(-1, 1)
        z, previous = belief.z, action
        np.testing.assert_allclose(command, task.action.scale[0] * action[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_makes_a_contract_that_survives_its_file(task: str, tmp_path: Path) -> None:
    config = preset(task)
    agent = build_agent(config)
    contract = describe(agent, config, 0)
    path = write_bundle(tmp_path / "b.onnx", build_model(agent), contract)
    loaded = Bundle.load(path).contract
    assert replace(loaded, digest="") == contract
    Controller(Bundle.load(path)).warm_up(2)


def test_the_gate_catches_other_weights(exported: tuple[Path, Path, ExportReport], tmp_path: Path) -> None:
    run, path, report = exported
    agent = load_agent(run)[0].eval()
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("observation.inner_bias"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.05, tensor.name))
    altered = Bundle.load(write_bundle(tmp_path / "altered.onnx", model, report.contract))
    ticks = record_ticks(altered, "cartpole", 0, 200)
    with pytest.raises(ParityError, match=r"differs from torch by .* at K = "):
        check_parity(agent, altered, ticks)


def test_exporting_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(GanglionError, match="not a training run"):
        export(tmp_path, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()
