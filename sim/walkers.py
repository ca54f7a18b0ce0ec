"""The walkers of the PyBullet benchmark, stepped with few calls of PyBullet instead of one for every joint and link.

What they observe and earn stays the same to the last bit.
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
        self._feet: Any = None
        self._count = 0
        self._turn = np.eye(3)
        self._contacts: tuple[Any, ...] = ()

    def _look_up(self) -> None:
        """Which numbers the joints and parts have: the scene adds its own parts after the first reset."""
        robot = self.robot
        self._feet, self._count = robot.feet, len(robot.parts)
        self._client = robot._p._client
        self._body = robot.robot_body.bodies[robot.robot_body.bodyIndex]
        self._joints = [j.jointIndex for j in robot.ordered_joints]
        self._ranges = [(j.lowerLimit, j.upperLimit - j.lowerLimit) for j in robot.ordered_joints]
        self._torques = [robot.power * j.power_coef for j in robot.ordered_joints]
        places = [(p.bodies[p.bodyIndex], p.bodyPartIndex) for p in (*robot.parts.values(), robot.robot_body)]
        self._links = sorted({link for body, link in places if body == self._body and link != -1})
        self._others = sorted({place for place in places if place[0] != self._body or place[1] == -1})
        rows = {(self._body, link): i for i, link in enumerate(self._links)}
        rows |= {place: len(rows) + i for i, place in enumerate(self._others)}
        *self._rows, self._trunk = [rows[place] for place in places]
        for foot in robot.feet:
            foot.contact_list = lambda link=foot.bodyPartIndex: [c for c in self._contacts if c[3] == link]

    def calc_state(self) -> np.ndarray:
        """The observation (D,) float32; leaves on the robot what the rewards are made of."""
        robot = self.robot
        if robot.feet is not self._feet or len(robot.parts) != self._count:
            self._look_up()
        client, body = self._client, self._body
        scaled: list[float] = []
        joints = pybullet.getJointStates(body, self._joints, physicsClientId=client)
        for (angle, speed, *_), (low, span) in zip(joints, self._ranges):
            scaled += (2 * (angle - low) / span - 1.0, 0.1 * speed)
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
        turn, cos, sin = self._turn, np.cos(-yaw), np.sin(-yaw)
        turn[0, 0] = turn[1, 1] = cos
        turn[0, 1], turn[1, 0] = -sin, sin
        vx, vy, vz = turn.dot(velocity)
        own = (z - robot.initial_z, np.sin(angle), np.cos(angle), 0.3 * vx, 0.3 * vy, 0.3 * vz, roll, pitch)
        state = np.array((*own, *scaled, *robot.feet_contact.tolist()), dtype=np.float32)
        j = state[len(own) : len(own) + len(scaled)]
        robot.joint_speeds = j[1::2]
        robot.joints_at_limit = np.count_nonzero(np.abs(j[0::2]) > 0.99)
        self._contacts = pybullet.getContactPoints(body, physicsClientId=client)
        return within(state, -_LARGEST, _LARGEST)

    def _poses(self) -> tuple[Any, Any, Any]:
        """Position, orientation and velocity of the trunk; sets the robot's `body_xyz`, a mean over its parts."""
        client, body = self._client, self._body
        links = pybullet.getLinkStates(body, self._links, computeLinkVelocity=1, physicsClientId=client)
        states = (*links, *(self._state(*place) for place in self._others))
        trunk = states[self._trunk]
        velocity = trunk[6] if self._trunk < len(links) else pybullet.getBaseVelocity(body, physicsClientId=client)[0]
        x, y, _ = zip(*[states[row][0] for row in self._rows])
        count = len(self._rows)
        means = (np.add.reduce(np.array(along)) / count for along in (x, y))
        self.robot.body_xyz = (*means, trunk[0][2])
        return trunk[0], trunk[1], velocity

    def _state(self, body: int, link: int) -> Any:
        """Position and orientation of a part that is not among the robot's links, perhaps with more."""
        if link == -1:
            return pybullet.getBasePositionAndOrientation(body, physicsClientId=self._client)
        return pybullet.getLinkState(body, link, physicsClientId=self._client)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """A tick with a normalised action (A,): torques, physics, and the sum of five rewards."""
        env, robot = self.env, self.robot
        robot.apply_action(action)
        env.scene.global_step()
        state = robot.calc_state()
        env._alive = float(robot.alive_bonus(state[0] + robot.initial_z, robot.body_rpy[1]))
        done = bool(env._isDone() or math.isnan(np.add.reduce(state)))  # none of them is larger than the bound
        before, env.potential = env.potential, robot.calc_potential()
        on_ground = {c[3] for c in self._contacts if (c[2], c[4]) in env.ground_ids}
        robot.feet_contact[:] = [foot.bodyPartIndex in on_ground for foot in robot.feet]
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
        inside = within(action, -1, 1).tolist()
        forces = [torque * a for torque, a in zip(self._torques, inside)]
        pybullet.setJointMotorControlArray(
            self._body, self._joints, pybullet.TORQUE_CONTROL, forces=forces, physicsClientId=self._client
        )
