"""Many simulations in a few worker processes over one shared-memory block.

PyBullet never releases the GIL, so simulations run in processes, several in each. The parent writes actions into the
block and wakes the workers; they write what came of it. Environment i is seeded by (seed, i) alone, so the number of
workers does not change any result.
"""

from __future__ import annotations

import itertools
import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from runtime.errors import GanglionError
from sim.env import RobotEnv

_RESET, _STEP, _CLOSE = b"r", b"s", b"c"


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
            ("action", "f", self.action_size),
            ("executed", "f", self.action_size),
            ("observation", "d", self.observation_size),
            ("final_observation", "d", self.observation_size),
            ("reward", "d", 0),
            ("terminated", "b", 0),
            ("truncated", "b", 0),
            ("success", "b", 0),
        )


def _worker(
    pipe: Connection, task: str, fields: _Fields, block: dict[str, Any], indices: range, seeds: list[int]
) -> None:
    """Serve reset and step for the environments `indices` until told to close or the parent is gone."""
    data = fields.view(block)
    envs = [RobotEnv(task) for _ in indices]
    try:
        while True:
            order = pipe.recv_bytes()
            if order == _CLOSE:
                return
            for i, env, seed in zip(indices, envs, seeds):
                if order == _RESET:
                    data["observation"][i] = env.reset(seed=seed)[0]
                else:
                    _step(env, i, data)
            pipe.send_bytes(order)
    except (EOFError, KeyboardInterrupt):
        return
    finally:
        for env in envs:
            env.close()


def _step(env: RobotEnv, i: int, data: dict[str, np.ndarray]) -> None:
    observation, reward, terminated, truncated, info = env.step(data["action"][i])
    data["executed"][i] = env.executed
    data["reward"][i], data["terminated"][i], data["truncated"][i] = reward, terminated, truncated
    data["success"][i] = info["success"]
    if terminated or truncated:
        data["final_observation"][i] = observation
        observation = env.reset()[0]
    data["observation"][i] = observation


class VectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """gymnasium's vector API with SAME_STEP autoreset.

    Where an episode ends, `observation` is the first of the next one and `info["final_obs"]` (N, D) holds the last of
    the old one. `info["executed"]` (N, A) is the normalised action after limits, `info["success"]` (N,) the task's
    verdict. The returned arrays are views that the next `step` overwrites.
    """

    def __init__(self, task: str, num_envs: int, workers: int = 2, seed: int = 0) -> None:
        """Raises GanglionError for an unknown task or fewer environments than workers."""
        if not 1 <= workers <= num_envs:
            raise GanglionError(f"got {workers} workers for {num_envs} environments; give each worker at least one")
        example = RobotEnv(task)
        self.num_envs = num_envs
        self.single_observation_space = example.observation_space
        self.single_action_space = example.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(example.observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(example.action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        fields = _Fields(num_envs, len(example.reset()[0]), len(example.executed))
        example.close()
        block = fields.allocate()
        self._data = fields.view(block)
        seeds = [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(num_envs)]
        context = multiprocessing.get_context("spawn")
        bounds = np.linspace(0, num_envs, workers + 1).astype(int)
        self._pipes: list[Connection] = []
        self._workers = []
        for low, high in itertools.pairwise(bounds):
            ours, theirs = context.Pipe()
            arguments = (theirs, task, fields, block, range(low, high), seeds[low:high])
            process = context.Process(target=_worker, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._workers.append(process)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment, from the seed given at construction."""
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

    def _order(self, order: bytes) -> None:
        try:
            for pipe in self._pipes:
                pipe.send_bytes(order)
            for pipe in self._pipes:
                pipe.recv_bytes()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            codes = [p.exitcode for p in self._workers]
            raise GanglionError(f"a simulation worker died (exit codes {codes}); its own message is above") from error

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers."""
        for pipe in self._pipes:
            try:
                pipe.send_bytes(_CLOSE)
            except (BrokenPipeError, OSError):
                continue
        for process in self._workers:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
