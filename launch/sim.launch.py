"""A simulated robot alone, for a controller of your own or one that runs elsewhere.

ros2 launch ganglion sim.launch.py task:=kuka_reach seed:=3
"""

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """One node; the robot holds its pose until the first command comes."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("task", default_value="kuka_reach", description="simulated task, e.g. kuka_reach"),
            DeclareLaunchArgument("seed", default_value="0", description="seed of the episode"),
            DeclareLaunchArgument(
                "params_file",
                default_value=[FindPackageShare("ganglion"), "/launch/sim.yaml"],
                description="parameters of the simulator (YAML); task and seed are set here",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
            Node(
                package="ganglion",
                executable="sim_node",
                name="sim",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    LaunchConfiguration("params_file"),
                    {
                        "task": ParameterValue(LaunchConfiguration("task"), value_type=str),
                        "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                    },
                ],
            ),
        ]
    )
