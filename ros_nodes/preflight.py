"""Compares the live graph with a contract: before a controller is configured, and for `ganglion preflight`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from ros_nodes.commands import CommandFormat
from ros_nodes.moving import Mover
from ros_nodes.observer import Observer
from ros_nodes.settings import LENIENT, Settings
from ros_nodes.spinning import interruptible
from runtime.contract import Contract
from runtime.errors import ContractError, GanglionError
from runtime.findings import Finding, errors
from runtime.preflight import check

_CONFIGURE_S = 1.0
_DISCOVERY_S = 3.0
_LONGEST_S = 60.0


def check_at_configure(node: Node, contract: Contract, settings: Settings) -> None:
    """Refuse a robot that contradicts the contract, and log what does not fit as one list.

    The node's own name and that of its guard do not count as other controllers: they are of a predecessor that died.
    Raises ContractError with all that speaks against this robot.
    """
    if settings.preflight == "skip":
        return
    with Observer(node, contract, _format(contract, settings)) as observer:
        findings = check(observer.look(_CONFIGURE_S, _CONFIGURE_S), contract)
    lines = "".join(f"\n  {f.level}: {f.text}" for f in findings)
    if errors(findings, lenient=settings.preflight == LENIENT):
        raise ContractError(f"the robot does not fit the bundle (preflight:=skip leaves this check out):{lines}")
    if findings:
        node.get_logger().warning(f"preflight:{lines}")


def _format(contract: Contract, settings: Settings) -> CommandFormat:
    return CommandFormat.of(contract, settings.command_type, settings.command_joints)


def preflight(
    contract: Contract,
    seconds: float,
    ros_arguments: Sequence[str] = (),
    move: bool = False,
    confirmed: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finding]:
    """Everything on the graph that does not fit the contract; with `move`, also what small motions show.

    `ros_arguments` may hold the controller's own parameters; topics, type and order of the commands count. `progress`
    takes the joints that have moved and their number. Raises GanglionError if `seconds` is out of range, or
    if a robot that is not simulated would move without being `confirmed`.
    """
    if not 0.2 <= seconds <= _LONGEST_S:
        raise GanglionError(f"seconds is {seconds:g}, expected 0.2 to {_LONGEST_S:g}")
    context = Context()
    rclpy.init(args=list(ros_arguments), context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node(f"preflight_{os.getpid()}", context=context, enable_rosout=False)
    try:
        Settings.declare(node)
        form = _format(contract, Settings.read(node))
        with interruptible(), Observer(node, contract, form) as observer:
            findings = check(observer.look(seconds, _DISCOVERY_S), contract)
            if not move:
                return findings
            obstacle = _obstacle(findings, observer)
            if obstacle:
                remedy = "Put right what is listed, then try again."
                return [*findings, Finding("error", "motion", f"not begun: {obstacle}", "a robot that fits", remedy)]
            if not observer.simulated and not confirmed:
                raise GanglionError(
                    "what obeys the commands is not Ganglion's simulator, so the robot would really move: clear its "
                    "surroundings, keep a hand on the emergency stop, and add --confirm"
                )
            moved = Mover(node, contract, form, observer).run(progress)
            return sorted((*findings, *moved), key=lambda f: f.level)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def _obstacle(findings: list[Finding], observer: Observer) -> str:
    """Why nothing may be moved; empty if it may."""
    others = sorted({p.node for p in observer.commanders()})
    if others:
        return f"{', '.join(others)} can command the robot too"
    return "the checks found errors" if errors(findings) else ""
