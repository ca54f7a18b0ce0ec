"""Many simulations in a few processes over one shared-memory block.

PyBullet never releases the GIL, so simulations run in processes, several in each; the calling process is one of them.
It writes actions into the block and lets the workers go; they write what came of it, while it simulates its own share.
Environment i is seeded by (seed, i) alone, so the number of processes does not change any result. A worker that dies is
replaced, and its environments begin new episodes.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from multiprocessing.synchronize import Semaphore
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from runtime.errors import GanglionError
from sim.env import TaskEnv, make_env
from sim.randomisation import Draw

_RESET, _STEP, _CLOSE = 0, 1, 2
_MOST_DEATHS = 3  # of workers in a row, before it is no accident
_AWAKE_S = 0.005  # a core that slept, even for a moment, finds its caches cold: 50 % on top of a cheap step
_LOOK_S = 0.1  # how often who waits looks whether the other one is alive


@dataclass(frozen=True)
class _Fields:
    """Types and widths of the arrays in the shared block; width 0 is one number per environment."""

    count: int
    observation_size: int
    action_size: int

    def allocate(self) -> dict[str, Any]:
        return {name: RawArray(code, self.count * max(width, 1)) for name, code, width in self._table()}

    def view(self, block: dict[str, Any]) -> dict[str, np.ndarray]:
        return {
            name: np.frombuffer(block[name], dtype=code).reshape(self.count, *([width] if width else []))
            for name, code, width in self._table()
        }

    def _table(self) -> tuple[tuple[str, str, int], ...]:
        return (
            ("order", "b", 0),
            ("action", "f", self.action_size),
            ("executed", "f", self.action_size),
            ("observation", "d", self.observation_size),
            ("final_observation", "d", self.observation_size),
            ("reward", "d", 0),
            ("difficulty", "d", 0),
            ("seed", "L", 0),
            ("ticks", "L", 0),
            ("terminated", "b", 0),
            ("truncated", "b", 0),
            ("success", "b", 0),
        )


class _Share:
    """The environments of one process."""

    def __init__(
        self, task: str, worlds: Sequence[tuple[Draw, ...]], data: dict[str, np.ndarray], indices: range
    ) -> None:
        self._data, self._indices = data, indices
        self._envs = [make_env(task, worlds[i % len(worlds)]) for i in indices]

    def obey(self, order: int) -> None:
        """Reset or step all of them."""
        for i, env in zip(self._indices, self._envs):
            if order == _STEP:
                self._step(env, i)
            else:
                env.set_difficulty(float(self._data["difficulty"][i]))
                options = {"ticks": int(self._data["ticks"][i])}
                self._data["observation"][i] = env.reset(seed=int(self._data["seed"][i]), options=options)[0]

    def _step(self, env: TaskEnv, i: int) -> None:
        data = self._data
        observation, reward, terminated, truncated, info = env.step(data["action"][i])
        data["executed"][i] = env.executed
        data["reward"][i], data["terminated"][i], data["truncated"][i] = reward, terminated, truncated
        data["success"][i] = info["success"]
        if terminated or truncated:
            data["final_observation"][i] = observation
            env.set_difficulty(float(data["difficulty"][i]))
            observation = env.reset()[0]
        data["observation"][i] = observation

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _await(signal: Semaphore, alive: Callable[[], bool]) -> bool:
    """Wait for `signal`, awake at first; false if who gives it is no longer alive."""
    tired = time.monotonic() + _AWAKE_S
    while not signal.acquire(False):
        if time.monotonic() < tired:
            os.sched_yield()
        elif signal.acquire(timeout=_LOOK_S):
            break
        elif not alive():
            return signal.acquire(False)
    return True


@dataclass(frozen=True)
class _Job:
    """What a worker simulates, and how it hears of it."""

    task: str
    worlds: Sequence[tuple[Draw, ...]]
    fields: _Fields
    block: dict[str, Any]
    indices: range
    go: Semaphore
    done: Semaphore


def _work(job: _Job) -> None:
    """Obey until told to close or the parent is gone. Ctrl-C is the parent's, who may want a last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data = job.fields.view(job.block)
    share = _Share(job.task, job.worlds, data, job.indices)
    parent = multiprocessing.parent_process()
    assert parent is not None
    try:
        while _await(job.go, parent.is_alive):
            order = int(data["order"][job.indices.start])
            if order == _CLOSE:
                return
            share.obey(order)
            job.done.release()
    finally:
        share.close()


class _Worker:
    """A process that simulates some of the environments."""

    def __init__(
        self, task: str, worlds: Sequence[tuple[Draw, ...]], fields: _Fields, block: dict[str, Any], indices: range
    ) -> None:
        self.indices = indices
        self._what = (task, worlds, fields, block, indices)
        self._order = fields.view(block)["order"]
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._go, self._done = context.Semaphore(0), context.Semaphore(0)
        self.process: BaseProcess = context.Process(
            target=_work, args=(_Job(*self._what, self._go, self._done),), daemon=True
        )
        self.process.start()

    def give(self, order: int) -> None:
        self._order[self.indices.start] = order
        self._go.release()

    def done(self) -> bool:
        """Wait for the end of the order; false if the worker has died."""
        return _await(self._done, self.process.is_alive)

    def close(self) -> None:
        self.give(_CLOSE)
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()


class VectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """gymnasium's vector API with SAME_STEP autoreset.

    Where an episode ends, `observation` is the first of the next one and `info["final_obs"]` (N, D) holds the last of
    the old one. `info["executed"]` (N, A) is the normalised action after limits, `info["success"]` (N,) the task's
    verdict. The returned arrays are views that the next `step` overwrites.

    The environments of a worker that dies are truncated and begin anew, with a RuntimeWarning; `deaths` counts them.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        workers: int = 2,
        seed: int = 0,
        worlds: Sequence[tuple[Draw, ...]] = ((),),
    ) -> None:
        """Environment i draws its episodes from table i of `worlds`, and from the first again after the last.

        `workers` processes share the environments, this one among them: with 1 there is no other.

        Raises GanglionError for an unknown task, a table that does not fit, or fewer environments than workers.
        """
        if not 1 <= workers <= num_envs:
            raise GanglionError(f"got {workers} workers for {num_envs} environments; give each worker at least one")
        example = make_env(task)
        for table in worlds:
            example.set_randomisation(table)
        self.num_envs = num_envs
        self._episode_steps = example.task.episode_steps
        self.single_observation_space = example.observation_space
        self.single_action_space = example.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(example.observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(example.action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.deaths = 0
        """Workers that had to be replaced."""
        fields = _Fields(num_envs, example.layout.size, len(example.executed))
        example.close()
        block = fields.allocate()
        self._data = fields.view(block)
        self._data["difficulty"][:] = 1.0
        self._seed_all(seed)
        bounds = np.linspace(0, num_envs, workers + 1).astype(int)
        *others, own = [range(a, b) for a, b in itertools.pairwise(bounds)]
        self._workers = [_Worker(task, worlds, fields, block, indices) for indices in others]
        self._own = _Share(task, worlds, self._data, own)

    def _seed_all(self, seed: int) -> None:
        self._seeds = np.random.SeedSequence(seed).spawn(self.num_envs)
        self._data["seed"][:] = [s.generate_state(1)[0] for s in self._seeds]

    def set_difficulty(self, difficulty: float) -> None:
        """How far from nominal the worlds of coming episodes are drawn: 0 is nominal, 1 the whole table."""
        self._data["difficulty"][:] = difficulty

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment, from the seed given here or at construction.

        With `options["staggered"]` these first episodes are cut one after the other over the time that an episode
        lasts, so that the environments are never all at the same time of one.
        """
        self._data["ticks"][:] = self._episode_steps
        if (options or {}).get("staggered"):
            self._data["ticks"][:] = np.ceil(np.linspace(0, self._episode_steps, self.num_envs + 1)[1:])
        if isinstance(seed, int):
            self._seed_all(seed)
        elif seed is not None:
            self._data["seed"][:] = [own if s is None else s for s, own in zip(seed, self._data["seed"], strict=True)]
        self._order(_RESET)
        return self._data["observation"], {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One tick of every environment with normalised actions (N, A)."""
        self._data["action"][...] = actions
        self._order(_STEP)
        data = self._data
        info = {
            "executed": data["executed"],
            "final_obs": data["final_observation"],
            "success": data["success"].astype(bool),
        }
        return data["observation"], data["reward"], data["terminated"] != 0, data["truncated"] != 0, info

    def _order(self, order: int) -> None:
        for worker in self._workers:
            worker.give(order)
        self._own.obey(order)
        for worker in self._workers:
            if not worker.done():
                self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        """Start `worker` again; its environments are cut off and begin new episodes."""
        where = slice(worker.indices.start, worker.indices.stop)
        for _ in range(_MOST_DEATHS):
            worker.process.join(timeout=5)
            code = worker.process.exitcode
            self.deaths += 1
            warnings.warn(
                f"a simulation worker died (exit code {code}) and is replaced; environments {where.start} to "
                f"{where.stop - 1} begin new episodes",
                RuntimeWarning,
                stacklevel=4,
            )
            data = self._data
            data["final_observation"][where] = data["observation"][where]
            data["ticks"][where] = self._episode_steps
            data["seed"][where] = [s.spawn(1)[0].generate_state(1)[0] for s in self._seeds[where]]
            worker.start()
            worker.give(_RESET)
            if worker.done():
                data["reward"][where] = data["executed"][where] = data["terminated"][where] = data["success"][where] = 0
                data["truncated"][where] = 1
                return
        raise GanglionError(
            f"a simulation worker died {_MOST_DEATHS} times in a row (last exit code {code}); "
            "its own message is above, memory is the usual cause: take fewer environments"
        )

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers and the own simulations."""
        for worker in self._workers:
            worker.close()
        self._own.close()
