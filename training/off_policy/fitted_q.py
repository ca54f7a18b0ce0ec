"""Fitted Q-evaluation: Q(s, a) = E[r + gamma E_pi Q(s', a')], regressed again and again on logged transitions.

(Le, Voloshin and Yue 2019.) Two of them, with the same interface:

`LinearQ`, with given features, is solved exactly: repeated regression converges, where it does, to the solution of

    sum_t phi_t (phi_t - gamma (1 - end_t) phi'_t)^T w = sum_t phi_t r_t,   phi'_t = E_{a' ~ pi} phi(s_{t+1}, a')

(Duan and Wang 2020), and drawing episodes anew costs a sum and a solve, which gives the interval (Hao et al. 2021).
With one feature for every state and action it is the value in the estimated process. Choose it for finite processes.

`NetworkQ`, for vectors, learns its features: five networks, each without a fifth of the episodes, whose differences
give the interval (a delete-a-group jackknife) and whose values of the fifth that they did not see the doubly robust
estimators can use. Targets stay within what the rewards can add up to, so it cannot diverge.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from runtime.errors import GanglionError
from training.off_policy.estimators import Estimate, interval

FOLDS = 5
_T_QUANTILE = 2.776  # of Student's t with FOLDS - 1 degrees of freedom, for 95 %
_BLOCKS = 50  # of episodes that are drawn together, where there are more
_RIDGE = 1e-6  # of the mean squared feature
_RESAMPLES = 200
_HIDDEN, _BATCH, _RATE, _TARGET_RATE = 64, 256, 1e-3, 0.1


@dataclass(frozen=True)
class Transitions:
    """Features of N logged ticks and of what the target policy does with them; F is their number."""

    phi: np.ndarray
    """phi(s_t, a_t) (N, F) of the logged actions."""
    target: np.ndarray
    """E_pi phi(s_t, a) (N, F) of the target's."""
    reward: np.ndarray
    """(N,)."""
    terminated: np.ndarray
    """(N,) bool."""
    episode: np.ndarray
    """(N,) int64, counted from 0."""


