"""Environments of gymnasium as tasks: those of the PyBullet benchmark, or any other with vectors in and out.

Their readings have no unit and no error, and their joints no limits, so an agent trained on one is for comparison, not
for a robot.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium
import numpy as np

from runtime.contract import Action, Observation
from runtime.errors import GanglionError
from sim.bullet import silenced
from sim.env import TaskEnv
from sim.randomisation import Draw
from sim.robots.base import Joint, Robot
from sim.tasks import EXTERNAL
from sim.tasks.base import Outcome, TaskInfo

_FURTHEST = 1e6  # of a reading; nothing is known of its range
_BENCHMARK = "pybullet_envs_gymnasium"
_STEPS = 1000  # of an episode, where the environment does not say
_RATE_HZ = 60.0  # likewise


def _make(name: str, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    identifier = name.removeprefix(EXTERNAL)
    if identifier not in gymnasium.registry and "Bullet" in identifier:
        try:
            __import__(_BENCHMARK)
        except ModuleNotFoundError as error:
            raise GanglionError(f"'{identifier}' needs the package {_BENCHMARK}; pip install {_BENCHMARK}") from error
    try:
        with silenced(1):
            env = gymnasium.make(identifier, disable_env_checker=True, render_mode=render_mode)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise GanglionError(
            f"gymnasium has no environment '{identifier}' ({reason}); see gymnasium.pprint_registry()"
        ) from error
    for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise GanglionError(f"'{identifier}' has {what} in {space}, expected a Box with one axis")
    return env


@cache
def external_task(name: str) -> type[TaskInfo]:
    """What there is to know of `gym:ID`. Raises GanglionError if gymnasium has no such environment."""
    env = _make(name)
    try:
        with silenced(1):
            env.reset(seed=0)  # only then does the benchmark know its joints
        spec, own, observed = env.spec, env.unwrapped, env.observation_space
        acted = env.action_space
        assert isinstance(observed, gymnasium.spaces.Box)
        assert isinstance(acted, gymnasium.spaces.Box)
        size, joints = observed.shape[0], acted.shape[0]
        names = tuple(str(j.joint_name) for j in getattr(getattr(own, "robot", None), "ordered_joints", ()))
        if len(names) != joints or len(set(names)) != joints:
            names = tuple(f"joint_{i}" for i in range(joints))
        low, high = acted.low.astype(np.float64), acted.high.astype(np.float64)
    finally:
        env.close()
    observation = Observation(
        name="observation", kind="array", topic="observation", channels=tuple(f"x{i}" for i in range(size)), unit="1",
        mean=(0.0,) * size, scale=(1.0,) * size, low=(-_FURTHEST,) * size, high=(_FURTHEST,) * size, max_age_s=0.1,
        min_valid=0,
    )  # fmt: skip
    half = 0.5 * (high - low)
    action = Action(
        kind="effort", mode="absolute", topic="command", joints=names, unit="1", scale=tuple(half.tolist()),
        offset=tuple((0.5 * (high + low)).tolist()), low=tuple(low.tolist()), high=tuple(high.tolist()),
        max_rate=tuple((2e3 * half).tolist()), safe="zero",
    )  # fmt: skip
    described = {
        "name": name,
        "summary": "an environment of gymnasium",
        "robot": Robot(name.removeprefix(EXTERNAL), "", True, tuple(Joint(j, -1.0, 1.0, 1.0, 1.0) for j in names)),
        "rate_hz": float(env.metadata.get("render_fps") or _RATE_HZ),
        "episode_steps": (spec.max_episode_steps if spec else None) or _STEPS,
        "observations": (observation,),
        "action": action,
    }
    return type("ExternalTask", (TaskInfo,), described)


class ExternalEnv(TaskEnv):
    """An environment of gymnasium behind the interface of ours."""

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        """Raises GanglionError if gymnasium has no such environment, or one without vectors."""
        super().__init__(external_task(name)())
        self._env = _make(name, render_mode).unwrapped
        self.render_mode = render_mode
        self._readings = np.zeros(self.layout.size)

    def set_randomisation(self, table: tuple[Draw, ...]) -> None:
        if table:
            raise GanglionError(f"nothing of {self.task.name} can be randomised, got {[d.name for d in table]}")

    def set_difficulty(self, difficulty: float) -> None:
        """Nothing of it is randomised."""

    def pose(self) -> np.ndarray:
        return np.zeros(self.layout.joints)

    def _begin(self, seed: int | None) -> None:
        with silenced(1):
            self._readings, _ = self._env.reset(seed=seed)

    def _move(self, command: np.ndarray) -> Outcome:
        self._readings, reward, terminated, _, _ = self._env.step(command.astype(np.float32))
        self._steps += 1
        return Outcome(float(reward), bool(terminated), success=not terminated)

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self._readings, dtype=np.float64), np.full(self.layout.size, self.time_s)

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()
