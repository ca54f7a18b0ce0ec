"""Tasks, one file each, by name."""

from __future__ import annotations

from runtime.errors import GanglionError
from sim.tasks.a1_stand import A1Stand
from sim.tasks.a1_walk import A1Walk
from sim.tasks.base import Outcome, Task
from sim.tasks.cartpole import CartPole
from sim.tasks.cartpole_swingup import CartPoleSwingup
from sim.tasks.husky_goto import HuskyGoto
from sim.tasks.kuka_reach import KukaReach
from sim.tasks.panda_push import PandaPush
from sim.tasks.panda_reach import PandaReach

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (CartPole, CartPoleSwingup, KukaReach, PandaReach, PandaPush, A1Stand, A1Walk, HuskyGoto)
}
"""Every task by its name."""

__all__ = ["TASKS", "Outcome", "Task", "task_class"]


def task_class(name: str) -> type[Task]:
    """The task called `name`. Raises GanglionError that lists the known ones."""
    if name not in TASKS:
        raise GanglionError(f"there is no task '{name}'; expected one of {', '.join(sorted(TASKS))}")
    return TASKS[name]
