"""Who holds which ROS domain."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from ros_nodes import domains
from ros_nodes.domains import own_domain
from runtime.errors import GanglionError


def test_a_domain_that_is_held_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_domain() as first:
        monkeypatch.setattr(domains, "_turns", itertools.count(first - 1))
        with own_domain() as second:
            assert first != second
            assert {first, second} <= set(range(1, 101))


def test_no_other_process_gets_it_and_the_error_says_so() -> None:
    with own_domain() as held:
        code = (
            "import itertools; from ros_nodes import domains;"
            f"domains._turns = itertools.repeat({held - 1}); domains.own_domain().__enter__()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "GanglionError: all ROS domains from 1 to 100 are held" in done.stderr


def test_it_is_free_again_after_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(300):
        with own_domain():
            pass
    with own_domain() as held:
        monkeypatch.setattr(domains, "_turns", itertools.repeat(held - 1))
        with pytest.raises(GanglionError, match="end some"):
            own_domain().__enter__()
    with own_domain() as again:
        assert again == held
