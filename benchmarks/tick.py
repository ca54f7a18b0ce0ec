"""One tick in onnxruntime against the same tick in eager torch, interleaved in one run on one thread.

    python -m benchmarks.tick [--refine 0 1 2 4 8] [--ticks 1000] [--json PATH]
    python -m benchmarks.tick --bundle bundles/kuka_reach.onnx

Without a bundle, agents of the sizes given (by default nodes of 64 latents and, above them, 32; 48 channels; hidden
layers of 128 units; 12 actions) are made with random weights, exported and measured; the arithmetic takes the same time
whatever the weights are. `--sizes.latents 32` is a graph of one node. Columns:

controller  the whole Controller.tick: sensing, graph, limits
graph       the graph alone, on bound buffers
torch       eager torch in inference mode: the very code that was traced
autograd    the same with the gradient of the free energy by autograd, as predictive-coding libraries take it; only for
            methods whose step is a multiple of the gradient
kernel      the refinement steps alone, fused by hand in C and built here, where there is a compiler; only for the
            method `gradient` on two nodes

The torch columns infer and act on tensors that are ready, without sensing and limits. A bundle has no torch columns.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.kernel import kernel
from export.exporter import carried_states, refinement_of
from export.graph import build_model
from runtime.bundle import Bundle
from runtime.contract import Action, Contract, Health, Node, Observation, Provenance
from runtime.controller import Controller
from runtime.files import write_json
from runtime.inference import Inference
from runtime.sample import Sample
from training.agent.agent import Agent
from training.agent.config import AgentConfig, InferenceConfig
from training.agent.inference import Gradient

_ROUNDS = 20
_COLUMNS = ("controller", "graph", "torch", "autograd", "kernel")

Tick = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """Sizes of an agent with random weights."""

    latents: tuple[int, ...] = (64, 32)
    """Of each node, from the one that predicts the channels upwards."""
    channels: int = 48
    """The first ones are tied to the first latents of the lowest node, two of three at most."""
    actions: int = 12
    hidden: int = 128


@dataclass(frozen=True)
class Options:
    """Compare the tick's speed."""

    bundle: Path | None = None
    """Measure this bundle (.onnx) instead of agents with random weights."""
    methods: tuple[str, ...] = ("amortized", "gradient", "diagonal", "gauss_newton")
    """Methods of the agents with random weights."""
    refine: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Numbers of refinement steps."""
    ticks: int = 1000
    """Ticks per figure."""
    sizes: Sizes = field(default_factory=Sizes)
    json: Path | None = None
    """Also write the figures to this file."""


def main(options: Options) -> dict[str, Any]:
    """Measure, print a table, write JSON, and return what is written."""
    torch.set_num_threads(1)
    rows = list(_bundle_rows(options) if options.bundle else _random_rows(options))
    figures = interleaved([ticks for _, _, ticks in rows], options.ticks)
    results: list[dict[str, Any]] = [{"method": m, "refine": k} | f for (m, k, _), f in zip(rows, figures)]
    table = Table("method", "K", *(f"{name} µs" for name in _COLUMNS), "torch / graph", "autograd / graph")
    for row in results:
        cells = (f"{row[n]['p50_us']:.0f} (p99 {row[n]['p99_us']:.0f})" if n in row else "" for n in _COLUMNS)
        ratios = (f"{row[n]:.1f}" if n in row else "" for n in ("torch_over_graph", "autograd_over_graph"))
        table.add_row(row["method"], str(row["refine"]), *cells, *ratios)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    measured = {"bundle": str(options.bundle)} if options.bundle else {"sizes": vars(options.sizes)}
    written = measured | {"ticks": options.ticks, "rows": results}
    if options.json:
        write_json(options.json, written)
    return written


def _bundle_rows(options: Options) -> Iterator[tuple[str, int, dict[str, Tick]]]:
    assert options.bundle is not None
    bundle = Bundle.load(options.bundle)
    for steps in options.refine:
        if steps <= bundle.contract.refinement.max_steps:
            yield bundle.contract.refinement.method, steps, deployed_ticks(bundle, steps)


def _random_rows(options: Options) -> Iterator[tuple[str, int, dict[str, Tick]]]:
    for method in track(options.methods, "export", console=Console(stderr=True), transient=True):
        agent = random_agent(method, options.sizes)
        bundle = Bundle(Path(f"random {method} agent"), _contract(agent), build_model(agent).SerializeToString())
        for steps in options.refine if bundle.contract.refinement.max_steps else (0,):
            ticks = deployed_ticks(bundle, steps) | {"torch": _torch_tick(agent, steps)}
            if method == "gradient" and steps and (fused := _kernel_tick(agent, steps)):
                ticks["kernel"] = fused
            if isinstance(agent.method, Gradient):
                ticks["autograd"] = _autograd_tick(agent, steps)
            yield method, steps, ticks


def interleaved(rows: list[dict[str, Tick]], count: int) -> list[dict[str, Any]]:
    """Everything in turn for a part of `count`, so that a busy moment of the machine meets all of them."""
    durations: list[dict[str, list[float]]] = [{name: [] for name in ticks} for ticks in rows]
    gc.collect()
    gc.disable()
    for _ in track(range(_ROUNDS), "ticks", console=Console(stderr=True), transient=True):
        for ticks, times in zip(rows, durations):
            for name, tick in ticks.items():
                for _ in range(3):
                    tick()
                for _ in range(max(1, count // _ROUNDS)):
                    begin = time.perf_counter_ns()
                    tick()
                    times[name].append((time.perf_counter_ns() - begin) * 1e-3)
    gc.enable()
    return [_figures(times) for times in durations]


def _figures(durations: dict[str, list[float]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, values in durations.items():
        p50, p99 = np.percentile(values, (50, 99))
        figures[name] = {"min_us": min(values), "p50_us": float(p50), "p99_us": float(p99), "max_us": max(values)}
    for name in ("torch", "autograd"):
        if name in durations:
            figures[f"{name}_over_graph"] = float(np.median(durations[name]) / np.median(durations["graph"]))
    return figures


def random_agent(method: str, sizes: Sizes) -> Agent:
    """An agent with random weights, whose leading channels are tied to the latents of the lowest node."""
    torch.manual_seed(0)
    names = [f"level_{i}" for i in range(len(sizes.latents))]
    nodes = [Node(n, size, above) for n, size, above in zip(names, sizes.latents, [*((n,) for n in names[1:]), ()])]
    config = AgentConfig(
        nodes=tuple(reversed(nodes)),
        acting_node=nodes[0].name,
        tied=tuple(range(min(sizes.latents[0], 2 * sizes.channels // 3))),
        hidden=sizes.hidden,
        inference=InferenceConfig(method),
    )
    agent = Agent(config, sizes.channels, sizes.actions)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # what starts at zero would be left out of the graph
        if method == "gradient" and agent.method.steps is not None:  # learned ones know the curvature
            agent.method.steps.raw.fill_(math.log(1e-3))
    return agent.eval()


def _contract(agent: Agent) -> Contract:
    """Of a robot that has nothing but channels and joints."""
    d, a = agent.observation_size, agent.action_size
    channels, joints = tuple(f"channel_{i}" for i in range(d)), tuple(f"joint_{i}" for i in range(a))
    return Contract(
        robot="random",
        rate_hz=100.0,
        observations=(
            Observation(
                name="reading", kind="joint_velocity", topic="joint_states", channels=channels, unit="1",
                mean=(0.0,) * d, scale=(1.0,) * d, low=(-100.0,) * d, high=(100.0,) * d, max_age_s=1.0, min_valid=0,
            ),
        ),
        action=Action(
            kind="effort", mode="absolute", topic="command", joints=joints, unit="1", scale=(1.0,) * a,
            offset=(0.0,) * a, low=(-1.0,) * a, high=(1.0,) * a, max_rate=(1000.0,) * a, safe="zero",
        ),
        nodes=agent.config.nodes,
        acting_node=agent.config.acting_node,
        states=carried_states(agent),
        refinement=refinement_of(agent),
        health=Health(),
        provenance=Provenance("none", "none", 0, 0, "benchmarks/tick.py", "none", "", {}),
    )  # fmt: skip


def deployed_ticks(bundle: Bundle, steps: int) -> dict[str, Tick]:
    """The whole tick, and the graph alone; each has its own session."""
    controller, inference = Controller(bundle, steps), Inference(bundle)
    controller.warm_up()
    readings = np.random.default_rng(0).standard_normal(bundle.contract.layout.size)
    sample = Sample(bundle.contract)
    sample.put_flat(np.clip(controller.layout.mean + readings * controller.layout.scale,
                            controller.layout.low, controller.layout.high), 0)  # fmt: skip
    inference.observation[...] = readings
    inference.mask[...] = inference.fresh[...] = 1.0
    inference.refine[0] = steps
    return {"controller": lambda: controller.tick(sample, 0), "graph": inference.run}


def _inputs(agent: Agent) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Observation, mask, last action and carried state."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, agent.observation_size))).float()
    return x, torch.ones_like(x), torch.zeros(1, agent.action_size), agent.initial()


def _torch_tick(agent: Agent, steps: int) -> Tick:
    x, mask, action, state = _inputs(agent)
    k = torch.tensor([steps])

    @torch.inference_mode()
    def tick() -> torch.Tensor:
        return agent.act(agent.infer(x, mask, action, state, k, mask).z)

    return tick


def _kernel_tick(agent: Agent, steps: int) -> Tick | None:
    """Raises RuntimeError unless it refines as torch does."""
    if len(agent.config.nodes) != 2:
        return None
    x, mask, action, state = _inputs(agent)
    with torch.no_grad():
        start, _ = agent.start(x, mask, action, state, mask)
        z = start.z
        for k in range(steps):
            z, _ = agent.refine(z, x, start, torch.tensor(k), torch.tensor([steps]))
    run = kernel(agent, start, x, steps)
    if run is not None and not np.allclose(run(), z[0].numpy(), rtol=1e-3, atol=1e-3):
        raise RuntimeError(f"the kernel in C and torch differ after {steps} steps")
    return run


def _autograd_tick(agent: Agent, steps: int) -> Tick:
    x, mask, action, state = _inputs(agent)
    sizes = agent.method.steps
    assert sizes is not None
    k = torch.tensor([steps])

    @torch.no_grad()
    def tick() -> torch.Tensor:
        start, _ = agent.start(x, mask, action, state, mask)
        z = start.z
        for i in range(steps):
            with torch.enable_grad():
                at = z.detach().requires_grad_(True)
                free_energy = agent.model.free_energy(at, x, start.mask, start.prior).sum()
            (gradient,) = torch.autograd.grad(free_energy, at)
            z = z - start.gain * sizes(torch.tensor(i), k) * gradient
        return agent.act(agent.finish(start, z, x)[0]["z"])

    return tick


if __name__ == "__main__":
    main(tyro.cli(Options))
