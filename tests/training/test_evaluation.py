"""Evaluation of the deployed action: against a plain loop over one environment, and no bias towards short episodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from runtime.contract import Layout
from runtime.errors import GanglionError
from sim.env import make_env
from training.agent.agent import Agent
from training.agent.config import InferenceConfig
from training.checkpoint import build_agent
from training.config import TrainConfig
from training.evaluation import Evaluator, evaluate
from training.presets import preset

PLAIN = preset("cartpole")
PLAIN = replace(PLAIN, agent=replace(PLAIN.agent, inference=InferenceConfig("hold", default_steps=0)))


def agent_of(config: TrainConfig, bias: float = 0.0) -> Agent:
    """A new agent whose action is nearly constant."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    agent = build_agent(config)
    with torch.no_grad():
        [p for n, p in agent.policy.named_parameters() if n.endswith("bias")][-1].add_(bias)
    return agent


def by_hand(agent: Agent, seed: int, counts: list[int]) -> tuple[list[float], list[float], list[bool]]:
    """As many episodes as `counts` says of each environment, one after the other; with hold, z is the reading."""
    env = make_env(PLAIN.task)
    layout = Layout(env.task.observations, env.task.action)
    returns, lengths, successes = [], [], []
    for seeds, each in zip(np.random.SeedSequence(seed).spawn(len(counts)), counts, strict=True):
        own: int | None = int(seeds.generate_state(1)[0])
        for _ in range(each):
            observation, total, ticks, done = env.reset(seed=own)[0], 0.0, 0, False
            own = None
            while not done:
                x = torch.as_tensor((observation - layout.mean) / layout.scale, dtype=torch.float32)
                with torch.no_grad():
                    action = agent.act(x[None])[0].numpy()
                observation, reward, terminated, truncated, info = env.step(action)
                total, ticks, done = total + float(reward), ticks + 1, terminated or truncated
            returns.append(total)
            lengths.append(float(ticks))
            successes.append(bool(info["success"]))
    env.close()
    return returns, lengths, successes


def test_the_same_figures_as_a_plain_loop_over_one_environment() -> None:
    agent = agent_of(PLAIN, 0.2)
    result = evaluate(agent, PLAIN, 18, seed=2_000_017)
    returns, lengths, successes = by_hand(agent, 2_000_017, [2, 2, *[1] * 14])
    assert len(set(lengths)) > 1, "short and long episodes"
    assert result.episodes == 18
    assert result.episode_return == pytest.approx(np.mean(returns), abs=1e-3)
    assert result.return_std == pytest.approx(np.std(returns), abs=1e-3)
    assert result.episode_length == pytest.approx(np.mean(lengths))
    assert result.success_rate == pytest.approx(np.mean(successes))


@pytest.mark.parametrize("episodes", [1, 5, 17])
def test_exactly_as_many_episodes_as_asked_for(episodes: int) -> None:
    assert evaluate(agent_of(PLAIN, 1.0), PLAIN, episodes).episodes == episodes


def test_every_evaluation_runs_the_same_episodes_whatever_the_number_of_workers() -> None:
    agent = agent_of(PLAIN, 1.0)
    evaluator = Evaluator("cartpole", 4)
    first, second = evaluator.run(agent), evaluator.run(agent)
    evaluator.close()
    assert first == second
    assert evaluate(agent, PLAIN, 4, workers=2) == first


def test_discrete_actions_are_judged_by_the_best_choice() -> None:
    config = preset("cartpole_push")
    result = evaluate(agent_of(config), config, 3)
    assert 5 < result.episode_length < 500, "a constant push drops the pole"
    assert result.success_rate == 0.0


def test_an_agent_that_is_not_finite_is_refused() -> None:
    with pytest.raises(GanglionError, match="not finite"):
        evaluate(agent_of(PLAIN, float("nan")), PLAIN, 2)


def test_no_episodes_are_refused() -> None:
    with pytest.raises(GanglionError, match="episodes is 0, expected at least 1"):
        evaluate(agent_of(PLAIN), PLAIN, 0)