class LinearQ:
    """Sums over blocks of episodes, from which every fit is a solve."""

    def __init__(self, data: Transitions, gamma: float) -> None:
        self._data = data
        episodes = int(data.episode[-1]) + 1
        self.episodes = episodes
        last = np.diff(data.episode, append=-1) != 0
        following = np.zeros_like(data.target)
        following[:-1] = data.target[1:]
        following[data.terminated] = 0.0
        known = data.terminated | ~last  # what follows a time limit is not known
        first = np.diff(data.episode, prepend=-1) != 0
        count = min(_BLOCKS, episodes)
        self.block = data.episode * count // episodes
        """Block (N,) of every tick."""
        size = data.phi.shape[1]
        squares = 0.0
        self._left, self._right = np.zeros((count, size, size)), np.zeros((count, size))
        self._start, self._starts = np.zeros((count, size)), np.zeros(count)
        for i in range(count):
            own = (self.block == i) & known
            phi = data.phi[own]
            self._left[i] = phi.T @ (phi - gamma * following[own])
            squares += float((phi**2).sum())
            self._right[i] = phi.T @ data.reward[own]
            begins = (self.block == i) & first
            self._start[i], self._starts[i] = data.target[begins].sum(0), begins.sum()
        self._ridge = _RIDGE * squares / size

    def fit(self, shares: np.ndarray) -> np.ndarray:
        """Weights (F,) of the blocks taken `shares` (G,) times."""
        left = np.tensordot(shares, self._left, 1)
        return np.linalg.solve(left + self._ridge * np.eye(len(left)), shares @ self._right)

    def value(self, shares: np.ndarray) -> float:
        """Mean value of the first ticks of the blocks taken `shares` (G,) times."""
        return float((shares @ self._start) @ self.fit(shares) / (shares @ self._starts))

    def estimate(self) -> Estimate:
        """Value of the target policy; every episode counts."""
        blocks = len(self._right)
        value = self.value(np.ones(blocks))

        def each(shares: np.ndarray) -> np.ndarray:
            return np.array([self.value(row * blocks) for row in shares])

        return Estimate(value, *interval(each, value, blocks, _RESAMPLES), float(self.episodes))

    def cross_fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Q(s_t, a_t) and V(s_t), each (N,), of every tick by weights that were fitted without its own episode."""
        blocks = len(self._right)
        folds = np.arange(blocks) % min(FOLDS, blocks)
        q, v = np.zeros(len(self.block)), np.zeros(len(self.block))
        for fold in np.unique(folds):
            own = folds[self.block] == fold
            others = (folds != fold).astype(float)
            w = self.fit(others if others.any() else np.ones(blocks))
            q[own], v[own] = self._data.phi[own] @ w, self._data.target[own] @ w
        return q, v


class _Networks(nn.Module):
    """FOLDS networks of equal beginnings, side by side: (FOLDS, B, U) to (FOLDS, B)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        sizes = (inputs, _HIDDEN, _HIDDEN, 1)
        self.weights = nn.ParameterList(
            [(torch.randn(a, b) / a**0.5).repeat(FOLDS, 1, 1) for a, b in itertools.pairwise(sizes)]
        )
        self.weights[-1].data *= 0.1  # the first answer is the mean return everywhere
        self.biases = nn.ParameterList([torch.zeros(FOLDS, 1, b) for b in sizes[1:]])

    def forward(self, u: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            u = torch.baddbmm(bias, u, weight)
            u = nn.functional.elu(u) if i < 2 else u
        return u.squeeze(-1)


class NetworkQ:
    """Fitted as it is made. `phi` are standardised states and actions (N, U); `target` is (N, draws, U)."""

    def __init__(self, data: Transitions, gamma: float, steps: int, seed: int = 0) -> None:
        """`steps` of Adam. Raises GanglionError if there are fewer than five episodes."""
        self.episodes = int(data.episode[-1]) + 1
        if self.episodes < FOLDS:
            raise GanglionError(f"the log holds {self.episodes} episodes, fitted Q needs at least {FOLDS}")
        torch.set_num_threads(1)  # the matrices are small
        self._fold = data.episode % FOLDS
        self._first = np.diff(data.episode, prepend=-1) != 0
        ahead = _returns_to_go(data, gamma)
        self._unit, self._offset = max(float(ahead.std()), 1e-6), float(ahead[self._first].mean())
        self._phi, self._target = (torch.as_tensor(v, dtype=torch.float32) for v in (data.phi, data.target))
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._networks, held = (_Networks(data.phi.shape[1]) for _ in range(2))
        held.load_state_dict(self._networks.state_dict())
        self._learn(data, gamma, steps, held)

    def _learn(self, data: Transitions, gamma: float, steps: int, held: _Networks) -> None:
        last = np.diff(data.episode, append=-1) != 0
        known = np.flatnonzero(data.terminated | ~last)  # what follows a time limit is not known
        own = [torch.from_numpy(known[self._fold[known] != fold]) for fold in range(FOLDS)]
        reward, ends = (torch.as_tensor(v, dtype=torch.float32) for v in (data.reward, data.terminated))
        least, most = (float(bound) / (1 - gamma) for bound in (min(data.reward.min(), 0), max(data.reward.max(), 0)))
        optimizer = torch.optim.Adam(self._networks.parameters(), lr=_RATE)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - 0.95 * step / steps)
            rows = torch.stack([o[torch.randint(len(o), (_BATCH,), generator=self._generator)] for o in own])
            with torch.no_grad():
                following = self._value(held, self._target[(rows + 1).clamp(max=len(reward) - 1)])
                wanted = reward[rows] + gamma * (1 - ends[rows]) * following.clamp(least, most)
            error = (self._value(self._networks, self._phi[rows].unsqueeze(2)) - wanted) / self._unit
            optimizer.zero_grad()
            error.square().mean(1).sum().backward()
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(held.parameters(), self._networks.parameters()):
                    slow.lerp_(fast, _TARGET_RATE)

    def _value(self, networks: _Networks, u: Tensor) -> Tensor:
        """Mean over draws (FOLDS, B) for (FOLDS, B, draws, U)."""
        values = networks(u.flatten(1, 2)).unflatten(1, u.shape[1:3])
        return self._offset + self._unit * values.mean(-1)

    @torch.no_grad()
    def estimate(self) -> Estimate:
        """Value of the target policy; every episode counts."""
        first = self._target[torch.from_numpy(self._first)]
        values = self._value(self._networks, first.expand(FOLDS, *first.shape)).mean(1).double().numpy()
        half = _T_QUANTILE * float(np.sqrt((FOLDS - 1) / FOLDS * ((values - values.mean()) ** 2).sum()))
        value = float(values.mean())
        return Estimate(value, value - half, value + half, float(self.episodes))

    @torch.no_grad()
    def cross_fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Q(s_t, a_t) and V(s_t), each (N,), by the network that did not see the episode."""
        fold, rows = torch.from_numpy(self._fold), torch.arange(len(self._fold))
        phi, target = self._phi.unsqueeze(1), self._target
        q, v = (self._value(self._networks, u.expand(FOLDS, *u.shape))[fold, rows] for u in (phi, target))
        return q.double().numpy(), v.double().numpy()


def _returns_to_go(data: Transitions, gamma: float) -> np.ndarray:
    """Discounted reward (N,) from each tick to the end of its episode."""
    result, ahead = np.zeros(len(data.reward)), 0.0
    for i in range(len(result) - 1, -1, -1):
        ends = i + 1 == len(result) or data.episode[i + 1] != data.episode[i]
        ahead = data.reward[i] + (0.0 if ends else gamma * ahead)
        result[i] = ahead
    return result
