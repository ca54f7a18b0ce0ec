"""How well the deployed action does: whole episodes without exploration, in simulations apart from the training's.

Every simulation runs the same number of episodes, or one more, and each counts once: taking whichever end first would
favour short ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from runtime.contract import Layout
from runtime.errors import GanglionError
from sim.tasks import NOMINAL, task_class
from sim.vector import VectorEnv
from training.agent.agent import Agent
from training.config import TrainConfig
from training.device import on_device
from training.rollout import as_input, require_finite

EVALUATION_SEED = 2_000_000
"""Seed of the first evaluation; neither training nor the judging of bundles begins with one this high."""
_PARALLEL = 16


@dataclass(frozen=True)
class Evaluation:
    """Episodes of the deployed action; means over all of them."""

    episode_return: float
    return_std: float
    """Standard deviation of the returns."""
    episode_length: float
    """Ticks."""
    success_rate: float
    episodes: int

    def logs(self) -> dict[str, float]:
        """By TensorBoard's tag."""
        return {
            "eval/mean_reward": self.episode_return,
            "eval/mean_ep_length": self.episode_length,
            "eval/success_rate": self.success_rate,
        }


class Evaluator:
    """Keeps the simulations between evaluations; every one of them runs the same episodes."""

    def __init__(
        self, task: str, episodes: int, seed: int = EVALUATION_SEED, workers: int = 1, world: str = NOMINAL
    ) -> None:
        """`workers` processes share the simulations, which changes no figure.

        Raises GanglionError for fewer than one episode, or an unknown task or world.
        """
        if episodes < 1:
            raise GanglionError(f"episodes is {episodes}, expected at least 1")
        known = task_class(task)
        self._layout = Layout(known.observations, known.action)
        self._seed = seed
        count = min(episodes, _PARALLEL)
        self._due = np.bincount(np.arange(episodes) % count)
        self.env = VectorEnv(task, count, min(workers, count), seed, [known.world(world)])

    def run(self, agent: Agent) -> Evaluation:
        """Judge `agent` with its default number of refinement steps. Raises GanglionError if it is not finite."""
        with on_device(agent.log_std.device):
            while True:  # until no worker, and hence no episode, died on the way
                deaths = self.env.deaths
                returns, lengths, successes = self._episodes(agent)
                if self.env.deaths == deaths:
                    break
        return Evaluation(
            float(np.mean(returns)), float(np.std(returns)), float(np.mean(lengths)), float(np.mean(successes)),
            len(returns),
        )  # fmt: skip

    @torch.no_grad()
    def _episodes(self, agent: Agent) -> tuple[list[float], list[float], list[float]]:
        """Return, length and success of every episode."""
        env, due = self.env, self._due.copy()
        x = as_input(env.reset(seed=self._seed)[0], self._layout)
        n = len(due)
        steps = torch.full((n,), agent.config.inference.default_steps)
        state, previous, seen = agent.initial(n), torch.zeros(n, agent.action_size), torch.ones_like(x)
        total, length = np.zeros(n), np.zeros(n)
        returns: list[float] = []
        lengths: list[float] = []
        successes: list[float] = []
        while due.any():
            belief = agent.infer(x, seen, previous, state, steps)
            action = agent.act(belief.z, belief.state.get("gait"))
            require_finite(action)
            observation, reward, terminated, truncated, info = env.step(action.cpu().numpy())
            total += reward
            length += 1
            done = terminated | truncated
            counted = done & (due > 0)
            returns += total[counted].tolist()
            lengths += length[counted].tolist()
            successes += info["success"][counted].astype(float).tolist()
            due -= counted
            total[done] = length[done] = 0.0
            x = as_input(observation, self._layout)
            ended = torch.as_tensor(done, dtype=torch.float32)
            state = agent.restarted(belief.state, ended)
            previous = torch.as_tensor(info["executed"].copy()) * (1.0 - ended)[:, None]
        return returns, lengths, successes

    def close(self) -> None:
        """End the simulations."""
        self.env.close()


def evaluate(
    agent: Agent,
    config: TrainConfig,
    episodes: int = 100,
    seed: int = EVALUATION_SEED,
    workers: int = 1,
    world: str = NOMINAL,
) -> Evaluation:
    """Judge `agent` on the task of its run; see `Evaluator`."""
    evaluator = Evaluator(config.task, episodes, seed, workers, world)
    try:
        return evaluator.run(agent)
    finally:
        evaluator.close()
