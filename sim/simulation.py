"""One robot in one PyBullet world, addressed by joint and link names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import GanglionError
from sim.bullet import pybullet, pybullet_data
from sim.robots.base import Robot

GRAVITY = 9.81


class Simulation:
    """Physics at `rate_hz * substeps` Hz. Every reset restores the same saved world, so runs are reproducible."""

    def __init__(self, robot: Robot, rate_hz: float, substeps: int) -> None:
        """Raises GanglionError if the URDF is missing or lacks a joint of the robot."""
        self.robot = robot
        self.substeps = substeps
        path = Path(pybullet_data.getDataPath()) / robot.urdf
        if not path.is_file():
            raise GanglionError(f"robot '{robot.name}': there is no URDF at {path}; reinstall pybullet")
        self._world: dict[str, Any] = {"physicsClientId": pybullet.connect(pybullet.DIRECT)}
        pybullet.setGravity(0, 0, -GRAVITY, **self._world)
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=1 / (rate_hz * substeps), deterministicOverlappingPairs=1, **self._world
        )
        self.body = pybullet.loadURDF(str(path), useFixedBase=robot.fixed_base, **self._world)
        count = pybullet.getNumJoints(self.body, **self._world)
        infos = [pybullet.getJointInfo(self.body, i, **self._world) for i in range(count)]
        self._joint_index = {info[1].decode(): info[0] for info in infos}
        self._link_index = {info[12].decode(): info[0] for info in infos}
        missing = [j for j in robot.joint_names if j not in self._joint_index]
        if missing:
            raise GanglionError(
                f"robot '{robot.name}': {path.name} has no joints {missing}; it has {sorted(self._joint_index)}"
            )
        self._indices = [self._joint_index[j] for j in robot.joint_names]
        self._max_effort = {j.name: j.max_effort for j in robot.joints}
        for index in self._indices:  # PyBullet brakes every joint until told otherwise
            pybullet.setJointMotorControl2(self.body, index, pybullet.VELOCITY_CONTROL, force=0, **self._world)
        self._start = pybullet.saveState(**self._world)

    def reset(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Put the robot's joints at positions (J,) and velocities (J,), zero if None."""
        pybullet.restoreState(self._start, **self._world)
        speeds = np.zeros(len(positions)) if velocities is None else velocities
        for index, position, velocity in zip(self._indices, positions, speeds, strict=True):
            pybullet.resetJointState(self.body, index, position, velocity, **self._world)

    def step(self, kind: str, joints: tuple[str, ...], command: np.ndarray) -> None:
        """Drive `joints` with the SI command (A,) of `kind` for one control period."""
        indices = [self._joint_index[j] for j in joints]
        values = list(command)
        if kind == "effort":
            for _ in range(self.substeps):  # PyBullet clears applied torques after each physics step
                pybullet.setJointMotorControlArray(
                    self.body, indices, pybullet.TORQUE_CONTROL, forces=values, **self._world
                )
                pybullet.stepSimulation(**self._world)
            return
        forces = [self._max_effort[j] for j in joints]
        position = kind == "position"
        mode = pybullet.POSITION_CONTROL if position else pybullet.VELOCITY_CONTROL
        target = {"targetPositions" if position else "targetVelocities": values}
        pybullet.setJointMotorControlArray(self.body, indices, mode, forces=forces, **target, **self._world)
        for _ in range(self.substeps):
            pybullet.stepSimulation(**self._world)

    def joint_states(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (J,) and velocities (J,) in the order of the robot's joints."""
        states = pybullet.getJointStates(self.body, self._indices, **self._world)
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def link_position(self, link: str) -> np.ndarray:
        """World position (3,) in m of the frame of `link`."""
        state = pybullet.getLinkState(self.body, self._link_index[link], computeForwardKinematics=1, **self._world)
        return np.array(state[4])

    def close(self) -> None:
        """Disconnect from PyBullet."""
        if pybullet.isConnected(**self._world):
            pybullet.disconnect(**self._world)
