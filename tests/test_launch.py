"""What the launch files declare and refer to, read without ROS's `launch`, which pip does not have."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
TABLE = re.compile(r"^\| `(\w+\.launch\.py)` \| (.*?) \|", re.MULTILINE)


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """Every call of `name`, e.g. Node(…)."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name]


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {k.arg: k.value for k in call.keywords if k.arg}


def constants(tree: ast.AST, name: str) -> list[str]:
    """The texts of the tuple that is assigned to `name`."""
    for n in ast.walk(tree):
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and n.targets[0].id == name:
            return [str(text) for text in ast.literal_eval(n.value)]
    return []


def declared(tree: ast.AST) -> list[str]:
    """The names of all arguments; one that is no text is a name for each of TOPICS."""
    names: list[str] = []
    for call in calls(tree, "DeclareLaunchArgument"):
        name = call.args[0]
        names += [str(name.value)] if isinstance(name, ast.Constant) else constants(tree, "TOPICS")
    return names


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def tree(request: pytest.FixtureRequest) -> ast.Module:
    path: Path = request.param
    return ast.parse(path.read_text(), str(path))


def test_every_launch_file_is_here() -> None:
    assert [p.name for p in FILES] == ["demo.launch.py", "replay.launch.py", "robot.launch.py", "sim.launch.py"]


def test_every_argument_says_what_it_is(tree: ast.Module) -> None:
    for call in calls(tree, "DeclareLaunchArgument"):
        assert "description" in keywords(call), ast.unparse(call)


def test_what_is_read_is_declared_and_the_other_way_round(tree: ast.Module) -> None:
    """Names that are no text come from TOPICS, or from the tuple that a comprehension runs over."""
    read = {str(c.args[0].value) for c in calls(tree, "LaunchConfiguration") if isinstance(c.args[0], ast.Constant)}
    for loop in (n for n in ast.walk(tree) if isinstance(n, ast.GeneratorExp | ast.ListComp)):
        if calls(loop.elt, "LaunchConfiguration"):
            over = loop.generators[0].iter
            read |= set(ast.literal_eval(over)) if isinstance(over, ast.Tuple) else set(constants(tree, "TOPICS"))
    names = declared(tree)
    assert len(names) == len(set(names))
    assert set(names) == read


def test_the_arguments_are_those_that_the_docs_tell() -> None:
    told = {name: re.findall(r"`(\w+)`", text) for name, text in TABLE.findall((ROOT / "docs/deploy.md").read_text())}
    assert told == {path.name: declared(ast.parse(path.read_text())) for path in FILES}


def test_executables_exist(tree: ast.Module) -> None:
    scripts = re.findall(r"^(\w+) = \"ros_nodes\.", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    nodes = [keywords(call) for call in calls(tree, "Node")]
    assert nodes
    for node in nodes:
        assert ast.literal_eval(node["package"]) == "ganglion"
        assert ast.literal_eval(node["executable"]) in scripts


def test_files_of_the_share_folder_exist(tree: ast.Module) -> None:
    texts = [str(n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    for text in (t for t in texts if t.startswith("/") and t.endswith((".yaml", ".onnx")) and t != ".onnx"):
        assert (ROOT / text.removeprefix("/")).is_file(), text
