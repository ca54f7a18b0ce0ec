from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tiny_bundle import write_tiny_bundle

if TYPE_CHECKING:
    from ros_nodes.session import Session

if importlib.util.find_spec("rclpy") is None:
    collect_ignore_glob = ["test_*.py"]
elif importlib.util.find_spec("rosidl_generator_py") is not None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("rosidl_generator_py")  # imports an old lark, which warns


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Nodes in a ROS domain of their own; all ended afterwards."""
    from ros_nodes.session import Session

    with Session(tmp_path / "log") as opened:
        yield opened


@pytest.fixture
def kuka(tmp_path: Path) -> Path:
    """A tiny bundle for the arm: position increments, safe action hold."""
    return write_tiny_bundle(tmp_path / "kuka.onnx", "kuka_reach", gain=0.05)


@pytest.fixture
def cartpole(tmp_path: Path) -> Path:
    """A tiny bundle for the cart: effort, safe action zero."""
    return write_tiny_bundle(tmp_path / "cartpole.onnx", "cartpole", gain=0.05)
