"""Links of the README and of docs/: files and anchors are there, and every page is on the map."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(page: Path) -> list[str]:
    """What the page refers to, without addresses in the net."""
    text = re.sub(r"`[^`\n]*`", "", _FENCED.sub("", page.read_text()))
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.*)$", _FENCED.sub("", page.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        base = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        name, number = base, 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_on_the_map() -> None:
    listed = {link.partition("#")[0] for link in links(ROOT / "docs" / "index.md")}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= listed


def test_anchors_are_made_as_on_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# The `bundle`, for C++\n## Twice\n## Twice\n```\n# no heading\n```\n### `a[].b`\n")
    assert anchors(page) == {"the-bundle-for-c", "twice", "twice-1", "ab"}


def test_every_algorithm_is_in_the_table_with_its_file_and_its_proof() -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text()
    rows = {m[1]: m[0] for m in re.finditer(r"^\| `(\w+)` \|.*$", page, re.MULTILINE)}
    pytest.importorskip("torch", reason="the list of algorithms needs torch")
    from training.algorithms import ALGORITHMS

    assert rows.keys() == ALGORITHMS.keys()
    for name, row in rows.items():
        assert f"`training/algorithms/{name}.py`" in row
        actions = {(True, True): "both", (True, False): "continuous", (False, True): "choices"}
        kind = ALGORITHMS[name]
        assert f"| {actions[bool(kind.continuous_head), bool(kind.discrete_head)]} |" in row
    for path in re.findall(r"`((?:training|tests|benchmarks)/[\w/]+\.py)`", page):
        assert (ROOT / path).exists(), path


def test_the_scores_of_the_algorithms_are_those_of_the_benchmarks() -> None:
    """The tables in docs/algorithms.md are what the benchmarks write of the results that are kept beside it."""
    pytest.importorskip("torch", reason="the benchmarks train")
    from benchmarks import algorithms, pybullet

    page = (ROOT / "docs" / "algorithms.md").read_text()
    for name, table in (("scores.json", algorithms.table), ("pybullet.json", pybullet.table)):
        rows = json.loads((ROOT / "docs" / name).read_text())
        assert table(rows) in page, f"put the table that the benchmark prints for docs/{name} into docs/algorithms.md"
