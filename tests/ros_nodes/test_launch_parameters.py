"""The nodes that the launch files start, with the parameter files that come with them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from diagnostic_msgs.msg import KeyValue
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.parameter import parameter_value_to_python

from ros_nodes.session import Session
from runtime.safety import Status
from tests.ros_nodes.harness import FakeRobot, errors, start_controller
from tests.test_launch import calls, keywords
from tests.tiny_bundle import tiny_contract

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def given_by_launch(executable: str) -> set[str]:
    """The parameters that any launch file sets for `executable`."""
    names: set[str] = set()
    for path in LAUNCH.glob("*.launch.py"):
        for call in map(keywords, calls(ast.parse(path.read_text()), "Node")):
            if ast.literal_eval(call["executable"]) == executable:
                for values in (n for n in ast.walk(call["parameters"]) if isinstance(n, ast.Dict)):
                    names |= {str(k.value) for k in values.keys if isinstance(k, ast.Constant)}
    return names


@pytest.mark.parametrize(
    ("executable", "name", "file"), [("controller_node", "controller", "robot.yaml"), ("sim_node", "sim", "sim.yaml")]
)
def test_every_parameter_of_a_file_or_a_launch_file_is_known(
    session: Session, executable: str, name: str, file: str
) -> None:
    """The files hold the defaults, so that a user sees them."""
    values = yaml.safe_load((LAUNCH / file).read_text())["/**"]["ros__parameters"]
    session.start(f"ros_nodes.{executable}", {})
    known = set(session.call(ListParameters, f"/{name}/list_parameters", ListParameters.Request()).result.names)
    assert {*values} | given_by_launch(executable) <= known
    asked = GetParameters.Request(names=[*values])
    answer = session.call(GetParameters, f"/{name}/get_parameters", asked)
    assert [parameter_value_to_python(v) for v in answer.values] == [*values.values()]


def test_the_provider_is_told(session: Session, kuka: Path) -> None:
    robot = FakeRobot(session, tiny_contract("kuka_reach"))
    child = start_controller(session, kuka, provider="cpu")
    robot.wait_for(Status.ACTIVE)
    robot.diagnostics.clear()
    session.wait(lambda: len(robot.diagnostics) >= 2, "diagnostics")
    assert KeyValue(key="provider", value="cpu") in robot.diagnostics[-1].status[0].values
    assert "2 refinement steps on cpu" in child.log


def test_a_provider_that_is_not_there_is_one_error_line(session: Session, kuka: Path) -> None:
    child = start_controller(session, kuka, provider="tpu")
    session.wait(lambda: bool(errors(child)), "the refusal")
    (line,) = errors(child)
    assert "there is no provider 'tpu'; expected one of auto, cpu, cuda, tensorrt" in line
    assert session.state("controller") == "unconfigured"
