"""Tasks, one file each, by name."""

from __future__ import annotations

from runtime.errors import GanglionError
from sim.tasks.a1_stand import A1Stand
from sim.tasks.a1_walk import A1Walk
from sim.tasks.base import NOMINAL, Outcome, Task, TaskInfo
from sim.tasks.cartpole import CartPole
from sim.tasks.cartpole_push import CartPolePush
from sim.tasks.cartpole_swingup import CartPoleSwingup
from sim.tasks.husky_goto import HuskyGoto
from sim.tasks.kuka_reach import KukaReach
from sim.tasks.panda_push import PandaPush
from sim.tasks.panda_reach import PandaReach

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (CartPole, CartPolePush, CartPoleSwingup, KukaReach, PandaReach, PandaPush, A1Stand, A1Walk, HuskyGoto)
}
"""Every task by its name."""

EXTERNAL = "gym:"
"""Begins the name of a task that is an environment of gymnasium, e.g. gym:HalfCheetahBulletEnv-v0."""

__all__ = ["EXTERNAL", "NOMINAL", "TASKS", "Outcome", "Task", "TaskInfo", "is_external", "own_task", "task_class"]


def is_external(name: str) -> bool:
    """Whether `name` is that of an environment of gymnasium."""
    return name.startswith(EXTERNAL)


def task_class(name: str) -> type[TaskInfo]:
    """The task called `name`, of this package or of gymnasium. Raises GanglionError that lists the known ones."""
    if is_external(name):
        from sim.external import external_task

        return external_task(name)
    return own_task(name)


def own_task(name: str) -> type[Task]:
    """The task of this package called `name`. Raises GanglionError that lists the known ones."""
    if name not in TASKS:
        known = ", ".join(sorted(TASKS))
        raise GanglionError(f"there is no task '{name}'; expected one of {known}, or {EXTERNAL}ID of gymnasium")
    return TASKS[name]
