"""Small Markov decision processes that can be solved exactly, in float64."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from training.agent.distributions import Categorical


@dataclass(frozen=True)
class MDP:
    start: Tensor
    """(S,)."""
    transition: Tensor
    """P(s'|s, a) (S, A, S)."""
    reward: Tensor
    """(S, A)."""

    def matrix(self, policy: Tensor) -> Tensor:
        """P(s'|s) (S, S) under the policy (S, A)."""
        return torch.einsum("sa,sat->st", policy, self.transition)

    def q(self, policy: Tensor, gamma: float) -> Tensor:
        """(S, A)."""
        return self.reward + gamma * self.transition @ self.value(policy, gamma)

    def value(self, policy: Tensor, gamma: float) -> Tensor:
        """(S,), by solving (I - gamma P) v = r."""
        rewards = (policy * self.reward).sum(1)
        return torch.linalg.solve(torch.eye(len(rewards)).double() - gamma * self.matrix(policy), rewards)

    def visits(self, policy: Tensor, gamma: float) -> Tensor:
        """x = alpha' (I - gamma P)^-1 (S,)."""
        identity = torch.eye(len(self.start)).double()
        return torch.linalg.solve((identity - gamma * self.matrix(policy)).mT, self.start)

    def objective(self, policy: Tensor, gamma: float) -> Tensor:
        """J = alpha' v ()."""
        return self.start @ self.value(policy, gamma)


def random_mdp(states: int, actions: int, seed: int = 0) -> MDP:
    torch.manual_seed(seed)
    return MDP(
        torch.rand(states).double().softmax(0),
        torch.randn(states, actions, states).double().softmax(-1),
        torch.randn(states, actions).double(),
    )


def random_logits(mdp: MDP, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(mdp.reward.shape).double().requires_grad_(True)


@dataclass(frozen=True)
class Paths:
    """Every path of T ticks, in columns (T, N); each ends truly after its last tick."""

    state: Tensor
    action: Tensor
    reward: Tensor
    fate: Tensor
    """p(s_0) prod P(s_{t+1}|s_t, a_t) (N,): the part of its probability that is not the policy's."""
    done: Tensor
    """(T, N), one at the last tick."""

    def log_prob(self, logits: Tensor) -> Tensor:
        """(T, N)."""
        return Categorical(logits[self.state]).log_prob(self.action)

    def probability(self, logits: Tensor) -> Tensor:
        """(N,)."""
        return self.fate * self.log_prob(logits).sum(0).exp()


def all_paths(mdp: MDP, ticks: int) -> Paths:
    states, actions = mdp.reward.shape
    rows = torch.tensor(list(itertools.product(*[range(states)] * ticks, *[range(actions)] * ticks)))
    state, action = rows[:, :ticks].mT, rows[:, ticks:].mT
    fate = mdp.start[state[0]] * mdp.transition[state[:-1], action[:-1], state[1:]].prod(0)
    done = torch.zeros(state.shape).double()
    done[-1] = 1.0
    return Paths(state, action, mdp.reward[state, action], fate, done)
