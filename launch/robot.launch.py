"""The controller on a real robot.

ros2 launch ganglion robot.launch.py bundle:=/opt/robot/walk.onnx command:=/forward_position_controller/commands

A controller that has crashed or was killed leaves its guard commanding the safe action. By default it is started again
without being configured, so that the robot can be asked, and moves only when somebody configures and activates it.
"""

from launch.actions import DeclareLaunchArgument, RegisterEventHandler, TimerAction
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import Action, LaunchContext, LaunchDescription

TOPICS = ("joint_states", "imu", "cmd_vel", "command")
RETRY_S = 2.0
EXPECTED = (0, 2)  # ended as asked, or refused its parameters, as it would again


def controller(autostart: bool | ParameterValue) -> list[Action]:
    """The node, and what happens when its process ends."""
    node = Node(
        package="ganglion",
        executable="controller_node",
        name="controller",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
                "autostart": autostart,
            },
        ],
        remappings=[(topic, LaunchConfiguration(topic)) for topic in TOPICS],
    )
    return [node, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=restart))]


def restart(event: ProcessExited, context: LaunchContext) -> list[Action]:
    """Another process in place of one that crashed; it activates itself only where that is asked for."""
    respawn = LaunchConfiguration("respawn").perform(context)
    if respawn == "never" or event.returncode in EXPECTED:
        return []
    return [TimerAction(period=RETRY_S, actions=controller(autostart=respawn == "active"))]


def generate_launch_description() -> LaunchDescription:
    """One lifecycle node."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="bundle (.onnx) to run"),
            DeclareLaunchArgument(
                "params_file",
                default_value=[FindPackageShare("ganglion"), "/launch/robot.yaml"],
                description="parameters of the controller (YAML); bundle and autostart are set here",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                choices=["true", "false"],
                description="configure and activate at once, or wait for a lifecycle manager",
            ),
            DeclareLaunchArgument(
                "respawn",
                default_value="idle",
                choices=["never", "idle", "active"],
                description="after a crash: do nothing, start again and wait to be configured, or activate again",
            ),
            *(
                DeclareLaunchArgument(topic, default_value=topic, description=f"the robot's topic for '{topic}'")
                for topic in TOPICS
            ),
            *controller(ParameterValue(LaunchConfiguration("autostart"), value_type=bool)),
        ]
    )
