"""Experience: the agent filters and acts in the vectorised environment while sensors fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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


class Episodes(NamedTuple):
    """What came of E episodes that have ended."""

    returned: np.ndarray
    """Sum of rewards (E,)."""
    length: np.ndarray
    """Ticks (E,)."""
    success: np.ndarray
    """The task's verdict (E,), 0 or 1."""


NO_EPISODES = Episodes(np.empty(0), np.empty(0), np.empty(0))


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
    episodes: Episodes = NO_EPISODES
    """Those that ended in it."""

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


def all_of(episodes: list[Episodes]) -> Episodes:
    """One after the other."""
    return Episodes(*map(np.concatenate, zip(*episodes))) if episodes else NO_EPISODES


class LastEpisodes:
    """The last hundred."""

    def __init__(self) -> None:
        self.returned: deque[float] = deque(maxlen=100)
        self.length: deque[float] = deque(maxlen=100)
        self.success: deque[float] = deque(maxlen=100)

    def add(self, episodes: Episodes) -> None:
        """They have just ended."""
        for kept, new in zip((self.returned, self.length, self.success), episodes):
            kept.extend(new.tolist())

    def logs(self) -> dict[str, float]:
        """Means, by TensorBoard's tag; none before the first one ends."""
        if not self.returned:
            return {}
        return {
            "rollout/ep_rew_mean": float(np.mean(self.returned)),
            "rollout/ep_len_mean": float(np.mean(self.length)),
            "rollout/success_rate": float(np.mean(self.success)),
        }


def side_by_side(rollouts: list[Rollout]) -> Rollout:
    """Those of other environments over the same ticks, as one; the environments in the order of the rollouts."""

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(r, name) for r in rollouts], 1)

    def situation(name: str) -> Situation:
        parts = zip(*(getattr(r, name) for r in rollouts))
        return Situation(*(None if part[0] is None else torch.cat(part, 1) for part in parts))  # type: ignore[arg-type]

    starts = [
        {name: torch.cat([state[name] for state in states]) for name in states[0]}
        for states in zip(*(r.starts for r in rollouts))
    ]
    names = ("mask", "previous_action", "first", "action", "reward", "terminated", "done")
    steps = torch.cat([r.steps for r in rollouts])
    return Rollout(
        starts=starts, steps=steps, now=situation("now"), after=situation("after"),
        episodes=all_of([r.episodes for r in rollouts]), **{n: joined(n) for n in names},
    )  # fmt: skip


class Collector:
    """Keeps the environments, the beliefs and the failures between rollouts."""

    def __init__(self, config: TrainConfig, agent: Agent, steps: int = 0, index: int = 0) -> None:
        """`steps` already trained make the draws of a resumed run new ones; those of each `index` are its own."""
        task = task_class(config.task)
        worlds = [task.world(name) for name in config.simulated_worlds()]
        self.config, self.agent = config, agent
        own = (learners.rank() + index) * learners.APART
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
        ended: list[Episodes] = []
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
            self._return += reward
            self._length += 1
            self._first = torch.as_tensor(done, dtype=torch.float32)
            self._state, self._previous = state, executed
            if done.any():
                ended.append(Episodes(self._return[done], self._length[done], info["success"][done].astype(float)))
                self._return[done] = self._length[done] = 0.0
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
        situation = stack(situations)
        return Rollout(starts=starts, steps=steps, now=situation, after=after, episodes=all_of(ended), **stacked)

    def _final(self, where: Tensor, final: np.ndarray, state: State, executed: Tensor, steps: Tensor) -> Situation:
        """Of the environments `where`, whose episodes a time limit cut at the observation `final`."""
        x = as_input(final, self._layout)[where]
        before = {name: value[where] for name, value in state.items()}
        reached = self.agent.track(x, torch.ones_like(x), executed[where], before, steps[where])
        return Situation(reached["z"], x, reached.get("gait"))

    def close(self) -> None:
        """End the simulations."""
        self.env.close()
