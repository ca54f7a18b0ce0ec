"""Bundles that are checked by hand, shared by all tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from runtime.bundle import Bundle
from tests.tiny_bundle import write_tiny_bundle

# The same examples in every run, so that a failure is a change; look for new ones with --hypothesis-profile=search.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("search", deadline=None, max_examples=3000)
settings.load_profile("repeatable")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="session")
def kuka_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("kuka") / "kuka.onnx", "kuka_reach", gain=0.3)


@pytest.fixture(scope="session")
def cartpole_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("cartpole") / "cartpole.onnx", "cartpole", gain=0.3)


@pytest.fixture(scope="session")
def kuka(kuka_path: Path) -> Bundle:
    return Bundle.load(kuka_path)


@pytest.fixture(scope="session")
def cartpole(cartpole_path: Path) -> Bundle:
    return Bundle.load(cartpole_path)
