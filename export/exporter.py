"""A run to a bundle: describe, trace, calibrate the checks, gate, calibrate the health signals, write."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
from onnx import helper

from export.checks import calibrate_checks
from export.gate import check_parity
from export.graph import build_model
from export.health import NAMES, calibrate, calibrate_on
from export.record import record_faulty
from export.recorded import HeldOut
from runtime.bundle import METADATA_KEY, Bundle, graph_digest
from runtime.contract import WITHOUT_STEPS, Contract, Health, Provenance, Refinement, SensorChecks, State
from runtime.errors import GanglionError
from runtime.files import write_bytes
from runtime.source import source_commit
from training.agent.agent import Agent
from training.agent.inference import Hold
from training.bag_config import BagConfig
from training.checkpoint import Config, load_agent, load_config
from training.presets import command_line

_PACKAGES = ("ganglion", "torch", "onnx", "onnxruntime", "pybullet", "numpy")


@dataclass(frozen=True)
class ExportReport:
    """What an export measured."""

    contract: Contract
    size_bytes: int


def export(
    run: Path,
    output: Path,
    report: Callable[[str], None] | None = None,
    workers: int = 1,
    checks: bool = True,
    best: bool = False,
) -> ExportReport:
    """Write the trained agent of `run`, the last or the `best` one, as the bundle `output`, atomically.

    `report` is called with the name of each stage. So many `workers` fly what is calibrated. Without `checks`, every
    reading that arrives in its range is believed.

    Raises GanglionError if the run cannot be loaded, and ParityError if
    onnxruntime does not compute what torch does.
    """
    say = report or (lambda stage: None)
    say("load the run")
    agent, config, steps = load_agent(run, best)
    agent.eval()
    contract = describe(agent, config, steps)
    with tempfile.TemporaryDirectory() as folder:

        def drafted(agent: Agent) -> Bundle:
            return Bundle.load(write_bundle(Path(folder) / "draft.onnx", build_model(agent), contract))

        if isinstance(config, BagConfig):  # a recording is far too short to bound false alarms of one in a thousand
            bundle, found = drafted(agent), SensorChecks()
        elif checks and not isinstance(agent.method, Hold):  # which predicts nothing that a reading could contradict
            bundle, found = calibrate_checks(
                agent, drafted, config.task, config.seed, say, workers, worlds=config.simulated_worlds()
            )
        else:
            bundle, found = drafted(agent), SensorChecks()
    say("record failing sensors")
    refine = refine_to_compare(config, contract)
    if isinstance(config, BagConfig):
        ticks = HeldOut(run, config).faulty(bundle, refine)
    else:
        ticks = record_faulty(bundle, config.task, config.seed, refine)
    say("compare torch and onnxruntime")
    parity = check_parity(agent, bundle, ticks, refine)
    say("calibrate the health signals")
    if isinstance(config, BagConfig):
        held_out = HeldOut(run, config)
        health = calibrate_on(bundle, lambda k: held_out.healthy(bundle, k, NAMES))
    else:
        health = calibrate(bundle, config.task, config.seed, workers=workers, worlds=config.simulated_worlds())
    contract = replace(contract, checks=found, parity=parity, health=health)
    write_bundle(output, onnx.load_model_from_string(bundle.model), contract)
    return ExportReport(Bundle.load(output).contract, output.stat().st_size)


def draft(run: Path) -> Bundle:
    """The agent of `run` as it is, neither calibrated nor compared with torch, to look at.

    Raises GanglionError if the run cannot be loaded.
    """
    agent, config, steps = load_agent(run)
    agent.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = write_bundle(Path(folder) / "draft.onnx", build_model(agent), describe(agent, config, steps))
        return Bundle.load(path)


def write_bundle(path: Path, model: onnx.ModelProto, contract: Contract) -> Path:
    """Put the contract, with the graph's digest, into the model's metadata and write the file atomically."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    contract = replace(contract, digest=graph_digest(bare.SerializeToString()))
    helper.set_model_props(bare, {METADATA_KEY: contract.to_json()})
    write_bytes(path, bare.SerializeToString())
    return path


def describe(agent: Agent, config: Config, steps: int) -> Contract:
    """The contract of an agent, without checks, parity, health and digest."""
    task = config.info()
    return Contract(
        robot=task.robot.name,
        rate_hz=task.rate_hz,
        observations=task.observations,
        action=task.action,
        nodes=config.agent.nodes,
        acting_node=config.agent.acting_node,
        states=carried_states(agent),
        refinement=refinement_of(agent),
        health=Health(),
        provenance=Provenance(
            task=config.task,
            algorithm=config.algo,
            seed=config.seed,
            steps=steps,
            command=commands(config),
            commit=source_commit(),
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            versions={name: _version(name) for name in _PACKAGES},
        ),
    )


def commands(config: Config) -> str:
    """What trained the run, and before it the runs that it started from, as far as their folders are still there."""
    if isinstance(config, BagConfig):
        return config.command_line()
    own = command_line(config)
    try:
        first = commands(load_config(Path(config.start))) if config.start else ""
    except GanglionError:
        return own
    return f"{first} --output {config.start} && {own}" if first else own


def carried_states(agent: Agent) -> tuple[State, ...]:
    """What the agent's graph carries from tick to tick."""
    return tuple(State(n, tuple(v.shape), tuple(v.flatten().tolist())) for n, v in agent.initial().items())


def refinement_of(agent: Agent) -> Refinement:
    """Methods without steps make none, whatever their settings allow."""
    settings, steps = agent.config.inference, agent.method.steps
    refines = settings.method not in WITHOUT_STEPS
    carried = agent.initial().get("P")
    return Refinement(
        method=settings.method,
        default_steps=settings.default_steps if refines else 0,
        max_steps=settings.max_steps if refines else 0,
        step_sizes=tuple(steps.table()[-1].tolist()) if steps is not None and steps.schedule == "learned" else (),
        covariance_block=0 if carried is None else carried.shape[-1],
    )


def refine_to_compare(config: Config, contract: Contract) -> tuple[int, ...]:
    """K = 0, 1 and the largest that was trained, as far as the bundle allows them."""
    return tuple(sorted({min(k, contract.refinement.max_steps) for k in (0, 1, max(config.refine))}))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
