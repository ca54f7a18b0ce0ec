"""Experience: the agent filters and acts in the vectorised environment while sensors fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runtime.contract import Layout
from sim.tasks import task_class
from sim.vector import VectorEnv
from training import learners
from training.agent.agent import Agent, State
from training.agent.situation import Situation, stack
from training.augment import SensorDropout
from training.config import TrainConfig
from training.errors import DivergedError


@dataclass
class Rollout:
    """T ticks of N environments; every tensor is (T, N, ...) float32 unless said otherwise."""

    mask: Tensor
    """(T, N, D), one where the agent saw the channel."""
    previous_action: Tensor
    """Normalised action executed one tick before (T, N, A)."""
    first: Tensor
    """(T, N), one at the first tick of an episode."""
    starts: list[State]
    """Carried state before the first tick of every sequence."""
    steps: Tensor
    """Refinement steps of each environment (N,) int64."""
    now: Situation
    """What the policy and the critic read of every tick."""
    after: Situation
    """The same of the tick that followed; where a time limit cut the episode, of its final state. Where the episode
    truly ended it means nothing."""
    action: Tensor
    """Sampled action (T, N, A), or (T, N) int64 where actions are choices."""
    reward: Tensor
    """(T, N), times 1 - gamma, so that values are of the size of rewards."""
    terminated: Tensor
    """(T, N), one where the episode truly ended."""
    done: Tensor
    """(T, N), one where it ended, also by a time limit."""

    @property
    def x(self) -> Tensor:
        """Normalised observation without failures (T, N, D)."""
        return self.now.x


def as_input(observation: np.ndarray, layout: Layout) -> Tensor:
    """SI readings (N, D) as the agent takes them: normalised, float32."""
    return torch.as_tensor((observation - layout.mean) / layout.scale, dtype=torch.float32)


def require_finite(action: Tensor) -> None:
    """Raises DivergedError if the policy's action (N, A) is not finite."""
    if not torch.isfinite(action).all():
        raise DivergedError("training diverged: the policy's action is not finite; resume with smaller steps")


class Collector:
    """Keeps the environments, the beliefs and the failures between rollouts."""

    def __init__(self, config: TrainConfig, agent: Agent, steps: int = 0) -> None:
        """`steps` already trained make the draws of a resumed run new ones; those of each learner are its own."""
        task = task_class(config.task)
        worlds = [task.world(name) for name in config.simulated_worlds()]
        self.config, self.agent = config, agent
        own = learners.rank() * learners.APART
        self.env = VectorEnv(config.task, config.num_envs, config.workers, config.seed + steps + own, worlds)
        self._rng = np.random.default_rng([config.seed, steps, 1 + own])
        together = [config.seed, steps, 0]  # the same of all learners, so that their batches are of equal sizes
        self._step_rng = np.random.default_rng(together) if learners.count() > 1 else self._rng
        self._dropout = SensorDropout(task.observations, config.num_envs, self._rng, config.augmentation)
        n = config.num_envs
        self._layout = Layout(task.observations, task.action)
        self._x = as_input(self.env.reset(options={"staggered": True})[0], self._layout)
        self._state = agent.initial(n)
        self._previous = torch.zeros(n, agent.action_size)
        self._first = torch.ones(n)
        self._return = np.zeros(n)
        self._length = np.zeros(n)
        self.episode_return: deque[float] = deque(maxlen=100)
        self.episode_length: deque[float] = deque(maxlen=100)
        self.success: deque[float] = deque(maxlen=100)

    @torch.no_grad()
    def collect(
        self,
        explore: Callable[[Situation], Tensor],
        watch: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    ) -> Rollout:
        """`horizon` ticks of every environment, each with the action that `explore` gives for its situation.

        `watch` is told before each what `Algorithm.watch` says.

        Raises GanglionError if an action is not finite.
        """
        c, agent = self.config, self.agent
        steps = torch.as_tensor(self._step_rng.choice(c.refine, c.num_envs))
        starts: list[State] = []
        situations: list[Situation] = []
        finals: list[tuple[int, Tensor, Situation]] = []
        rows: dict[str, list[Tensor]] = {
            k: [] for k in ("mask", "previous_action", "first", "action", "reward", "terminated", "done")
        }
        for tick in range(c.horizon):
            if tick % c.sequence == 0:
                starts.append(self._state)
            mask = torch.as_tensor(self._dropout.step())
            state = agent.track(self._x, mask, self._previous, self._state, steps)
            situation = Situation(state["z"], self._x, state.get("gait"))
            if watch is not None:
                watch(self._x, self._previous, self._first)
            action = explore(situation)
            command = agent.command(action)
            require_finite(command)
            situations.append(situation)
            rows["mask"].append(mask)
            rows["previous_action"].append(self._previous)
            rows["first"].append(self._first)
            rows["action"].append(action)
            observation, reward, terminated, truncated, info = self.env.step(command.cpu().numpy())
            self._x = as_input(observation, self._layout)
            executed = torch.as_tensor(info["executed"].copy())
            cut = truncated & ~terminated
            if cut.any():
                where = torch.as_tensor(cut).nonzero().squeeze(1)
                finals.append((tick, where, self._final(where, info["final_obs"], state, executed, steps)))
            done = terminated | truncated
            self._record_episodes(reward, done, info["success"])
            self._first = torch.as_tensor(done, dtype=torch.float32)
            self._state, self._previous = state, executed
            if done.any():
                self._dropout.restart(done)
                self._state = agent.restarted(state, self._first)
                self._previous = executed * (1.0 - self._first)[:, None]
            rows["reward"].append(torch.as_tensor(reward * (1 - c.gamma), dtype=torch.float32))
            rows["terminated"].append(torch.as_tensor(terminated, dtype=torch.float32))
            rows["done"].append(self._first)
        mask = torch.as_tensor(self._dropout.step())
        state = agent.track(self._x, mask, self._previous, self._state, steps)
        after = stack([*situations[1:], Situation(state["z"], self._x, state.get("gait"))])
        for tick, where, final in finals:
            for part, value in zip(after, final):
                if part is not None and value is not None:
                    part[tick, where] = value
        stacked = {name: torch.stack(values) for name, values in rows.items()}
        return Rollout(starts=starts, steps=steps, now=stack(situations), after=after, **stacked)

    def _final(self, where: Tensor, final: np.ndarray, state: State, executed: Tensor, steps: Tensor) -> Situation:
        """Of the environments `where`, whose episodes a time limit cut at the observation `final`."""
        x = as_input(final, self._layout)[where]
        before = {name: value[where] for name, value in state.items()}
        reached = self.agent.track(x, torch.ones_like(x), executed[where], before, steps[where])
        return Situation(reached["z"], x, reached.get("gait"))

    def _record_episodes(self, reward: np.ndarray, done: np.ndarray, success: np.ndarray) -> None:
        self._return += reward
        self._length += 1
        self.episode_return.extend(self._return[done])
        self.episode_length.extend(self._length[done])
        self.success.extend(success[done].astype(float))
        self._return[done] = 0.0
        self._length[done] = 0.0

    def logs(self) -> dict[str, float]:
        """Means over the last 100 episodes, by TensorBoard's tag; none before the first one ends."""
        if not self.episode_return:
            return {}
        return {
            "rollout/ep_rew_mean": float(np.mean(self.episode_return)),
            "rollout/ep_len_mean": float(np.mean(self.episode_length)),
            "rollout/success_rate": float(np.mean(self.success)),
        }

    def close(self) -> None:
        """End the simulations."""
        self.env.close()
