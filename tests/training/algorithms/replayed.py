"""Small off-policy algorithms in float64 on the cart-pole's agent, and batches to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from tests.training.models import HOLD
from training.agent.situation import Situation
from training.algorithms import algorithm_class
from training.algorithms.off_policy import OffPolicyOptions
from training.checkpoint import build_agent
from training.config import TrainConfig
from training.evaluation import evaluate
from training.presets import preset
from training.replay_buffer import Batch
from training.rollout import Rollout
from training.trainer import Trainer

GAMMA = 0.9

torch.set_num_threads(1)  # as the trainer does; the matrices are small


@contextmanager
def float64() -> Iterator[None]:
    """Make new tensors in float64 meanwhile."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def settings(name: str, hidden: int = 8, task: str = "cartpole", **options: Any) -> TrainConfig:
    """Of the cart-pole without a model and without failing sensors."""
    config = preset(task, name)
    agent = replace(config.agent, hidden=hidden, inference=HOLD)
    plain = replace(config, agent=agent, refine=(0,), model_epochs=0, workers=1, gamma=GAMMA)
    return replace(plain, options=replace(config.options, **options))


def short_run(name: str) -> TrainConfig:
    """3,072 steps on the cart-pole, 512 of them at random, and 1,280 gradient steps."""
    rates: dict[str, Any] = {"learning_rate": 2e-3, "critic_learning_rate": 2e-3}
    config = settings(name, 32, learning_starts=512, batch_size=64, gradient_steps=0.5, **rates)
    options = replace(config.options, tau=0.03) if isinstance(config.options, OffPolicyOptions) else config.options
    return replace(config, gamma=0.98, steps=3072, num_envs=8, horizon=16, eval_every=0, options=options)


def make(name: str, **options: Any) -> Any:
    """The algorithm `name` with a small agent whose policy is far from constant."""
    config = settings(name, **{"buffer_size": 1000} | options)
    with float64():
        torch.manual_seed(3)
        agent = build_agent(config)
        algorithm = algorithm_class(name)(config, agent)
        with torch.no_grad():
            for policy in (agent.policy, getattr(algorithm, "target_policy", agent.policy)):
                last: Any = policy[-1]
                last.weight.normal_(std=0.7)
    return algorithm


def make_batch(algorithm: Any, rows: int = 6, seed: int = 0) -> Batch:
    """Random transitions in float64, every third of which ended."""
    agent, generator = algorithm.agent, torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def situation() -> Situation:
        return Situation(draw(rows, agent.model.size), draw(rows, agent.observation_size))

    action = 2 * torch.rand(rows, agent.action_size, generator=generator, dtype=torch.float64) - 1
    return Batch(situation(), action, draw(rows), situation(), (torch.arange(rows) % 3 == 0).double())


def make_rollout(algorithm: Any, ticks: int = 16, count: int = 4) -> Rollout:
    """Random transitions of the cart-pole's sizes, in float32 as a collector gives them."""
    rows = make_batch(algorithm, ticks * count)

    def shaped(values: Tensor) -> Tensor:
        return values.float().unflatten(0, (ticks, count))

    now, after = (Situation(shaped(s.z), shaped(s.x)) for s in (rows.now, rows.after))
    reward, terminated = shaped(rows.reward), shaped(rows.terminated)
    return Rollout(reward, reward, reward, [], reward, now, after, shaped(rows.action), reward, terminated, terminated)


def weights(*modules: nn.Module) -> Tensor:
    """A copy of all parameters as one vector."""
    return parameters_to_vector(p for module in modules for p in module.parameters()).detach().clone()


def level(critics: Any, s: Situation, action: Tensor) -> None:
    """Move every critic to a mean of zero over the batch, so that each of twins is the least somewhere."""
    with torch.no_grad():
        critics.biases[-1].sub_(critics.q(s, action).mean(1).reshape(-1, 1, 1))


def explicit_policy_gradient(agent: Any, s: Situation, slope: Tensor) -> Tensor:
    """1/B sum_i grad_w d(s_i)^T slope_i, one sample and one component of the action at a time; slope (B, A)."""
    parameters = list(agent.policy.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for i in range(len(slope)):
        action = agent.act(s.z[i : i + 1])[0]
        for component, factor in zip(action, slope[i]):
            row = torch.autograd.grad(component, parameters, retain_graph=True)
            total += factor * torch.cat([g.flatten() for g in row])
    return total / len(slope)


def action_slope(critics: Any, s: Situation, action: Tensor) -> Tensor:
    """grad_a q(s, a) (B, A) of the first critic by central differences."""
    slope, step = torch.zeros_like(action), 1e-6
    with torch.no_grad():
        for i in range(action.shape[1]):
            off = torch.zeros_like(action)
            off[:, i] = step
            slope[:, i] = (critics.q(s, action + off)[0] - critics.q(s, action - off)[0]) / (2 * step)
    return slope


def episode_length(config: TrainConfig, folder: Path) -> tuple[float, float]:
    """Ticks that the deployed action balances the pole, before training and after."""
    trainer = Trainer(config, folder, resume=False)
    before = evaluate(trainer.agent, config, 10).episode_length
    trainer.fit()
    return before, evaluate(trainer.agent, config, 10).episode_length
