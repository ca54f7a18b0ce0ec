from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from runtime.errors import GanglionError
from runtime.extras import EXTRAS, explain_missing
from runtime.files import shipped_bundle, write_json

ROOT = Path(__file__).resolve().parents[2]


def test_write_makes_folders_and_leaves_one_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"größe": [1.5, None]})
    assert json.loads(path.read_text()) == {"größe": [1.5, None]}
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    write_json(path, "old")
    with pytest.raises(TypeError):
        write_json(path, {"not": object()})
    assert json.loads(path.read_text()) == "old"
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(GanglionError, match=r"cannot write .*folder: Is a directory"):
        write_json(folder, "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.json", "folder"]


def test_a_bundle_that_does_not_ship() -> None:
    with pytest.raises(GanglionError, match=r"there is no unicorn\.onnx in .*bundles or .*share"):
        shipped_bundle("unicorn")


def test_every_extra_exists() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    for extra in EXTRAS:
        assert f"\n{extra} = [" in section


def test_missing_modules_in_words() -> None:
    def error(name: str) -> ModuleNotFoundError:
        return ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert explain_missing(error("torch.utils")).endswith("pip install 'ganglion[train]'")
    assert "source your ROS 2 installation" in explain_missing(error("rclpy"))
    assert explain_missing(error("unheard_of")).startswith("the module unheard_of is missing")
