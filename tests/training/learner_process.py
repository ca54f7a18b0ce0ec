"""One of the processes of test_learners: learns alone from everything, then with the others from its share.

    torchrun --nproc-per-node 2 -m tests.training.learner_process ALGO…

The first one prints a line for each algorithm: by how much the two agents differ after ten updates, how far the
learners are apart, and how far they have come.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from tests.training.algorithms import replayed, rollouts
from training import learners
from training.agent.situation import Situation
from training.algorithms import bc
from training.checkpoint import build_agent
from training.replay_buffer import Batch
from training.rollout import Rollout

UPDATES, SHARES = 10, 2
OFF_POLICY = ("ddpg", "td3", "sac", "offpac", "svg", "bpo", "vfe", "dqn")
FITTED = ("fqi", "nfqca")


def share(rollout: Rollout, index: int) -> Rollout:
    """Every second environment of a rollout, from `index` on."""
    names = ("action", "reward", "terminated", "done")
    parts = {name: getattr(rollout, name)[:, index::SHARES] for name in names}
    now, after = (Situation(s.z[:, index::SHARES], s.x[:, index::SHARES]) for s in (rollout.now, rollout.after))
    return replace(rollout, now=now, after=after, **parts)


def rows(batch: Batch, index: int) -> Batch:
    """Every second transition of a batch."""
    where = slice(index, None, SHARES)
    now, after = batch.now.rows(where), batch.after.rows(where)
    return Batch(now, batch.action[where], batch.reward[where], after, batch.terminated[where])


def learn(algo: str, index: int | None, updates: int = UPDATES) -> Tensor:
    """Parameters of the agent after so many updates, on the share `index` of the experience or on all of it."""
    others = dict.fromkeys(OFF_POLICY, off_policy) | dict.fromkeys(FITTED, fitted) | {"bc": cloned}
    experience = others.get(algo, on_policy)
    return parameters_to_vector(experience(algo, index, updates).agent.parameters()).detach()


def on_policy(algo: str, index: int | None, updates: int) -> Any:
    """By rollouts."""
    damped = {"cg_damping": 1.0} if algo in ("npg", "trpo") else {}  # or conjugate gradients multiply rounding errors
    config = rollouts.plain("cartpole", algo, **damped)
    twice = replace(config, num_envs=SHARES * config.num_envs)  # by which step sizes know when to end
    algorithm = rollouts.learner(twice if index is None else config)
    for update in range(updates):
        torch.manual_seed(update)
        rollout = rollouts.random_rollout(algorithm.agent, ticks=16, count=4)
        rollout = replace(rollout, reward=rollout.reward + 0.1 * update)
        algorithm.update(rollout if index is None else share(rollout, index))
    return algorithm


def off_policy(algo: str, index: int | None, updates: int) -> Any:
    """By gradient steps on drawn transitions."""
    algorithm = replayed.make(algo, task="cartpole_push" if algo == "dqn" else "cartpole")
    for update in range(updates):
        batch = replayed.make_batch(algorithm, 32, seed=update)
        if algo == "dqn":
            batch = replace(batch, action=(batch.action[:, 0] > 0).long())
        algorithm.learn(batch if index is None else rows(batch, index))
    return algorithm


def fitted(algo: str, index: int | None, updates: int) -> Any:
    """By iterations on base points, in minibatches. No episode ends, so that every point has a best next action."""
    algorithm = replayed.make(algo, batch_size=16 if index is None else 16 // SHARES)
    algorithm.random_action = lambda s: torch.full((len(s.x), 1), 0.5)  # where a search begins
    for update in range(updates):
        points = replayed.make_batch(algorithm, 64, seed=update)
        points = replace(points, terminated=torch.zeros_like(points.terminated))
        algorithm.buffer.at_most = lambda count, p=points: p if index is None else rows(p, index)
        for _ in algorithm.improve(8):
            pass
    return algorithm


def cloned(algo: str, index: int | None, updates: int) -> Any:
    """By the actions of rollouts as a teacher's advice."""
    setattr(bc, "load_teacher", lambda path, config: build_agent(config))  # noqa: B010
    algorithm: Any = rollouts.learner(rollouts.plain("cartpole", algo))
    for update in range(updates):
        rollout = rollouts.random_rollout(algorithm.agent, ticks=16, count=4)
        rollout = replace(rollout, action=rollout.action + 0.1 * update)
        rollout = rollout if index is None else share(rollout, index)
        algorithm._advice = deque(rollout.action)
        algorithm.update(rollout)
    return algorithm


def in_order(count: int, **kwargs: Any) -> Tensor:
    """No shuffling, so that the minibatches of the shares make up those of the whole."""
    return torch.arange(count)


def main(algos: list[str]) -> None:
    """Compare."""
    torch.set_num_threads(1)
    setattr(torch, "randperm", in_order)  # noqa: B010
    setattr(torch, "randn_like", lambda like: torch.full_like(like, 0.5))  # noqa: B010
    alone = [learn(algo, None) for algo in algos]
    with learners.joined():
        for algo, expected in zip(algos, alone, strict=True):
            found = learn(algo, learners.rank())
            spread = max(learners.everyone(float((found - learners.mean(found)).abs().max())))
            difference, moved = ((found - other).abs().max().item() for other in (expected, learn(algo, 0, updates=0)))
            if learners.rank() == 0:
                sys.stdout.write(f"{difference} {spread} {moved}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
