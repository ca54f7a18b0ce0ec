"""A simulated robot and the controller that drives it.

ros2 launch ganglion demo.launch.py bundle:=bundles/kuka_reach.onnx refine:=4
"""

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Both nodes; the controller activates itself."""
    task, bundle, refine, seed = (LaunchConfiguration(name) for name in ("task", "bundle", "refine", "seed"))
    shipped = [FindPackageShare("ganglion"), "/bundles/", task, ".onnx"]
    return LaunchDescription(
        [
            DeclareLaunchArgument("task", default_value="kuka_reach", description="simulated task, e.g. kuka_reach"),
            DeclareLaunchArgument(
                "bundle",
                default_value=shipped,
                description="bundle to run; the one that ships for the task if not given",
            ),
            DeclareLaunchArgument(
                "refine", default_value="-1", description="refinement steps per tick; -1 is the bundle's default"
            ),
            DeclareLaunchArgument("seed", default_value="0", description="seed of the episode"),
            Node(
                package="ganglion",
                executable="sim_node",
                name="sim",
                output="screen",
                parameters=[
                    {"task": ParameterValue(task, value_type=str), "seed": ParameterValue(seed, value_type=int)}
                ],
            ),
            Node(
                package="ganglion",
                executable="controller_node",
                name="controller",
                output="screen",
                parameters=[
                    {
                        "bundle": ParameterValue(bundle, value_type=str),
                        "refine": ParameterValue(refine, value_type=int),
                        "autostart": True,
                    }
                ],
            ),
        ]
    )
