"""One robot in one PyBullet world, addressed by joint and link names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pybullet
import pybullet_data
from pybullet_utils.bullet_client import BulletClient

from runtime.errors import GanglionError
from sim.robots.base import Robot

GRAVITY = 9.81


class Simulation:
    """Physics at `rate_hz * substeps` Hz. Every reset restores the same saved world, so runs are reproducible."""

    def __init__(self, robot: Robot, rate_hz: float, substeps: int) -> None:
        """Raises GanglionError if the URDF is missing or lacks a joint of the robot."""
        self.robot = robot
        self.substeps = substeps
        self.client = BulletClient(pybullet.DIRECT)
        path = Path(pybullet_data.getDataPath()) / robot.urdf
        if not path.is_file():
            raise GanglionError(f"robot '{robot.name}': there is no URDF at {path}; reinstall pybullet")
        self.client.setGravity(0, 0, -GRAVITY)
        self.client.setPhysicsEngineParameter(fixedTimeStep=1 / (rate_hz * substeps), deterministicOverlappingPairs=1)
        self.body = self.client.loadURDF(str(path), useFixedBase=robot.fixed_base)
        infos = [self.client.getJointInfo(self.body, i) for i in range(self.client.getNumJoints(self.body))]
        self._joint_index = {info[1].decode(): info[0] for info in infos}
        self._link_index = {info[12].decode(): info[0] for info in infos}
        missing = [j for j in robot.joint_names if j not in self._joint_index]
        if missing:
            raise GanglionError(
                f"robot '{robot.name}': {path.name} has no joints {missing}; it has {sorted(self._joint_index)}"
            )
        self._indices = [self._joint_index[j] for j in robot.joint_names]
        for index in self._indices:
            self.client.setJointMotorControl2(self.body, index, pybullet.VELOCITY_CONTROL, force=0)
        self._start = self.client.saveState()

    def reset(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Put the robot's joints at positions (J,) and velocities (J,), zero if None."""
        self.client.restoreState(self._start)
        speeds = np.zeros(len(positions)) if velocities is None else velocities
        for index, position, velocity in zip(self._indices, positions, speeds):
            self.client.resetJointState(self.body, index, position, velocity)

    def step(self, kind: str, joints: tuple[str, ...], command: np.ndarray) -> None:
        """Drive `joints` with the SI command (A,) of `kind` for one control period."""
        indices = [self._joint_index[j] for j in joints]
        if kind != "effort":
            limits = {j.name: j for j in self.robot.joints}
            forces = [limits[j].max_effort for j in joints]
            mode = pybullet.POSITION_CONTROL if kind == "position" else pybullet.VELOCITY_CONTROL
            target = {"targetPositions" if kind == "position" else "targetVelocities": list(command)}
            self.client.setJointMotorControlArray(self.body, indices, mode, forces=forces, **target)
        for _ in range(self.substeps):
            if kind == "effort":  # PyBullet clears applied torques after each physics step
                self.client.setJointMotorControlArray(
                    self.body, indices, pybullet.TORQUE_CONTROL, forces=list(command)
                )
            self.client.stepSimulation()

    def joint_states(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (J,) and velocities (J,) in the order of the robot's joints."""
        states = self.client.getJointStates(self.body, self._indices)
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def link_position(self, link: str) -> np.ndarray:
        """World position (3,) in m of the frame of `link`."""
        state = self.client.getLinkState(self.body, self._link_index[link], computeForwardKinematics=1)
        return np.array(state[4])

    def close(self) -> None:
        """Disconnect from PyBullet."""
        if self.client.isConnected():
            self.client.disconnect()
