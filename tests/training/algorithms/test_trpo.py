"""Natural steps of whole agents, and the line search of TRPO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from tests.training.algorithms.rollouts import TASKS, learner, plain, random_rollout
from training.algorithms.npg import NPG, surrogate
from training.algorithms.on_policy import make_batch, policy_parameters
from training.algorithms.trpo import TRPO, backtracked
from training.natural_gradient import fisher_product, flat_gradient, put


def shrinking_kl(kl: float, gain: float = 1.0) -> Callable[[float], tuple[float, float]]:
    """A step whose gain is linear and whose divergence is quadratic in the share that is taken."""
    return lambda share: (gain * share, kl * share**2)


@pytest.mark.parametrize(("kl", "share"), [(0.9, 1.0), (1.0, 1.0), (1.5, 0.8), (4.0, 0.8**4), (100.0, 0.0)])
def test_the_line_search_goes_back_until_the_divergence_is_within_epsilon(kl: float, share: float) -> None:
    """0.8^2 1.5 = 0.96; 4 (0.8^3)^2 = 1.05 > 1 but 4 (0.8^4)^2 = 0.67; 100 (0.8^9)^2 = 1.8 > 1, so none of ten."""
    assert backtracked(shrinking_kl(kl), 1.0, 10, 0.8) == pytest.approx(share)


def test_the_line_search_takes_no_step_that_does_not_gain() -> None:
    assert backtracked(shrinking_kl(0.1, gain=-1.0), 1.0, 10, 0.8) == 0.0
    assert backtracked(lambda share: (0.3 - share, 0.0), 1.0, 10, 0.8) == pytest.approx(0.8**6), "0.262 is below 0.3"


@pytest.mark.parametrize("task", TASKS)
def test_a_natural_step_of_the_agent_lands_at_kl_epsilon(task: str) -> None:
    """epsilon = 1/2 d'(F + damping I) d, and the true divergence is 1/2 d'Fd, both within 1 %."""
    epsilon, damping = 1e-10, 1e-2
    algorithm = learner(plain(task, "npg", target_kl=epsilon, cg_steps=40, cg_damping=damping, value_epochs=1))
    assert isinstance(algorithm, NPG)
    parameters = policy_parameters(algorithm.agent)
    rollout, before = random_rollout(algorithm.agent), parameters_to_vector(parameters).detach()
    batch = make_batch(algorithm.agent, rollout, algorithm.options, algorithm.config.gamma)
    logs = algorithm.update(rollout)
    step = parameters_to_vector(parameters).detach() - before
    put(parameters, before)
    product = fisher_product(surrogate(algorithm.agent, batch)[1], parameters, 0.0)
    quadratic = 0.5 * (step @ product(step)).item()
    assert quadratic + 0.5 * damping * (step @ step).item() == pytest.approx(epsilon, rel=0.01)
    assert logs["train/approx_kl"] == pytest.approx(quadratic, rel=0.01)
    assert 0.5 * epsilon < quadratic < epsilon


@pytest.mark.parametrize("task", TASKS)
def test_the_surrogate_begins_with_ratio_one_and_the_policy_gradient(task: str) -> None:
    """At theta' = theta it is E[A] = 0 with no divergence, and its gradient is E[grad log pi A]."""
    algorithm = learner(plain(task, "npg"))
    agent, options = algorithm.agent, algorithm.options
    batch = make_batch(agent, random_rollout(agent), options, 0.9)
    gain, kl = surrogate(agent, batch)
    assert (gain.item(), kl.item()) == pytest.approx((0.0, 0.0), abs=1e-12)
    log_prob = agent.distribution(batch.now.z).log_prob(batch.action)
    expected = flat_gradient((log_prob * batch.advantage).mean(), policy_parameters(agent))
    torch.testing.assert_close(flat_gradient(gain, policy_parameters(agent)), expected)


def trust_region(**options: Any) -> tuple[TRPO, torch.Tensor, Any]:
    algorithm = learner(plain("cartpole", "trpo", **options))
    assert isinstance(algorithm, TRPO)
    batch = make_batch(algorithm.agent, random_rollout(algorithm.agent), algorithm.options, 0.9)
    gain, _ = surrogate(algorithm.agent, batch)
    return algorithm, flat_gradient(gain, algorithm.parameters), batch


def test_a_step_that_is_far_too_long_is_cut_to_the_trust_region() -> None:
    algorithm, gradient, batch = trust_region(target_kl=0.01, line_search_steps=40)
    logs = algorithm.take(gradient, batch)
    gain, kl = surrogate(algorithm.agent, batch)
    assert 0.0 < logs["train/line_search"] < 1.0
    assert 0.0 < kl.item() <= 0.01
    assert gain.item() > 0.0


def test_a_step_downhill_leaves_the_policy_as_it_is() -> None:
    algorithm, gradient, batch = trust_region(line_search_steps=3)
    before = parameters_to_vector(algorithm.parameters).detach().clone()
    assert algorithm.take(-gradient, batch)["train/line_search"] == 0.0
    assert torch.equal(parameters_to_vector(algorithm.parameters), before)
