"""A run on disk: its settings as JSON and its weights as tensors that load without running code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from runtime.contract import Layout
from runtime.errors import ContractError, GanglionError
from runtime.files import synchronise, write_json
from runtime.schema import from_plain, to_plain
from training.agent.agent import Agent
from training.algorithms import algorithm_class
from training.bag_config import BagConfig
from training.config import TrainConfig
from training.errors import DivergedError

CONFIG, CHECKPOINT, BEST = "config.json", "checkpoint.pt", "best.pt"

Config = TrainConfig | BagConfig
"""Of a run in simulation, or from bags."""


def build_agent(config: Config) -> Agent:
    """A new agent of the sizes that the run's task needs. Raises GanglionError for an unknown task."""
    info = config.info()
    layout = Layout(info.observations, info.action)
    return Agent(config.agent, layout.size, layout.joints)


def save_config(run: Path, config: Config) -> None:
    """Write the run's settings."""
    write_json(run / CONFIG, to_plain(config))


def load_config(run: Path) -> Config:
    """Settings of a run. Raises GanglionError if `run` is not one."""
    path = run / CONFIG
    try:
        plain = json.loads(path.read_text())
        if isinstance(plain, dict) and "bags" in plain:
            return from_plain(BagConfig, plain, str(path))
        return _train_config(plain, str(path))
    except (OSError, ValueError, GanglionError) as error:
        raise GanglionError(f"{run} is not a training run ({error}); make one with 'ganglion train TASK'") from error


def _train_config(plain: Any, where: str) -> TrainConfig:
    """The class of the options depends on the algorithm."""
    if not isinstance(plain, dict) or not isinstance(plain.get("algo"), str):
        raise ContractError(f"{where}: expected an object with the name of an algorithm under 'algo'")
    known = algorithm_class(plain["algo"]).options_class
    options = from_plain(known, plain.get("options", {}), f"{where}.options")
    rest = {name: value for name, value in plain.items() if name != "options"}
    return replace(from_plain(TrainConfig, rest, where), options=options)


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Write `state` so that a crash leaves either the old or the new checkpoint whole."""
    save_tensors(run / CHECKPOINT, state)


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`, all or nothing.

    Raises GanglionError if a tensor is not finite, or the file cannot be written; the old one is whole then.
    """
    bad = next(_not_finite(state), None)
    if bad is not None:
        raise DivergedError(f"{bad} is not finite and was not saved; resume with smaller learning rates")
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        synchronise(temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch raises the latter where its writing fails
        with suppress(OSError):
            temporary.unlink()
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise GanglionError(f"cannot write {path} ({reason}); make room, then resume from the last one") from error


def _not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Names of the tensors in nested dicts and lists that hold NaN or infinity."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and not torch.isfinite(value).all():
            yield name
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(part, f"{name}.{key}" if name else str(key))


def load_checkpoint(run: Path, name: str = CHECKPOINT) -> dict[str, Any]:
    """A checkpoint of the run, the last one by default.

    Raises GanglionError if there is none, it is damaged, or holds more than tensors.
    """
    path = run / name
    try:
        _check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged files torch raises many unrelated types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise GanglionError(f"cannot load {path} ({reason}); train again or copy the run again") from error
    if not isinstance(state, dict):
        raise GanglionError(f"cannot load {path}: it holds a {type(state).__name__}, expected a dict; train again")
    return state


def _check_archive(path: Path) -> None:
    """Raises ValueError unless it is an archive as torch writes it, which unpacks to no more than its own size."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("its archive unpacks to more than its own size, which no checkpoint does")


def load_agent(run: Path, best: bool = False) -> tuple[Agent, Config, int]:
    """Trained agent, settings and the number of steps it was trained for: the last, or the best by its evaluations.

    Raises GanglionError if they cannot be loaded, or do not fit each other.
    """
    config = load_config(run)
    name = BEST if best else CHECKPOINT
    if best and not (run / BEST).exists():
        raise GanglionError(f"{run} has no {BEST}: no evaluation ended (eval_every); take the last checkpoint instead")
    state = load_checkpoint(run, name)
    agent = build_agent(config)
    try:
        agent.load_state_dict(state["agent"])
        steps = int(state["steps"])
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise GanglionError(
            f"{run / name} holds weights of another agent than {run / CONFIG} describes; train again"
        ) from error
    return agent, config, steps
