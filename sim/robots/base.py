"""What a robot is: a URDF and its actuated or sensed joints."""

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
class Robot:
    """A robot from pybullet_data."""

    name: str
    urdf: str
    fixed_base: bool
    joints: tuple[Joint, ...]

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names in the order of `joints`."""
        return tuple(j.name for j in self.joints)
