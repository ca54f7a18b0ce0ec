"""Environments of gymnasium as tasks: those of the PyBullet benchmark, or any other that observes a vector.

The action is a vector, or one of n choices: those are n commands of one channel, evenly spaced from -1 to 1.

Readings have no unit and no error, and joints no limits, so an agent trained on one is for comparison, not for a robot.
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
    if not _is_vector(env.observation_space):
        raise GanglionError(f"'{identifier}' has observations in {env.observation_space}, expected a Box with one axis")
    if not _is_vector(env.action_space) and not isinstance(env.action_space, gymnasium.spaces.Discrete):
        raise GanglionError(
            f"'{identifier}' has actions in {env.action_space}, expected a Box with one axis or a Discrete"
        )
    return env


def _is_vector(space: gymnasium.Space[Any]) -> bool:
    return isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1


def _choices(space: gymnasium.Space[Any]) -> tuple[tuple[float, ...], ...]:
    """The command (1,) of each choice of a discrete action; none of a continuous one."""
    if not isinstance(space, gymnasium.spaces.Discrete):
        return ()
    return tuple((float(command),) for command in np.linspace(-1.0, 1.0, int(space.n)))


@cache
def external_task(name: str) -> type[TaskInfo]:
    """What there is to know of `gym:ID`. Raises GanglionError if gymnasium has no such environment."""
    env = _make(name)
    try:
        with silenced(1):
            env.reset(seed=0)  # only then does the benchmark know its joints
        spec, own, observed = env.spec, env.unwrapped, env.observation_space
        assert isinstance(observed, gymnasium.spaces.Box)
        choices = _choices(env.action_space)
        acted = env.action_space if not choices else gymnasium.spaces.Box(-1.0, 1.0, (1,))
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
        "choices": choices,
    }
    return type("ExternalTask", (TaskInfo,), described)


class ExternalEnv(TaskEnv):
    """An environment of gymnasium behind the interface of ours."""

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        """Raises GanglionError if gymnasium has no such environment, or one whose spaces are others."""
        super().__init__(external_task(name)())
        self._env = _make(name, render_mode).unwrapped
        if type(self._env).__module__.startswith(_BENCHMARK):
            from sim.walkers import hasten

            hasten(self._env)
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
        self._readings, reward, terminated, _, _ = self._env.step(self._native(command))
        self._steps += 1
        return Outcome(float(reward), bool(terminated), success=not terminated)

    def _native(self, command: np.ndarray) -> Any:
        """What the environment takes for a command (A,): itself, or the choice nearest to it."""
        space = self._env.action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            return command.astype(np.float32)
        return space.start + np.abs(np.array(self.task.choices)[:, 0] - command[0]).argmin()

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self._readings, dtype=np.float64), np.full(self.layout.size, self.time_s)

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()
