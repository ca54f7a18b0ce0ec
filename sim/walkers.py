"""The walkers of the PyBullet benchmark, stepped with few calls of PyBullet instead of one for every joint and link.

What they observe and earn stays the same to the last bit; a step takes half as long.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pybullet_envs_gymnasium.gym_locomotion_envs import WalkerBaseBulletEnv
from pybullet_envs_gymnasium.robot_locomotors import WalkerBase

from runtime.limits import within
from sim.bullet import pybullet

_LARGEST = 5.0  # the benchmark's bound of every reading


def hasten(env: Any) -> None:
    """Give `env` and its robot faster methods, if it is one of the benchmark's walkers and has no others of its own."""
    robot = getattr(env, "robot", None)
    if not isinstance(robot, WalkerBase) or type(robot).calc_state is not WalkerBase.calc_state:
        return
    walker = _Walker(env, robot)
    vars(robot)["calc_state"] = walker.calc_state
    if type(robot).apply_action is WalkerBase.apply_action:
        vars(robot)["apply_action"] = walker.apply_action
    if type(env).step is WalkerBaseBulletEnv.step:
        vars(env)["step"] = walker.step


class _Walker:
    """Reads all joints, links and contacts of a robot at once."""

    def __init__(self, env: Any, robot: Any) -> None:
        self.env, self.robot = env, robot
        self._counts = (0, 0)
        self._contacts: dict[int, list[Any]] = {}

    def _look_up(self) -> None:
        """Which numbers the joints and parts have: the scene adds its own parts after the first reset."""
        robot = self.robot
        self._client = robot._p._client
        self._body = robot.robot_body.bodies[robot.robot_body.bodyIndex]
        self._joints = [j.jointIndex for j in robot.ordered_joints]
        self._lower = [j.lowerLimit for j in robot.ordered_joints]
        self._range = [j.upperLimit - j.lowerLimit for j in robot.ordered_joints]
        self._parts = list(robot.parts.values())
        own = [p for p in self._parts if p.bodies[p.bodyIndex] == self._body]
        self._links = sorted({p.bodyPartIndex for p in (*own, robot.robot_body)} - {-1})
        self._strangers = {id(p): p for p in self._parts if p not in own}

    def calc_state(self) -> np.ndarray:
        """The observation (D,) float32; leaves on the robot what the rewards are made of."""
        robot = self.robot
        counts = (len(robot.ordered_joints), len(robot.parts))
        if counts != self._counts:
            self._look_up()
            self._counts = counts
        client, body = self._client, self._body
        joints = pybullet.getJointStates(body, self._joints, physicsClientId=client)
        scaled = [
            (2 * (joint[0] - low) / span - 1.0, 0.1 * joint[1])
            for joint, low, span in zip(joints, self._lower, self._range)
        ]
        j = np.array(scaled, dtype=np.float32).ravel()
        robot.joint_speeds = j[1::2]
        robot.joints_at_limit = np.count_nonzero(np.abs(j[0::2]) > 0.99)
        position, orientation, velocity = self._poses()
        robot.body_real_xyz = position
        robot.body_rpy = pybullet.getEulerFromQuaternion(orientation)
        roll, pitch, yaw = robot.body_rpy
        x, y, z = robot.body_xyz
        if robot.initial_z is None:
            robot.initial_z = z
        ahead, aside = robot.walk_target_x - x, robot.walk_target_y - y
        robot.walk_target_theta = np.arctan2(aside, ahead)
        away = np.array((aside, ahead))
        robot.walk_target_dist = math.sqrt(away.dot(away))
        angle = robot.walk_target_theta - yaw
        cos, sin = np.cos(-yaw), np.sin(-yaw)
        vx, vy, vz = np.dot(np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]), velocity)
        own = (z - robot.initial_z, np.sin(angle), np.cos(angle), 0.3 * vx, 0.3 * vy, 0.3 * vz, roll, pitch)
        self._touch()
        return within(np.concatenate((np.array(own, dtype=np.float32), j, robot.feet_contact)), -_LARGEST, _LARGEST)

    def _poses(self) -> tuple[Any, Any, Any]:
        """Position, orientation and velocity of the trunk; sets the robot's `body_xyz`, a mean over its parts."""
        client, body, robot = self._client, self._body, self.robot
        links = pybullet.getLinkStates(body, self._links, computeLinkVelocity=1, physicsClientId=client)
        states = dict(zip(self._links, links))
        base = pybullet.getBasePositionAndOrientation(body, physicsClientId=client)
        rows = [
            part.current_position() if id(part) in self._strangers else states.get(part.bodyPartIndex, base)[0]
            for part in self._parts
        ]
        where = np.array(rows).ravel()
        trunk = robot.robot_body.bodyPartIndex
        position, orientation = states.get(trunk, base)[:2]
        moving = pybullet.getBaseVelocity(body, physicsClientId=client)[0] if trunk == -1 else states[trunk][6]
        count = len(rows)
        robot.body_xyz = np.add.reduce(where[0::3]) / count, np.add.reduce(where[1::3]) / count, position[2]
        return position, orientation, moving

    def _touch(self) -> None:
        """Keep the contacts of every link for the feet, whose turn is next."""
        self._contacts.clear()
        for contact in pybullet.getContactPoints(self._body, physicsClientId=self._client):
            self._contacts.setdefault(contact[3], []).append(contact)
        for foot in self.robot.feet:
            foot.contact_list = lambda link=foot.bodyPartIndex: self._contacts.get(link, ())

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """A tick with a normalised action (A,): torques, physics, and the sum of five rewards."""
        env, robot = self.env, self.robot
        robot.apply_action(action)
        env.scene.global_step()
        state = robot.calc_state()
        env._alive = float(robot.alive_bonus(state[0] + robot.initial_z, robot.body_rpy[1]))
        done = bool(env._isDone() or not np.isfinite(state).all())
        before, env.potential = env.potential, robot.calc_potential()
        for i, foot in enumerate(robot.feet):
            on_ground = any((c[2], c[4]) in env.ground_ids for c in foot.contact_list())
            robot.feet_contact[i] = float(on_ground)
        count = len(action)
        electricity = env.electricity_cost * float(np.add.reduce(np.abs(action * robot.joint_speeds)) / count)
        electricity += env.stall_torque_cost * float(np.add.reduce(np.square(action)) / count)
        at_limit = float(env.joints_at_limit_cost * robot.joints_at_limit)
        env.rewards = [env._alive, float(env.potential - before), electricity, at_limit, 0.0]
        reward = sum(env.rewards)
        env.reward += reward
        return state, reward, done, False, {}

    def apply_action(self, action: np.ndarray) -> None:
        """Torques for a normalised action (A,)."""
        assert np.isfinite(action).all()
        robot = self.robot
        inside = within(action, -1, 1).tolist()
        forces = [robot.power * j.power_coef * a for j, a in zip(robot.ordered_joints, inside)]
        pybullet.setJointMotorControlArray(
            self._body, self._joints, pybullet.TORQUE_CONTROL, forces=forces, physicsClientId=self._client
        )
