"""Whether logged episodes rank policies as their true returns do.

    python -m benchmarks.off_policy [--json PATH]

The policies are a bundle with its commands multiplied by five gains: the weaker, the sooner the pole falls. The logs
are of the bundle itself with noise of three sizes; fitted Q-evaluation judges the five by the logs alone, and the
simulation tells the truth. With noise on the judged bundle's commands as well, the importance weighted and doubly
robust estimators apply too, and say how few episodes they rest on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from runtime.bundle import Bundle
from runtime.files import shipped_bundle, write_json
from training.off_policy.collect import collect
from training.off_policy.estimators import discounted_return
from training.off_policy.judge import judge
from training.off_policy.log import join_logs

_STILL = 1e-9  # noise that changes no command


@dataclass(frozen=True)
class Options:
    """Rank five policies offline."""

    gains: tuple[float, ...] = (1.0, 0.5, 0.3, 0.2, 0.1)
    """Of the policies to judge."""
    noises: tuple[float, ...] = (0.3, 1.0, 2.0)
    """On the logged commands of the bundle, in the action's scale."""
    episodes: int = 40
    """Of each noise, and to find each true return."""
    gamma: float = 0.99
    """Discount per tick."""
    json: Path | None = None
    """Also write the figures to this file."""


def main(options: Options) -> dict[str, Any]:
    """Print a table in Markdown, write JSON, and return what is written."""
    bundle = Bundle.load(shipped_bundle("cartpole"))
    logs = [
        collect(bundle, noise, options.episodes, "cartpole", seed=2_000_000 + 1000 * i)
        for i, noise in enumerate(options.noises)
    ]
    policies = {f"gain {gain:g}": with_gain(bundle, gain) for gain in options.gains}
    judged = judge(join_logs(logs), policies, options.gamma)
    found = [p["estimates"]["fitted Q"] for p in judged["policies"]]
    truth = []
    for policy in policies.values():
        log = collect(policy, _STILL, options.episodes, "cartpole", seed=3_000_000)
        reward = log.padded(log.reward)
        truth.append({"discounted": float(discounted_return(reward, options.gamma).mean()),
                      "return": float(reward.sum(1).mean())})  # fmt: skip
    noisy = judge(logs[0], {"gain 1": bundle}, options.gamma, 0.9 * options.noises[0])["policies"][0]
    result = {
        "episodes": judged["episodes"],
        "ticks": judged["ticks"],
        "logged": judged["logged"],
        "policies": [
            {"name": name, "true": t, "estimate": e, "warnings": p["warnings"]}
            for name, t, e, p in zip(policies, truth, found, judged["policies"])
        ],
        "spearman": spearman([t["return"] for t in truth], [e["value"] for e in found]),
        "with_noise": noisy["estimates"],
    }
    Console(soft_wrap=True).print("\n".join(table(result)), markup=False)
    if options.json:
        write_json(options.json, result)
    return result


def with_gain(bundle: Bundle, gain: float) -> Bundle:
    """The bundle with its commands multiplied."""
    action = bundle.contract.action
    scaled = replace(action, scale=tuple(gain * s for s in action.scale))
    return replace(bundle, contract=replace(bundle.contract, action=scaled))


def spearman(a: list[float], b: list[float]) -> float:
    """Rank correlation of two lists without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def table(result: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| policy | true return | true, discounted | fitted Q (95 %) |"
    yield "|---|---|---|---|"
    for row in result["policies"]:
        e = row["estimate"]
        true = f"{row['true']['return']:.0f} | {row['true']['discounted']:.1f}"
        yield f"| {row['name']} | {true} | {e['value']:.1f} ({e['low']:.1f} to {e['high']:.1f}) |"
    yield f"\nSpearman {result['spearman']:.2f}, from {result['episodes']} episodes, {result['ticks']} ticks."
    yield "\n| estimator, 0.9 of the least logged noise | value (95 %) | effective episodes |"
    yield "|---|---|---|"
    for name, e in result["with_noise"].items():
        yield f"| {name} | {e['value']:.1f} ({e['low']:.1f} to {e['high']:.1f}) | {e['effective']:.1f} |"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
