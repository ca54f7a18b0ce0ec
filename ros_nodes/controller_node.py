"""The controller as a ROS 2 lifecycle node.

    python -m ros_nodes.controller_node --ros-args -p bundle:=FILE -p autostart:=true

Configuring loads the bundle, activating lets it command the robot. One thread does everything: it executes services
and parameters until shortly before each deadline, then sleeps to the deadline and ticks.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from ros_nodes.control_loop import SPIN_MARGIN_NS, ControlLoop
from ros_nodes.preflight import check_at_configure
from ros_nodes.reporting import active_status, diagnostics, idle_status
from ros_nodes.scheduling import declare_realtime, go_realtime
from ros_nodes.settings import Settings
from ros_nodes.spinning import Spinner, run
from runtime.bundle import Bundle
from runtime.errors import BundleError, ContractError, GanglionError
from runtime.realtime import quieten_memory
from runtime.safety import Request

_IDLE_NS = 50_000_000
_PRIORITY = 40
_SUCCESS, _FAILURE, _ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)


class ControllerNode(LifecycleNode):
    """Runs one bundle."""

    def __init__(self) -> None:
        super().__init__("controller")
        self._loop: ControlLoop | None = None
        self._active = False
        Settings.declare(self)
        declare_realtime(self, _PRIORITY)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.create_service(SetBool, "~/engage", self._on_engage)
        self.create_timer(1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))
        go_realtime(self)
        if self.get_parameter("autostart").value and self.trigger_configure() == _SUCCESS:
            self.trigger_activate()

    # Lifecycle. rclpy swallows what a transition callback raises, so each reports its own errors.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle and look at the robot; FAILURE with one error if it cannot run, or does not fit."""
        try:
            settings = Settings.read(self)
            bundle = self._load(settings)
            check_at_configure(self, bundle.contract, settings)
            self._loop = ControlLoop(self, bundle, settings)
        except GanglionError as error:
            self.get_logger().error(str(error))
            return _FAILURE
        except Exception as error:
            self.get_logger().error(f"configuring failed unexpectedly ({type(error).__name__}: {error})")
            return _ERROR
        quieten_memory()
        action, inference = bundle.contract.action, self._loop.controller.inference
        if inference.notice:
            self.get_logger().warning(inference.notice)
        self.get_logger().info(
            f"{bundle.path}: {bundle.contract.robot}, {len(action.joints)} joints by {action.kind}, "
            f"{self._loop.rate_hz:g} Hz, {self._loop.refine} refinement steps on {inference.provider}"
        )
        return super().on_configure(state)

    def _load(self, settings: Settings) -> Bundle:
        if not settings.bundle:
            raise BundleError("the parameter 'bundle' is empty; give the path of a bundle: -p bundle:=FILE")
        bundle = Bundle.load(settings.bundle, settings.provider, settings.trusted_keys)
        if settings.rate_hz not in (0, bundle.contract.rate_hz):
            self.get_logger().warning(
                f"rate_hz is {settings.rate_hz:g}, but the model was trained for {bundle.contract.rate_hz:g} Hz: its "
                "speeds and limits will be wrong; leave rate_hz at 0"
            )
        return bundle

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to control; commands start when the robot's joints are seen and checked."""
        assert self._loop is not None
        result = super().on_activate(state)
        self._loop.start()
        self._active = True
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish the safe action and stop."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the bundle."""
        self._forget()
        return _SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Leave the robot safe and forget the bundle."""
        self._stop()
        self._forget()
        return _SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        self._stop()
        self._forget()
        return _SUCCESS

    def _stop(self) -> None:
        if not self._active or self._loop is None:
            return
        self._active = False
        try:
            self._loop.stop()
        except Exception as error:
            self.get_logger().error(f"the safe action could not be published ({type(error).__name__}: {error})")

    def _forget(self) -> None:
        if self._loop is not None:
            self._loop.destroy(self)
            self._loop = None

    # Services: they take effect with the next tick.

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._request(Request.STOP, "stopped by the service ~/stop")
        return response

    def _on_engage(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        what = (Request.ENGAGE, "") if request.data else (Request.STOP, "disengaged by the service ~/engage")
        response.success, response.message = self._request(*what)
        return response

    def _request(self, what: Request, cause: str) -> tuple[bool, str]:
        if not self._active or self._loop is None:
            return False, "the controller is not active, so it commands nothing; activate it first"
        self._loop.controller.request(what, cause)
        return True, f"{what.name.lower()} with the next tick"

    # Parameters and diagnostics.

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        values = {p.name: p.value for p in parameters}
        try:
            Settings.check(self, values, configured=self._loop is not None)
            if self._loop is not None:
                self._loop.refine_as(replace(Settings.read(self), **Settings.known(values)))
        except ContractError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        name = f"{self.get_fully_qualified_name()}: controller"
        if self._loop is not None and not self._loop.guarded:
            self.get_logger().warning(
                "the guard has ended, so nobody commands the safe action if this process is stuck or killed: "
                "deactivate, clean up and configure again",
                once=True,
            )
        if self._loop is not None and self._active:
            loop = self._loop
            status = active_status(name, loop.controller, loop.refine, loop.statistics)
        else:
            status = idle_status(name, "inactive" if self._loop else "unconfigured")
        self._diagnostics.publish(diagnostics(status, self.get_clock().now()))

    # The process.

    def cycle(self, spinner: Spinner) -> None:
        """Execute callbacks up to the next deadline, then tick if active."""
        if not self._active or self._loop is None:
            spinner.until(time.monotonic_ns() + _IDLE_NS)
            return
        try:
            spinner.until(self._loop.earliest_ns - SPIN_MARGIN_NS)
            if self._active:
                self._loop.run()
        except GanglionError as error:
            self._give_up(str(error))
        except Exception as error:
            self._give_up(f"the control loop failed ({type(error).__name__}: {error}); the safe action was commanded")

    def _give_up(self, reason: str) -> None:
        self._stop()
        self.get_logger().error(f"{reason}; now inactive")
        self.trigger_deactivate()

    def close(self) -> None:
        """Leave the robot safe."""
        if self._active:
            self.trigger_deactivate()


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run(ControllerNode, args)


if __name__ == "__main__":
    sys.exit(main())
