"""A recorded bag played to a live controller, e.g. to watch another bundle on it with your usual tools.

ros2 launch ganglion replay.launch.py bag:=runs/demo/bag bundle:=bundles/kuka_reach.onnx

Only the bundle's sensor topics are played, below a namespace of their own with the controller, so that a robot in the
same ROS domain is not moved. It ends with the bag. To judge a bundle without real time, use `ganglion replay`.
"""

from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import Action, LaunchContext, LaunchDescription
from runtime.bundle import Bundle
from runtime.messages import topics


def absolute(namespace: str, topic: str) -> str:
    """`topic` as it is called below `namespace`."""
    return "/" + "/".join(part for part in (namespace.strip("/"), topic) if part)


def player(context: LaunchContext) -> list[Action]:
    """`ros2 bag play` of the topics that the bundle reads."""
    bag, bundle, recorded, namespace, delay = (
        LaunchConfiguration(name).perform(context) for name in ("bag", "bundle", "recorded", "namespace", "delay")
    )
    names = list(topics(Bundle.load(bundle).contract.observations))
    played = [absolute(recorded, name) for name in names]
    remaps = [f"{old}:={absolute(namespace, name)}" for old, name in zip(played, names)]
    return [
        ExecuteProcess(
            cmd=["ros2", "bag", "play", bag, "--delay", delay, "--topics", *played, "--remap", *remaps],
            output="screen",
            on_exit=Shutdown(reason="the bag has ended"),
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """The controller activates itself, then the bag begins."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="bag to play: a directory, or an .mcap or .db3 file"),
            DeclareLaunchArgument("bundle", description="bundle (.onnx) to run on it"),
            DeclareLaunchArgument("recorded", default_value="", description="namespace of the robot in the bag"),
            DeclareLaunchArgument(
                "namespace", default_value="replay", description="namespace for what is played and for the controller"
            ),
            DeclareLaunchArgument(
                "delay",
                default_value="5.0",
                description="seconds before the bag begins: the controller is to be ready",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=[FindPackageShare("ganglion"), "/launch/robot.yaml"],
                description="parameters of the controller (YAML); bundle, autostart and guard_ms are set here",
            ),
            Node(
                package="ganglion",
                executable="controller_node",
                name="controller",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    LaunchConfiguration("params_file"),
                    {
                        "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
                        "autostart": True,
                        "guard_ms": 0.0,  # there is no robot to guard
                    },
                ],
            ),
            OpaqueFunction(function=player),
        ]
    )
