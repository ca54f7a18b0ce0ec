"""The reach task's expert: kinematics of the KUKA iiwa, and damped least squares towards the target.

Batched over N robots, in float64. A joint turns everything after it about a fixed line, so the tip at q is the tip at
zero, turned about the seven lines one after the other: the product of exponentials.
Nakamura and Hanafusa, Inverse kinematic solutions with singularity robustness, 1986.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sim.bullet import pybullet, pybullet_data
from sim.robots.kuka import END_EFFECTOR, KUKA
from sim.tasks.kuka_reach import KukaReach

_GAIN = 0.06  # of the error, per tick; the joints lag their command by about 5 ticks, and more would overshoot
_POSTURE_GAIN = 0.02  # per tick
_DAMPING_M = 0.02  # bounds the step where the arm is near a singular pose
_HOME = np.array([j.home for j in KUKA.joints])


@dataclass(frozen=True)
class Chain:
    """J turning joints and a tip, drawn with every joint at zero, in the world's frame."""

    origins: np.ndarray
    """A point on the axis of each joint (J, 3), m."""
    axes: np.ndarray
    """Unit vectors (J, 3)."""
    tip: np.ndarray
    """(3,), m."""

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tip (N, 3) in m at the joint positions (N, J) rad, and its Jacobian (N, 3, J) in m/rad."""
        count = len(positions)
        rotation = np.broadcast_to(np.eye(3), (count, 3, 3))
        shift = np.zeros((count, 3))
        origins, axes = np.empty((count, *self.axes.shape)), np.empty((count, *self.axes.shape))
        for j, (origin, axis) in enumerate(zip(self.origins, self.axes, strict=True)):
            origins[:, j], axes[:, j] = rotation @ origin + shift, rotation @ axis
            rotation = rotation @ _turn(axis, positions[:, j])
            shift = origins[:, j] - rotation @ origin
        tip = rotation @ self.tip + shift
        return tip, np.cross(axes, tip[:, None] - origins).swapaxes(1, 2)


def _turn(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotation matrices (N, 3, 3) about the unit vector `axis` (3,) by `angle` (N,), after Rodrigues."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    a = angle[:, None, None]
    return np.eye(3) + np.sin(a) * cross + (1 - np.cos(a)) * (cross @ cross)


@cache
def iiwa() -> Chain:
    """Chain of the simulated robot up to its end effector, read from the URDF."""
    client = pybullet.connect(pybullet.DIRECT)
    try:
        path = Path(pybullet_data.getDataPath()) / KUKA.urdf
        body = pybullet.loadURDF(str(path), useFixedBase=True, physicsClientId=client)
        origins, axes, tip = [], [], np.zeros(3)
        for i in range(pybullet.getNumJoints(body, physicsClientId=client)):
            info = pybullet.getJointInfo(body, i, physicsClientId=client)
            frame = pybullet.getLinkState(body, i, computeForwardKinematics=1, physicsClientId=client)
            if info[1].decode() in KUKA.joint_names:
                origins.append(frame[4])
                axes.append(np.reshape(pybullet.getMatrixFromQuaternion(frame[5]), (3, 3)) @ info[13])
            if info[12].decode() == END_EFFECTOR:
                tip = np.array(frame[4])
    finally:
        pybullet.disconnect(client)
    return Chain(np.array(origins), np.array(axes), tip)


def expert_action(positions: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Normalised action (N, 7) in [-1, 1] from noise-free joint positions (N, 7) rad and targets (N, 3) m.

    The tip goes a part of the way to the target; what is left of the seven joints pulls the posture home.
    """
    tip, jacobian = iiwa().locate(positions)
    transposed = jacobian.swapaxes(1, 2)
    inverse = transposed @ np.linalg.inv(jacobian @ transposed + _DAMPING_M**2 * np.eye(3))
    homewards = _POSTURE_GAIN * (_HOME - positions)[..., None]
    towards = _GAIN * (target - tip)[..., None]
    step = inverse @ (towards - jacobian @ homewards) + homewards
    return np.clip(step[..., 0] / np.array(KukaReach.action.scale), -1.0, 1.0)
