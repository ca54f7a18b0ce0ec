"""One robot in one PyBullet world, addressed by joint and link names."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.errors import GanglionError
from sim.actuators import DelayLine, Motors
from sim.bullet import pybullet, pybullet_data, silenced
from sim.robots.base import Robot

GRAVITY = 9.81
_LOCK_EFFORT = 1e4  # N·m or N that hold a locked joint
_OUT_OF_REACH_M = 10.0
_TRUNK = -1  # PyBullet's index of the base


def _connect(render_mode: str | None) -> int:
    if render_mode != "human":
        direct: int = pybullet.connect(pybullet.DIRECT)
        return direct
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise GanglionError("there is no display for a window (DISPLAY is not set); make a video: ganglion video")
    client: int = pybullet.connect(pybullet.GUI)
    if client < 0:
        raise GanglionError("PyBullet cannot open a window on this display; make a video: ganglion video")
    pybullet.configureDebugVisualizer(pybullet.COV_ENABLE_GUI, 0, physicsClientId=client)
    return client


class BaseState(NamedTuple):
    """Of the base's frame, in the world's unless said otherwise."""

    position: np.ndarray
    """(3,), m."""
    rotation: np.ndarray
    """(3, 3), from the base's frame to the world's."""
    velocity: np.ndarray
    """(3,), m/s, of the origin of the base's frame, in the base's frame."""
    angular_velocity: np.ndarray
    """(3,), rad/s, in the base's frame."""


@dataclass(frozen=True)
class Box:
    """A box that can be pushed about."""

    name: str
    half_extents: tuple[float, float, float]
    """m."""
    mass: float
    """kg."""


