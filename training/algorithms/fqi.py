"""Fitted Q-iteration: theta_{n+1} = fit {(s, a) -> r + gamma (1 - d) max_a' q(s', a'; theta_n)} (000, 002).

The explicit maximiser climbs q(s', .) at every base point, or compares all choices. The amortized one is the actor,
which learns from explicit maximisers at some of the points, those of the last K iterations. Iterations on the same
points end once max(delta_q, delta_d) < tolerance, the mean squared change of q and the error of the actor (002 has the
inequality the other way round). With both, the actor is the policy: a deployed agent has no time to climb.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from runtime.errors import GanglionError
from training import learners
from training.agent.agent import Agent
from training.agent.situation import Situation
from training.algorithms.off_policy import CriticOptions, OffPolicy, adam, bellman_target, minibatches
from training.config import TrainConfig
from training.gradient_step import descend
from training.ranges import Count, NonNegative, Positive, Share
from training.replay_buffer import Batch

MAXIMISERS = ("explicit", "amortized")
_FIRST_STEP, _STEPS = 0.1, (1e-9, 1.0)  # of the ascent, normalised actions


@dataclass(frozen=True)
class FQIOptions(CriticOptions):
    """Settings of fitted Q-iteration."""

    gradient_steps: Positive = 0.5
    """Gradient steps of each of the two fits per environment step."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the actor."""
    critic_learning_rate: Positive = 1e-3
    """Adam's step size for the critic."""
    maximiser: str = "amortized"
    """What finds the best next action. explicit: a search at every base point. amortized: the actor."""
    base_points: Count = 8192
    """Transitions drawn for the iterations after each rollout."""
    exact_points: Count = 1024
    """Base points of each iteration at which the amortized maximiser is searched for too, to teach the actor."""
    window: Count = 4
    """Iterations from which the actor of the amortized maximiser learns."""
    iterations: Count = 2
    """Largest number of iterations after each rollout; they share its gradient steps."""
    tolerance: NonNegative = 1e-8
    """Mean squared change of q, and error of the actor, below which the iterations end."""
    ascent_steps: Count = 20
    """Steps of each search for the best continuous action."""
    exploration_eps: Share = 0.2
    """Share of random actions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.maximiser not in MAXIMISERS:
            raise GanglionError(f"there is no maximiser '{self.maximiser}'; expected one of {', '.join(MAXIMISERS)}")


def climb(q: Callable[[Tensor], Tensor], starts: Tensor, steps: int) -> Tensor:
    """argmax_a q(a) (B, A) in [-1, 1] for q: (S, B, A) -> (S, B), by ascent from each of S starts (S, B, A).

    Steps are the signs of the gradient times a length of each component's own, longer or shorter by whether the sign
    stays (Rprop), so that the scale of q does not matter. The answer is never worse than the best start.
    """
    action = starts.clone().requires_grad_()
    optimizer = torch.optim.Rprop([action], lr=_FIRST_STEP, step_sizes=_STEPS, maximize=True)
    for _ in range(steps):
        (action.grad,) = torch.autograd.grad(q(action).sum(), [action])
        optimizer.step()
        with torch.no_grad():
            action.clamp_(-1.0, 1.0)
    with torch.no_grad():
        candidates = torch.cat((starts, action))
        best = q(candidates).argmax(0)
    return candidates[best, torch.arange(len(best))]


def converged(change: float, error: float, tolerance: NonNegative) -> bool:
    """max(delta_q, delta_d) < tolerance."""
    return max(change, error) < tolerance


class FQI(OffPolicy[FQIOptions]):
    """The critic is fitted to targets that are all computed before; the actor is fitted to the maximisers."""

    name = "fqi"
    summary = "fitted Q-iteration, the best action by search or by the actor"
    options_class = FQIOptions
    continuous_head = "deterministic"

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.critic, _ = self.make_critics(1)
        self.critic_optimizer = adam(self.critic.parameters(), self.options.critic_learning_rate)
        self.optimizer = adam(agent.policy.parameters(), self.options.learning_rate)
        self.parts = {"critic": self.critic, "critic_optimizer": self.critic_optimizer, "optimizer": self.optimizer}
        self.amortized = self.options.maximiser == "amortized"
        self.window: deque[tuple[Situation, Tensor]] = deque(maxlen=self.options.window if self.amortized else 1)
        """Situations and their maximisers, of one iteration each."""

    @classmethod
    def adapt(cls, config: TrainConfig) -> TrainConfig:
        """Rollouts long enough to be worth an iteration."""
        return replace(super().adapt(config), num_envs=16, horizon=32)

    def try_out(self, situation: Situation) -> Tensor:
        return self.random_in(self.options.exploration_eps, situation, self.act(situation))

    def act(self, s: Situation) -> Tensor:
        """What the actor takes for the maximiser (B, A), or (B,) int64."""
        return self.agent.answer(s.z).argmax(-1) if self.agent.config.choices else self.agent.act(s.z)

    def q(self, s: Situation, action: Tensor) -> Tensor:
        """Values (B,) of actions (B, A), or (B,) int64."""
        if self.agent.config.choices:
            return self.critic.choices(s)[0].gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return self.critic.q(s, action)[0]

    def maximise(self, s: Situation) -> Tensor:
        """argmax_a q(s, a) (B, A) by ascent from the actor's action and a random one, or (B,) int64 by enumeration."""
        if self.agent.config.choices:
            return self.critic.choices(s)[0].argmax(-1)

        def q(action: Tensor) -> Tensor:
            count = len(action)
            every = Situation(s.z.repeat(count, 1), s.x.repeat(count, 1))
            return self.critic.q(every, action.flatten(0, 1))[0].unflatten(0, (count, -1))

        with torch.no_grad():
            starts = torch.stack((self.act(s), self.random_action(s).to(s.z)))
        with torch.enable_grad():
            return climb(q, starts, self.options.ascent_steps)

    def improve(self, steps: int) -> Iterator[dict[str, Tensor]]:
        """Iterations on the same base points until they change nothing; the steps of each one's fits."""
        o = self.options
        points = self.buffer.at_most(o.base_points)
        for _ in range(o.iterations):
            change, error = self.iterate(points, max(1, round(steps / o.iterations)))
            yield {"q_change": change, "actor_error": error}
            if converged(learners.mean(change).item(), learners.mean(error).item(), o.tolerance):
                break

    def iterate(self, points: Batch, steps: int) -> tuple[Tensor, Tensor]:
        """One iteration, each of whose fits makes so many gradient steps; delta_q () and delta_d ()."""
        searched = (points.terminated == 0).nonzero().squeeze(1)  # beyond a true end there is nothing to act on
        if self.amortized:
            searched = searched[torch.randperm(len(searched))[: self.options.exact_points]]
        taught = points.after.rows(searched)
        best = self.maximise(taught)
        with torch.no_grad():
            action = self.act(points.after).index_copy(0, searched, best)
            target = self.targets(points, action)
            before = self.q(points.now, points.action)
        self.window.append((taught, best))
        self.fit_critic(points, target, steps)
        self.fit_actor(steps)
        with torch.no_grad():
            change = mse_loss(self.q(points.now, points.action), before)
            error = (self.act(taught) - best).float().square().mean()
        return change, error

    def targets(self, points: Batch, action: Tensor) -> Tensor:
        """What q(s, a) is to become, y (B,), for the actions that follow (B, A) or (B,) int64."""
        return bellman_target(points, self.config.gamma, self.q(points.after, action))

    def fit_critic(self, points: Batch, target: Tensor, steps: int) -> None:
        """(q(s, a) - y)^2 for y (B,)."""
        for index in minibatches(len(target), self.options.batch_size, steps):
            loss = mse_loss(self.q(points.now.rows(index), points.action[index]), target[index])
            descend(self.critic_optimizer, loss)

    def fit_actor(self, steps: int) -> None:
        """|d(s) - a*|^2, or the cross-entropy of choices, on the maximisers in the window."""
        z = torch.cat([s.z for s, _ in self.window])
        best = torch.cat([actions for _, actions in self.window])
        for index in minibatches(len(best), self.options.batch_size, steps):
            loss = cross_entropy if self.agent.config.choices else mse_loss
            answer = self.agent.answer(z[index]) if self.agent.config.choices else self.agent.act(z[index])
            descend(self.optimizer, loss(answer, best[index]))

    def state(self) -> dict[str, Any]:
        return super().state() | {"window": [(*s, best) for s, best in self.window]}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.window.extend((Situation(*s), best) for *s, best in state["window"])
