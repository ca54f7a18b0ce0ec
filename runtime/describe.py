"""A bundle in words: rows of text for a table, a web page or a log."""

from __future__ import annotations

from typing import Any

from runtime.bundle import Bundle
from runtime.contract import Contract
from runtime.modelfile import oldest_onnxruntime
from runtime.signature import signer
from runtime.tables import FACTS, Table

OBSERVATION_COLUMNS = ("observation", "topic", "channel", "unit", "range", "mean ± scale", "max age", "needs")
STANDARD = "ai.onnx"
"""The domain of the ONNX standard, whose name in the file is empty."""
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
        ("precision", _precision(c)),
        ("parity", _parity(c)),
        *_health(c),
        ("trained", f"{p.algorithm}, seed {p.seed}, {p.steps} steps, {p.created}"),
        ("by", f"{p.command} (commit {p.commit})"),
        ("versions", ", ".join(f"{name} {version}" for name, version in p.versions.items()) or "not recorded"),
        ("model", _model(bundle)),
        ("digest", f"{c.digest} ({len(bundle.model) / 1000:.0f} kB)"),
        ("signature", _signature(bundle)),
    ]


def file_facts(bundle: Bundle) -> dict[str, Any]:
    """What a bundle's file is, beside its contract, as plain values."""
    file = bundle.file
    return {
        "path": str(bundle.path),
        "bytes": len(bundle.model),
        "ir_version": file.ir_version,
        "opsets": {domain or STANDARD: version for domain, version in file.opsets.items()},
        "onnxruntime": oldest_onnxruntime(file),
        "operators": dict(sorted(file.operators.items())),
        "signed_by": signer(bundle.model),
        "signature_verified": bool(bundle.verified),
    }


def _model(bundle: Bundle) -> str:
    facts = file_facts(bundle)
    opsets = ", ".join(f"{domain} {version}" for domain, version in facts["opsets"].items())
    return (
        f"operator sets {opsets}; IR version {facts['ir_version']}; {sum(facts['operators'].values())} operators; "
        f"onnxruntime {facts['onnxruntime'] or 'as new as these'}, or a later one"
    )


def _signature(bundle: Bundle) -> str:
    public = signer(bundle.model)
    if not public:
        return "none"
    return f"by {public}, {'verified' if bundle.verified else 'not verified: give --trusted-keys'}"


def _precision(contract: Contract) -> str:
    p = contract.precision
    if p.control is None:
        return p.name
    own, reference = p.control.own, p.control.reference
    return (
        f"{p.name} in {p.layers} layers, {p.sensitive} too sensitive for it; made of {p.source[:12]}…; success "
        f"{own.success_rate:.1%}, return {own.return_mean:.4g} against {reference.success_rate:.1%}, "
        f"{reference.return_mean:.4g} over {p.control.episodes} episodes ({p.control.margin:.0%} loss allowed)"
    )


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
