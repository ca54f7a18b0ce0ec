"""Experience: the agent filters and acts in the vectorised environment while sensors fail."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runtime.contract import Layout
from runtime.errors import GanglionError
from sim.tasks import task_class
from sim.vector import VectorEnv
from training.agent.agent import Agent, State
from training.augment import SensorDropout
from training.config import TrainConfig


@dataclass
class Rollout:
    """T ticks of N environments; every tensor is (T, N, ...) float32 unless said otherwise."""

    x: Tensor
    """Normalised observation without failures (T, N, D)."""
    mask: Tensor
    """(T, N, D), one where the agent saw the channel."""
    previous_action: Tensor
    """Normalised action executed one tick before (T, N, A)."""
    first: Tensor
    """(T, N), one at the first tick of an episode."""
    z: Tensor
    """Belief (T, N, Z)."""
    starts: list[State]
    """Carried state before the first tick of every sequence."""
    steps: Tensor
    """Refinement steps of each environment (N,) int64."""
    action: Tensor
    """Sampled normalised action (T, N, A)."""
    log_prob: Tensor
    value: Tensor
    reward: Tensor
    """Scaled; the discounted value of the final state is added where a time limit cut the episode."""
    done: Tensor
    last_value: Tensor
    """(N,)."""
    gait: Tensor | None = None
    """State of the gait (T, N, S), where there is one."""


class Collector:
    """Keeps the environments, the beliefs and the failures between rollouts."""

    def __init__(self, config: TrainConfig, agent: Agent, steps: int = 0) -> None:
        """`steps` already trained make the draws of a resumed run new ones."""
        task = task_class(config.task)
        worlds = [task.world(name) for name in config.simulated_worlds()]
        self.config, self.agent = config, agent
        self.env = VectorEnv(config.task, config.num_envs, config.workers, config.seed + steps, worlds)
        self._rng = np.random.default_rng([config.seed, steps, 1])
        self._dropout = SensorDropout(task.observations, config.num_envs, self._rng, config.augmentation)
        n = config.num_envs
        self._layout = Layout(task.observations, task.action)
        self._x = self._normalise(self.env.reset(options={"staggered": True})[0])
        self._state = agent.initial(n)
        self._previous = torch.zeros(n, agent.action_size)
        self._first = torch.ones(n)
        self._return = np.zeros(n)
        self._length = np.zeros(n)
        self.episode_return: deque[float] = deque(maxlen=100)
        self.episode_length: deque[float] = deque(maxlen=100)
        self.success: deque[float] = deque(maxlen=100)

    def _normalise(self, observation: np.ndarray) -> Tensor:
        return torch.as_tensor((observation - self._layout.mean) / self._layout.scale, dtype=torch.float32)

    @torch.no_grad()
    def collect(self) -> Rollout:
        """`horizon` ticks of every environment."""
        c, agent = self.config, self.agent
        steps = torch.as_tensor(self._rng.choice(c.refine, c.num_envs))
        starts: list[State] = []
        gaits: list[Tensor | None] = []
        rows: dict[str, list[Tensor]] = {
            k: []
            for k in ("x", "mask", "previous_action", "first", "z", "action", "log_prob", "value", "reward", "done")
        }
        for tick in range(c.horizon):
            if tick % c.sequence == 0:
                starts.append(self._state)
            mask = torch.as_tensor(self._dropout.step())
            belief = agent.infer(self._x, mask, self._previous, self._state, steps)
            gait = belief.state.get("gait")
            distribution = agent.distribution(belief.z, gait)
            action = distribution.sample()
            if not torch.isfinite(action).all():
                raise GanglionError("training diverged: the policy's action is not finite; resume with smaller steps")
            value = agent.value(belief.z, self._x, gait)
            gaits.append(gait)
            rows["x"].append(self._x)
            rows["mask"].append(mask)
            rows["previous_action"].append(self._previous)
            rows["first"].append(self._first)
            rows["z"].append(belief.z)
            rows["action"].append(action)
            rows["log_prob"].append(distribution.log_prob(action).sum(-1))
            rows["value"].append(value)
            observation, reward, terminated, truncated, info = self.env.step(action.numpy())
            self._x = self._normalise(observation)
            executed = torch.as_tensor(info["executed"].copy())
            scaled = torch.as_tensor(reward * (1 - c.gamma), dtype=torch.float32)
            cut = truncated & ~terminated
            if cut.any():
                scaled += self._bootstrap(cut, info["final_obs"], belief.state, executed, steps)
            done = terminated | truncated
            self._record_episodes(reward, done, info["success"])
            if done.any():
                self._dropout.restart(done)
            alive = torch.as_tensor(~done, dtype=torch.float32)
            self._state = agent.restarted(belief.state, 1.0 - alive)
            self._previous = executed * alive[:, None]
            self._first = 1.0 - alive
            rows["reward"].append(scaled)
            rows["done"].append(self._first)
        mask = torch.as_tensor(self._dropout.step())
        belief = agent.infer(self._x, mask, self._previous, self._state, steps)
        last_value = agent.value(belief.z, self._x, belief.state.get("gait"))
        stacked = {name: torch.stack(values) for name, values in rows.items()}
        known = [g for g in gaits if g is not None]
        return Rollout(
            gait=torch.stack(known) if known else None, starts=starts, steps=steps, last_value=last_value, **stacked
        )

    def _bootstrap(self, cut: np.ndarray, final: np.ndarray, state: State, executed: Tensor, steps: Tensor) -> Tensor:
        """Discounted value of the final state where a time limit cut the episode, zero elsewhere; (N,)."""
        x = self._normalise(final[cut])
        where = torch.as_tensor(cut)
        before = {name: value[where] for name, value in state.items()}
        belief = self.agent.infer(x, torch.ones_like(x), executed[where], before, steps[where])
        result = torch.zeros(len(cut))
        result[where] = self.config.gamma * self.agent.value(belief.z, x, belief.state.get("gait"))
        return result

    def _record_episodes(self, reward: np.ndarray, done: np.ndarray, success: np.ndarray) -> None:
        self._return += reward
        self._length += 1
        self.episode_return.extend(self._return[done])
        self.episode_length.extend(self._length[done])
        self.success.extend(success[done].astype(float))
        self._return[done] = 0.0
        self._length[done] = 0.0

    def close(self) -> None:
        """End the simulations."""
        self.env.close()
