"""Numbers as a reader likes them: with units, prefixes and no more digits than matter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def number(value: float) -> str:
    """Three significant digits, without an exponent where it is readable."""
    if not math.isfinite(value):
        return "–"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def quantity(value: float, unit: str) -> str:
    """E.g. `1.23 mrad`; without a prefix where the unit is several."""
    if not math.isfinite(value):
        return "–"
    if not unit or "," in unit:
        return f"{number(value)} {unit}".strip()
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor * 0.9995:
            return f"{number(value / factor)} {prefix}{unit}"
    return f"0 {unit}"


def share(part: float) -> str:
    """A fraction in percent; what is not nothing never reads 0 %, and what is not all never 100 %."""
    if not math.isfinite(part):
        return "–"
    if part in (0.0, 1.0):
        return f"{100 * part:.0f} %"
    if part < 0.0001:
        return "< 0.01 %"
    digits = 2 if part < 0.01 or part > 0.99 else 1 if part < 0.1 else 0
    text = f"{min(100 * part, 99.99):.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def sigma(value: float) -> str:
    """In standard deviations, two digits after the point, with a true minus sign."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−") if math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """E.g. `20.1 s`, `12 min 05 s` or `1 h 02 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(n: int, noun: str, rest: str = "") -> str:
    """E.g. `1 tick`, `2,004 ticks`, `2 messages out of order`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}{rest}"


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the words, parted by underscores, that all of them begin or end with."""
    words = [name.split("_") for name in names]
    head, tail = _alike(words), _alike([w[::-1] for w in words])
    shortest = min(len(w) for w in words)
    if len(names) < 2 or head + tail >= shortest:
        return list(names)
    return ["_".join(w[head : len(w) - tail]) for w in words]


def _alike(words: Sequence[Sequence[str]]) -> int:
    """How many of the first words are the same in all."""
    return sum(1 for _ in itertools.takewhile(lambda same: len(set(same)) == 1, zip(*words)))
