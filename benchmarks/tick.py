"""One tick in onnxruntime against the same tick in eager torch, interleaved in one run on one thread.

    python benchmarks/tick.py [bundles/kuka_reach.onnx] [--refine 0,1,2,4,8,16] [--ticks 2000] [--json PATH]

Four columns per number of refinement steps K:

controller  the whole Controller.tick: sensing, graph, limits
graph       the graph alone, on bound buffers
autograd    eager torch, the gradient of the free energy by autograd, as predictive-coding libraries do
torch       eager torch in inference mode, the gradient written out by hand: the very code that was traced

The torch columns infer and act on tensors that are ready, without sensing and limits. The time of the arithmetic does
not depend on the weights, so they run an agent of the bundle's sizes with random ones.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.files import write_json
from runtime.sample import Sample
from training.agent.agent import Agent
from training.agent.config import AgentConfig

_ROUNDS = 20
_COLUMNS = ("controller", "graph", "autograd", "torch")


@dataclass(frozen=True)
class Options:
    """Compare the tick's speed."""

    bundle: Annotated[Path, tyro.conf.Positional] = Path("bundles/kuka_reach.onnx")
    """Bundle (.onnx)."""
    refine: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    """Numbers of refinement steps."""
    ticks: int = 2000
    """Ticks per column and K."""
    hidden: int = 64
    """Width of torch's hidden layers, as in the bundle."""
    json: Path | None = None
    """Also write the figures to this file."""


def main(options: Options) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(1)
    bundle = Bundle.load(options.bundle)
    results = {}
    for steps in track(options.refine, "ticks", console=Console(stderr=True), transient=True):
        ticks = {
            "controller": _controller_tick(bundle, steps),
            "graph": _graph_tick(bundle, steps),
            "autograd": _torch_tick(bundle, steps, options.hidden, by_autograd=True),
            "torch": _torch_tick(bundle, steps, options.hidden, by_autograd=False),
        }
        results[str(steps)] = _interleaved(ticks, options.ticks)
    table = Table("K", *(f"{name} µs" for name in _COLUMNS), "autograd / controller", "torch / controller")
    for k, r in results.items():
        cells = (f"{r[name]['p50_us']:.0f} (p99 {r[name]['p99_us']:.0f})" for name in _COLUMNS)
        table.add_row(k, *cells, *(f"{r[f'{name}_over_controller']:.1f}" for name in ("autograd", "torch")))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    if options.json:
        write_json(options.json, {"bundle": str(options.bundle), "ticks": options.ticks, "refine": results})


def _interleaved(ticks: dict[str, Callable[[], object]], count: int) -> dict[str, Any]:
    """Each in turn for a part of `count`, so that a busy moment of the machine meets all of them."""
    durations: dict[str, list[float]] = {name: [] for name in ticks}
    gc.collect()
    gc.disable()
    for _ in range(_ROUNDS):
        for name, tick in ticks.items():
            for _ in range(3):
                tick()
            for _ in range(max(1, count // _ROUNDS)):
                begin = time.perf_counter_ns()
                tick()
                durations[name].append((time.perf_counter_ns() - begin) * 1e-3)
    gc.enable()
    figures: dict[str, Any] = {}
    for name, values in durations.items():
        p50, p99 = np.percentile(values, (50, 99))
        figures[name] = {"p50_us": float(p50), "p99_us": float(p99), "max_us": float(max(values))}
    for name in ("autograd", "torch"):
        figures[f"{name}_over_controller"] = float(np.median(durations[name]) / np.median(durations["controller"]))
    return figures


def _controller_tick(bundle: Bundle, steps: int) -> Callable[[], object]:
    controller = Controller(bundle, steps)
    controller.warm_up()
    sample = Sample(bundle.contract)
    sample.put_flat(controller.layout.mean, 0)
    return lambda: controller.tick(sample, 0)


def _graph_tick(bundle: Bundle, steps: int) -> Callable[[], object]:
    inference = Controller(bundle, steps).inference
    inference.refine[0] = steps
    inference.mask[...] = 1.0
    return inference.run


def _torch_tick(bundle: Bundle, steps: int, hidden: int, by_autograd: bool) -> Callable[[], object]:
    contract = bundle.contract
    config = AgentConfig(nodes=contract.nodes, acting_node=contract.acting_node, hidden=hidden)
    agent = Agent(config, contract.layout.size, contract.layout.joints).eval()
    x, mask = torch.zeros(1, contract.layout.size), torch.ones(1, contract.layout.size)
    z, action, k = torch.zeros(1, agent.model.size), torch.zeros(1, contract.layout.joints), torch.tensor([steps])

    @torch.no_grad()
    def autograd_tick() -> torch.Tensor:
        start = agent.start(x, mask, z, action)
        refined = start.z
        for _ in range(steps):
            with torch.enable_grad():
                at = refined.detach().requires_grad_(True)
                free_energy = agent.model.free_energy(at, x, mask, start.drive).sum()
            (gradient,) = torch.autograd.grad(free_energy, at)
            refined = refined - start.gain * gradient
        return agent.act(agent.finish(start, refined, x, mask).z)

    @torch.inference_mode()
    def tick() -> torch.Tensor:
        belief, _ = agent.infer(x, mask, z, action, k)
        return agent.act(belief.z)

    return autograd_tick if by_autograd else tick


if __name__ == "__main__":
    main(tyro.cli(Options))
