"""A bundle in words: rows of text for a table, a web page or a log."""

from __future__ import annotations

from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.tables import FACTS, Table

OBSERVATION_COLUMNS = ("observation", "topic", "channel", "unit", "range", "mean ± scale", "max age", "needs")
ACTION_COLUMNS = ("joint", "unit", "range", "scale", "max rate")


def card(bundle: Bundle) -> list[tuple[str, Table]]:
    """Everything that a user wants to know of a bundle, as tables with their titles."""
    contract = bundle.contract
    return [
        (str(bundle.path), (FACTS, facts(bundle))),
        ("observations", (OBSERVATION_COLUMNS, observation_rows(contract))),
        (f"action: {action_title(contract)}", (ACTION_COLUMNS, action_rows(contract))),
    ]


def facts(bundle: Bundle) -> list[tuple[str, ...]]:
    """Name and text of everything that is not about single channels."""
    c = bundle.contract
    p = c.provenance
    nodes = (f"{n.name}[{n.size}]" + (f" ← {', '.join(n.parents)}" if n.parents else "") for n in c.nodes)
    return [
        ("task, robot", f"{p.task}, {c.robot} at {c.rate_hz:g} Hz"),
        ("latent graph", "; ".join(nodes)),
        ("acts from", c.acting_node),
        ("carried state", ", ".join(f"{s.name}{list(s.shape)}" for s in c.states) or "none"),
        ("refinement", _refinement(c)),
        ("sensor checks", _checks(c)),
        ("parity", _parity(c)),
        *_health(c),
        ("trained", f"{p.algorithm}, seed {p.seed}, {p.steps} steps, {p.created}"),
        ("by", f"{p.command} (commit {p.commit})"),
        ("versions", ", ".join(f"{name} {version}" for name, version in p.versions.items()) or "not recorded"),
        ("digest", f"{c.digest} ({len(bundle.model) / 1000:.0f} kB)"),
    ]


def _refinement(contract: Contract) -> str:
    r = contract.refinement
    covariance = f"in blocks of {r.covariance_block}" if r.covariance_block else "not carried"
    return f"{r.method}, K = {r.default_steps} by default, {r.max_steps} at most; covariance {covariance}"


def _checks(contract: Contract) -> str:
    checks = contract.checks.channels.values()
    if not checks:
        return "none"
    counts = ", ".join(f"{name} on {sum(getattr(c, name) > 0 for c in checks)}" for name in ("spike", "drift"))
    frozen = sum(c.repeats > 0 for c in checks)
    return (
        f"{counts}, frozen on {frozen} of {contract.layout.size} channels; worst false alarm "
        f"{max(c.gate_false_alarm for c in checks):.2%} gated, {max(c.frozen_false_alarm for c in checks):.2%} frozen, "
        f"over {contract.checks.ticks} ticks"
    )


def _parity(contract: Contract) -> str:
    p = contract.parity
    if p is None:
        return "not checked"
    steps = ", ".join(str(k) for k in p.refine)
    return (
        f"largest difference {p.max_difference:.2g} of {p.tolerance:.0e} allowed "
        f"({p.observations} observations, {p.masked_fraction:.0%} masked, K = {steps}; {p.sequence_ticks} in sequence)"
    )


def _health(contract: Contract) -> list[tuple[str, str]]:
    health = contract.health
    rows = []
    for k, at in health.refine.items():
        quantiles = ", ".join(f"{level:.1%} {value:.3g}" for level, value in zip(health.levels, at.free_energy))
        rows.append((f"free energy, K = {k}", f"{quantiles} nats over {health.ticks} ticks"))
    for k, at in health.refine.items():
        quantiles = ", ".join(f"{level:.1%} {value:.3g}" for level, value in zip(health.levels, at.surprise))
        rows.append((f"surprise, K = {k}", f"{quantiles}; at most {at.sustained:.3g} over half a second"))
    return rows or [("free energy", "not calibrated")]


def observation_rows(contract: Contract) -> list[tuple[str, ...]]:
    """One row per channel under OBSERVATION_COLUMNS; what an observation shares stands in its first row."""
    rows: list[tuple[str, ...]] = []
    for o in contract.observations:
        for i, channel in enumerate(o.channels):
            shared = (f"{o.max_age_s:g} s", f"{o.min_valid} of {len(o.channels)}")
            name, topic, age, needs = (o.name, o.topic, *shared) if i == 0 else ("", "", "", "")
            believed = f"{o.low[i]:g} to {o.high[i]:g}"
            rows.append((name, topic, channel, o.unit, believed, f"{o.mean[i]:g} ± {o.scale[i]:g}", age, needs))
    return rows


def action_title(contract: Contract) -> str:
    """Kind, topic and safe action in one line."""
    a = contract.action
    return f"{a.mode} {a.kind} on '{a.topic}'; safe action: {a.safe}"


def action_rows(contract: Contract) -> list[tuple[str, ...]]:
    """One row per joint under ACTION_COLUMNS."""
    a = contract.action
    return [
        (joint, a.unit, f"{a.low[i]:g} to {a.high[i]:g}", f"{a.scale[i]:g}", f"{a.max_rate[i]:g} {a.unit}/s")
        for i, joint in enumerate(a.joints)
    ]
