"""What a robot is: a URDF, its actuated or sensed joints, and the drives behind them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Joint:
    """One joint; rad, rad/s, N·m for revolute and m, m/s, N for prismatic joints."""

    name: str
    low: float
    high: float
    max_velocity: float
    max_effort: float
    home: float = 0.0


@dataclass(frozen=True)
class PDDrive:
    """Motors that turn a position command into effort themselves, several times a control period.

    effort = stiffness (command - position) - damping velocity, within what a DC motor can give at its speed.
    """

    stiffness: float
    """N·m/rad."""
    damping: float
    """N·m·s/rad."""
    no_load_speed: float
    """rad/s at which nothing is left of the effort that speeds the joint up."""


@dataclass(frozen=True)
class View:
    """From where a robot is looked at: its base, if that moves, or a point."""

    distance: float = 1.6
    """m."""
    yaw: float = 40.0
    """Degrees about the vertical."""
    pitch: float = -20.0
    """Degrees; negative looks down."""
    target: tuple[float, float, float] = (0.0, 0.0, 0.3)
    """m; added to the position of a base that moves."""


@dataclass(frozen=True)
class Robot:
    """A robot from pybullet_data."""

    name: str
    urdf: str
    fixed_base: bool
    """Bolted to the world; otherwise it stands on a plane."""
    joints: tuple[Joint, ...]
    drive: PDDrive | None = None
    """None for PyBullet's own: an ideal servo for positions and velocities, and effort as commanded."""
    belts: tuple[tuple[str, str], ...] = ()
    """Pairs of a joint and the commanded joint that it turns with, by a motor of its own."""
    height: float = 0.0
    """Of the base at the start, m; only of a robot that is not bolted."""
    feet: tuple[str, ...] = ()
    """Links whose contact with the ground is sensed."""
    sideways_grip: float = 1.0
    """Of the feet along y, as a share of that along x: below 1 for wheels that skid when the robot turns."""
    payload_link: str = ""
    """Link that carries a payload; the base if empty."""
    view: View = View()
    """For pictures."""

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names in the order of `joints`."""
        return tuple(j.name for j in self.joints)

    @property
    def home(self) -> tuple[float, ...]:
        """Default pose, in the order of `joints`."""
        return tuple(j.home for j in self.joints)