class Simulation:
    """Physics at `rate_hz * substeps` Hz. Every reset restores the same saved world, so runs are reproducible."""

    def __init__(
        self,
        robot: Robot,
        rate_hz: float,
        substeps: int,
        joints: tuple[str, ...] = (),
        boxes: tuple[Box, ...] = (),
        render_mode: str | None = None,
    ) -> None:
        """Commands go to `joints`, all of the robot's if empty. `boxes` lie beside the robot, on a plane.

        `render_mode` is None, `rgb_array` for pictures, or `human` for a window.

        Raises GanglionError if the URDF is missing or lacks a joint or a link of the robot.
        """
        self.robot = robot
        self.substeps = substeps
        self.step_s = 1 / (rate_hz * substeps)
        """Length of a physics step."""
        path = Path(pybullet_data.getDataPath()) / robot.urdf
        if not path.is_file():
            raise GanglionError(f"robot '{robot.name}': there is no URDF at {path}; reinstall pybullet")
        self._world: dict[str, Any] = {"physicsClientId": _connect(render_mode)}
        pybullet.setGravity(0, 0, -GRAVITY, **self._world)
        pybullet.setPhysicsEngineParameter(fixedTimeStep=self.step_s, deterministicOverlappingPairs=1, **self._world)
        self.grounded = bool(boxes) or not robot.fixed_base
        """Whether there is a plane."""
        if self.grounded:
            plane = pybullet.createCollisionShape(pybullet.GEOM_PLANE, **self._world)
            seen = -1 if render_mode is None else self._floor()
            self.ground = pybullet.createMultiBody(0, plane, seen, **self._world)
            pybullet.changeDynamics(self.ground, _TRUNK, lateralFriction=1.0, **self._world)
        self.body = self._load(path)
        self._boxes = {box.name: self._add_box(box) for box in boxes}
        count = pybullet.getNumJoints(self.body, **self._world)
        infos = [pybullet.getJointInfo(self.body, i, **self._world) for i in range(count)]
        self._joint_index = {info[1].decode(): info[0] for info in infos}
        self._link_index = {info[12].decode(): info[0] for info in infos}
        self._require("joints", robot.joint_names, self._joint_index, path)
        links = (*robot.feet, *filter(None, (robot.payload_link,)))
        self._require("links", links, self._link_index, path)
        self._indices = [self._joint_index[j] for j in robot.joint_names]
        commanded = joints or robot.joint_names
        belts = {joint: leader for joint, leader in robot.belts if leader in commanded and joint not in commanded}
        self._belted = [commanded.index(leader) for leader in belts.values()]
        self._driven = (*commanded, *belts)
        self._drive_indices = [self._joint_index[j] for j in self._driven]
        self._max_effort = {j.name: j.max_effort for j in robot.joints}
        self.motors = Motors(robot, self._driven)
        self.delay = DelayLine()
        self._set_locked(set())
        self._joints: tuple[np.ndarray, np.ndarray] | None = None
        self._base: BaseState | None = None
        self._links: dict[str, np.ndarray] = {}
        self._push = (np.zeros(3), 0)
        self._release(self._indices)  # PyBullet brakes every joint until told otherwise
        self._feet = [self._link_index[f] for f in robot.feet]
        if robot.sideways_grip < 1.0:
            for foot in self._feet:
                grip = [1.0, robot.sideways_grip, 1.0]
                pybullet.changeDynamics(self.body, foot, anisotropicFriction=grip, **self._world)
        self._carrier = self._link_index[robot.payload_link] if robot.payload_link else _TRUNK
        dynamics = pybullet.getDynamicsInfo(self.body, self._carrier, **self._world)
        self._mass, self._inertia = dynamics[0], np.array(dynamics[2])
        # PyBullet tells where the base's centre of mass is; from there to the frame of the base
        _, _, _, place, turn, *_ = pybullet.getDynamicsInfo(self.body, _TRUNK, **self._world)
        self._to_frame = pybullet.invertTransform(place, turn)
        self._part()
        self._start = pybullet.saveState(**self._world)

    def _part(self) -> None:
        """Move everything that is loose so far up that nothing touches."""
        loose = [*self._boxes.values()] + ([] if self.robot.fixed_base else [self.body])
        for i, body in enumerate(loose):
            high = (0.0, 0.0, _OUT_OF_REACH_M * (i + 1))
            pybullet.resetBasePositionAndOrientation(body, high, (0, 0, 0, 1), **self._world)

    def _floor(self) -> int:
        """Shape of a chequered floor."""
        path = Path(pybullet_data.getDataPath()) / "plane100.obj"
        shape: int = pybullet.createVisualShape(pybullet.GEOM_MESH, fileName=str(path), **self._world)
        return shape

    def _load(self, path: Path) -> int:
        if self.robot.fixed_base:
            body: int = pybullet.loadURDF(str(path), useFixedBase=True, **self._world)
            return body
        flags = (
            pybullet.URDF_USE_INERTIA_FROM_FILE | pybullet.URDF_MERGE_FIXED_LINKS
            | pybullet.URDF_MAINTAIN_LINK_ORDER | pybullet.URDF_USE_SELF_COLLISION
        )  # fmt: skip
        with silenced(1):
            body = pybullet.loadURDF(str(path), [0, 0, self.robot.height], flags=flags, **self._world)
        for link in range(_TRUNK, pybullet.getNumJoints(body, **self._world)):
            pybullet.changeDynamics(
                body, link, linearDamping=0, angularDamping=0, jointDamping=0, lateralFriction=1.0, **self._world
            )
        return body

    def _add_box(self, box: Box) -> int:
        shape = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=box.half_extents, **self._world)
        body: int = pybullet.createMultiBody(box.mass, shape, basePosition=(0, 0, box.half_extents[2]), **self._world)
        pybullet.changeDynamics(body, _TRUNK, lateralFriction=1.0, **self._world)
        return body

    def place_box(self, name: str, position: np.ndarray, heading: float) -> None:
        """Put a box at `position` (3,) m, turned by `heading` rad about the vertical, at rest."""
        turn = pybullet.getQuaternionFromEuler((0.0, 0.0, heading))
        pybullet.resetBasePositionAndOrientation(self._boxes[name], tuple(position), turn, **self._world)

    def box_position(self, name: str) -> np.ndarray:
        """Of a box's centre (3,), m."""
        return np.array(pybullet.getBasePositionAndOrientation(self._boxes[name], **self._world)[0])

    def _require(self, what: str, wanted: tuple[str, ...], offered: dict[str, int], path: Path) -> None:
        missing = [name for name in wanted if name not in offered]
        if missing:
            raise GanglionError(
                f"robot '{self.robot.name}': {path.name} has no {what} {missing}; it has {sorted(offered)}"
            )

    def _set_locked(self, indices: set[int]) -> None:
        self._locked = indices
        self._free = [i for i, index in enumerate(self._drive_indices) if index not in indices]
        self._free_indices = [self._drive_indices[i] for i in self._free]

    def _release(self, indices: list[int]) -> None:
        for index in indices:
            pybullet.setJointMotorControl2(self.body, index, pybullet.VELOCITY_CONTROL, force=0, **self._world)

    def reset(
        self,
        positions: np.ndarray,
        velocities: np.ndarray | None = None,
        base: np.ndarray | None = None,
        heading: float = 0.0,
    ) -> None:
        """Put the robot's joints at positions (J,) and velocities (J,), zero if None.

        The base of a robot that is not bolted stands still at `base` (3,) m, its height above the origin if None, with
        `heading` rad about the vertical. Nothing pushes it, and no joint is locked.
        """
        pybullet.restoreState(self._start, **self._world)
        if self.grounded:  # a contact that outlives its episode would start the next one with its impulse
            pybullet.performCollisionDetection(**self._world)
        self._forget()
        self._release(sorted(self._locked))
        self._set_locked(set())
        self.delay.reset()
        self._push = (np.zeros(3), 0)
        speeds = np.zeros(len(positions)) if velocities is None else velocities
        for index, position, velocity in zip(self._indices, positions, speeds, strict=True):
            pybullet.resetJointState(self.body, index, position, velocity, **self._world)
        if not self.robot.fixed_base:
            where = (0.0, 0.0, self.robot.height) if base is None else tuple(base)
            turn = pybullet.getQuaternionFromEuler((0.0, 0.0, heading))
            centre = pybullet.multiplyTransforms(where, turn, *pybullet.invertTransform(*self._to_frame))
            pybullet.resetBasePositionAndOrientation(self.body, *centre, **self._world)
            pybullet.resetBaseVelocity(self.body, (0, 0, 0), (0, 0, 0), **self._world)
            self._velocity_before = np.zeros(3)

    def step(self, kind: str, command: np.ndarray) -> None:
        """Drive the commanded joints with the SI command (A,) of `kind` for one control period."""
        asked = command.tolist()
        self.delay.give(asked + [asked[i] for i in self._belted])
        self._forget()
        if not self.robot.fixed_base:
            self._velocity_before = np.array(pybullet.getBaseVelocity(self.body, **self._world)[0])
        servo = self.robot.drive is None and kind != "effort"
        given: list[float] | None = None
        for _ in range(self.substeps):
            now = self.delay.step()
            if not servo:
                self._apply_effort(kind, now)
            elif given is None or now is not given:
                self._command_servo(kind, now)
                given = now
            force, left = self._push
            if left > 0:
                where = pybullet.getBasePositionAndOrientation(self.body, **self._world)[0]
                pybullet.applyExternalForce(
                    self.body, _TRUNK, force, where, pybullet.WORLD_FRAME, **self._world
                )  # PyBullet clears forces after each physics step
                self._push = (force, left - 1)
            pybullet.stepSimulation(**self._world)

    def _forget(self) -> None:
        """What was read of the world is no longer so."""
        self._joints = self._base = None
        self._links.clear()

    def _apply_effort(self, kind: str, command: list[float]) -> None:
        """PyBullet clears applied torques after each physics step."""
        if self.motors.open_loop:
            effort = [share * c for share, c in zip(self.motors.strength, command)]
        else:
            states = pybullet.getJointStates(self.body, self._drive_indices, **self._world)
            effort = self.motors.effort(kind, command, [s[0] for s in states], [s[1] for s in states])
        if self._locked:
            effort = [effort[i] for i in self._free]
        pybullet.setJointMotorControlArray(
            self.body, self._free_indices, pybullet.TORQUE_CONTROL, forces=effort, **self._world
        )

    def _command_servo(self, kind: str, command: list[float]) -> None:
        position = kind == "position"
        mode = pybullet.POSITION_CONTROL if position else pybullet.VELOCITY_CONTROL
        free = self._free
        target = {"targetPositions" if position else "targetVelocities": [command[i] for i in free]}
        forces = [self._max_effort[self._driven[i]] * self.motors.strength[i] for i in free]
        pybullet.setJointMotorControlArray(self.body, self._free_indices, mode, forces=forces, **target, **self._world)

    def joint_states(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (J,) and velocities (J,) in the order of the robot's joints."""
        if self._joints is None:
            states = pybullet.getJointStates(self.body, self._indices, **self._world)
            self._joints = np.array([s[0] for s in states]), np.array([s[1] for s in states])
        return self._joints

    def link_position(self, link: str) -> np.ndarray:
        """World position (3,) in m of the frame of `link`."""
        if link not in self._links:
            state = pybullet.getLinkState(self.body, self._link_index[link], computeForwardKinematics=1, **self._world)
            self._links[link] = np.array(state[4])
        return self._links[link]

    def base_state(self) -> BaseState:
        """Where the base is and how it moves."""
        if self._base is None:
            self._base = self._read_base()
        return self._base

    def _read_base(self) -> BaseState:
        place, turn = pybullet.getBasePositionAndOrientation(self.body, **self._world)
        linear, angular = pybullet.getBaseVelocity(self.body, **self._world)
        position, orientation = pybullet.multiplyTransforms(place, turn, *self._to_frame)
        rotation = np.reshape(pybullet.getMatrixFromQuaternion(orientation), (3, 3))
        rx, ry, rz = (p - q for p, q in zip(position, place))
        wx, wy, wz = angular
        lever = np.array((wy * rz - wz * ry, wz * rx - wx * rz, wx * ry - wy * rx))  # np.cross takes a tenth of a tick
        return BaseState(
            np.array(position), rotation, (np.array(linear) + lever) @ rotation, np.array(angular) @ rotation
        )

    def specific_force(self) -> np.ndarray:
        """What an accelerometer in the base's centre of mass read on average over the last tick, (3,) m/s²."""
        place, turn = pybullet.getBasePositionAndOrientation(self.body, **self._world)
        _, orientation = pybullet.multiplyTransforms(place, turn, *self._to_frame)
        velocity = np.array(pybullet.getBaseVelocity(self.body, **self._world)[0])
        change = (velocity - self._velocity_before) / (self.step_s * self.substeps)
        rotation = np.reshape(pybullet.getMatrixFromQuaternion(orientation), (3, 3))
        return (change + (0.0, 0.0, GRAVITY)) @ rotation

    def foot_forces(self) -> np.ndarray:
        """Normal force of the ground on every foot, (F,) N."""
        forces = dict.fromkeys(self._feet, 0.0)
        for contact in pybullet.getContactPoints(self.body, self.ground, **self._world):
            if contact[3] in forces:
                forces[contact[3]] += contact[9]
        return np.array(list(forces.values()))

    def touched_ground(self) -> bool:
        """Whether anything but a foot touches the ground."""
        contacts = pybullet.getContactPoints(self.body, self.ground, **self._world)
        return any(c[3] not in self._feet for c in contacts)

    def set_friction(self, coefficient: float) -> None:
        """Coulomb friction between the ground and everything of the robot."""
        pybullet.changeDynamics(self.ground, _TRUNK, lateralFriction=coefficient, **self._world)

    def set_payload(self, mass: float) -> None:
        """Add `mass` kg to the link that carries payloads, spread like its own."""
        total = self._mass + mass
        inertia = (self._inertia * (total / self._mass)).tolist()
        pybullet.changeDynamics(self.body, self._carrier, mass=total, localInertiaDiagonal=inertia, **self._world)

    def push(self, impulse: np.ndarray, seconds: float) -> None:
        """Push the base with an even force that gives `impulse` (3,) N·s within `seconds`."""
        steps = max(1, round(seconds / self.step_s))
        self._push = (np.asarray(impulse) / (steps * self.step_s), steps)

    def lock(self, joint: str) -> None:
        """Hold `joint` where it is, whatever is commanded, until `unlock` or `reset`."""
        index = self._joint_index[joint]
        self._set_locked(self._locked | {index})
        here = pybullet.getJointState(self.body, index, **self._world)[0]
        pybullet.setJointMotorControl2(
            self.body, index, pybullet.POSITION_CONTROL, targetPosition=here, force=_LOCK_EFFORT, **self._world
        )

    def unlock(self, joint: str) -> None:
        """Set a locked joint free."""
        index = self._joint_index[joint]
        self._set_locked(self._locked - {index})
        self._release([index])

    def picture(self, width: int, height: int) -> np.ndarray:
        """What the robot's view shows (height, width, 3) uint8."""
        view = self.robot.view
        eye = pybullet.computeViewMatrixFromYawPitchRoll(
            self._looked_at(), view.distance, view.yaw, view.pitch, 0.0, upAxisIndex=2
        )
        lens = pybullet.computeProjectionMatrixFOV(45.0, width / height, 0.05, 50.0)
        image = pybullet.getCameraImage(
            width, height, eye, lens, renderer=pybullet.ER_TINY_RENDERER, shadow=1, **self._world
        )[2]
        return np.reshape(image, (height, width, 4))[:, :, :3].astype(np.uint8)

    def follow(self) -> None:
        """Move the camera of the window to the robot."""
        view = self.robot.view
        pybullet.resetDebugVisualizerCamera(view.distance, view.yaw, view.pitch, self._looked_at(), **self._world)

    def _looked_at(self) -> list[float]:
        target = np.array(self.robot.view.target)
        if not self.robot.fixed_base:
            target[:2] += self.base_state().position[:2]
        return [float(v) for v in target]

    def close(self) -> None:
        """Disconnect from PyBullet."""
        if pybullet.isConnected(**self._world):
            pybullet.disconnect(**self._world)
