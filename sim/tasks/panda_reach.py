"""The hand of a Franka Panda follows a target that jumps and drifts."""

from __future__ import annotations

import numpy as np

from sim.randomisation import Draw
from sim.robots.panda import END_EFFECTOR, PANDA, SENSORS
from sim.tasks.reach import Reach, joint_increments, reach_sensors


class PandaReach(Reach):
    """See `sim.tasks.reach`."""

    name = "panda_reach"
    robot = PANDA
    end_effector = END_EFFECTOR
    centre = np.array([0.45, 0.0, 0.4])
    half = np.array([0.12, 0.3, 0.2])
    sensors = (*SENSORS, *reach_sensors(END_EFFECTOR, centre))
    action = joint_increments(PANDA)
    randomisation = (Draw("payload", 0.0, 1.0), Draw("sensor_noise", 0.5, 2.0))
