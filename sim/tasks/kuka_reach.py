"""The end effector of a KUKA iiwa follows a target that jumps and drifts."""

from __future__ import annotations

import numpy as np

from sim.robots.kuka import END_EFFECTOR, KUKA, SENSORS
from sim.tasks.reach import Reach, joint_increments, reach_sensors


class KukaReach(Reach):
    """See `sim.tasks.reach`."""

    name = "kuka_reach"
    robot = KUKA
    end_effector = END_EFFECTOR
    centre = np.array([0.55, 0.0, 0.5])
    half = np.array([0.15, 0.35, 0.2])
    sensors = (*SENSORS, *reach_sensors(END_EFFECTOR, centre))
    action = joint_increments(KUKA)
