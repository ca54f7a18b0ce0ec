"""Learning algorithms, one file each, by name."""

from __future__ import annotations

from typing import Any

from runtime.errors import GanglionError
from training.algorithms.a2c import A2C
from training.algorithms.base import Algorithm
from training.algorithms.bc import BC
from training.algorithms.bpo import BPO
from training.algorithms.ddpg import DDPG
from training.algorithms.dqn import DQN
from training.algorithms.fqi import FQI
from training.algorithms.nfqca import NFQCA
from training.algorithms.npg import NPG
from training.algorithms.offpac import OffPAC
from training.algorithms.ppo import PPO
from training.algorithms.reinforce import Reinforce
from training.algorithms.sac import SAC
from training.algorithms.svg import SVG
from training.algorithms.td3 import TD3
from training.algorithms.trpo import TRPO
from training.algorithms.vfe import VFE
from training.algorithms.vpg import VPG

ALGORITHMS: dict[str, type[Algorithm[Any]]] = {
    a.name: a for a in (PPO, BC, Reinforce, VPG, A2C, NPG, TRPO, FQI, DQN, OffPAC, NFQCA, DDPG, TD3, SAC, SVG, BPO, VFE)
}
"""Every learning algorithm by its name."""


def algorithm_class(name: str) -> type[Algorithm[Any]]:
    """The algorithm called `name`. Raises GanglionError that lists the known ones."""
    if name not in ALGORITHMS:
        raise GanglionError(f"there is no algorithm '{name}'; expected one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]
