"""What an installation holds: of pip, and of colcon, which runs setup.py."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ganglion

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = [
    "demo.launch.py",
    "ganglion.service",
    "replay.launch.py",
    "robot.launch.py",
    "robot.yaml",
    "sim.launch.py",
    "sim.yaml",
]
EXECUTABLES = ["controller_node", "ganglion", "sim_node"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this project that git knows or would add, where a build may leave what it likes."""
    target = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(lambda n: n and (ROOT / n).is_file(), listed):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(ROOT / name)
    return target


def setup(source: Path, *arguments: str) -> str:
    quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "setup.py", *arguments], cwd=source, env=quiet, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_colcon_finds_its_files_in_place(source: Path, tmp_path: Path) -> None:
    """The command that colcon runs for an ament_python package; `ros2 run` and `ros2 launch` look at these places."""
    prefix = tmp_path / "install"
    setup(
        source, "build", "--build-base", str(tmp_path / "build"),
        "install", "--prefix", str(prefix), "--single-version-externally-managed", "--record", str(tmp_path / "log"),
    )  # fmt: skip
    assert sorted(p.name for p in (prefix / "lib" / "ganglion").iterdir()) == EXECUTABLES
    share = prefix / "share" / "ganglion"
    assert sorted(p.name for p in (share / "launch").iterdir()) == LAUNCH
    assert {p.name for p in (share / "bundles").iterdir()} == {p.name for p in (ROOT / "bundles").glob("*.onnx")}
    assert (share / "package.xml").is_file()
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "ganglion").is_file()
    (packages,) = prefix.glob("lib/python*/site-packages")
    assert {p.parent.name for p in packages.glob("*/__init__.py")} == {
        "ganglion",
        "runtime",
        "ros_nodes",
        "sim",
        "training",
        "export",
    }
    page = packages / "runtime" / "replay" / "report"
    assert {p.name for p in page.glob("page.*")} == {"page.css", "page.html.j2", "page.js", "page.py"}
    ask = "from runtime.files import shipped_bundle; print(shipped_bundle('kuka_reach'))"
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(share / "bundles" / "kuka_reach.onnx")


def test_colcon_can_read_what_setup_py_says(source: Path) -> None:
    """It prints the distribution in a process of its own and reads that back as literals."""
    code = (
        "import setuptools; from distutils.core import run_setup\n"
        "d = run_setup('setup.py', stop_after='config')\n"
        "shown = {k: v for k, v in vars(d).items() if not k.startswith('_') and not callable(v)}\n"
        "for k in ('cmdclass', 'distclass', 'ext_modules', 'metadata', *d.display_option_names):\n"
        "    shown.pop(k, None)\n"
        "print(shown | {'of metadata': {k: v for k, v in vars(d.metadata).items() if k not in "
        "('license_files', 'provides_extras')}})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = ast.literal_eval(done.stdout.splitlines()[-1])
    assert said["of metadata"]["version"] == ganglion.__version__
    assert said["python_requires"] == ">=3.10,<3.14"


def test_the_pythons_that_it_runs_on(source: Path, tmp_path: Path) -> None:
    setup(source, "-q", "egg_info", "-e", str(tmp_path))
    metadata = (tmp_path / "ganglion.egg-info" / "PKG-INFO").read_text()
    (pythons,) = re.findall(r"^Requires-Python: (.*)$", metadata, re.MULTILINE)
    assert sorted(pythons.split(",")) == ["<3.14", ">=3.10"]
