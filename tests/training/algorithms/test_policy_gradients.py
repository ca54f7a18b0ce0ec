"""Theorems of policy gradients on processes that can be solved exactly, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.training.tabular import MDP, Paths, all_paths, random_logits, random_mdp
from training.agent.distributions import Gaussian
from training.algorithms.on_policy import pseudo_loss
from training.returns import best_baseline, episode_return, reward_to_go, step_weights, trajectory_weights

GAMMA, TICKS = 0.9, 2
TWO_STEP = random_mdp(2, 2)


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


def whole_return(paths: Paths) -> Tensor:
    """G(tau) of every tick."""
    return episode_return(paths.reward, torch.zeros_like(paths.reward), paths.done, paths.done, GAMMA)


def expected_return(mdp: MDP, logits: Tensor) -> Tensor:
    """Of the paths of two ticks: sum_tau p(tau) G(tau)."""
    paths = all_paths(mdp, TICKS)
    return (paths.probability(logits) * whole_return(paths)[0]).sum()


def estimator(logits: Tensor, weight: Tensor) -> tuple[Tensor, float]:
    """Mean (S, A) of sum_t grad log pi(a_t|s_t) weight_t over the paths, and its variance, summed over parameters."""
    paths = all_paths(TWO_STEP, TICKS)
    log_prob, probability = paths.log_prob(logits), paths.probability(logits).detach()
    samples = torch.stack([gradient((log_prob[:, i] * weight[:, i]).sum(), logits) for i in range(len(probability))])
    mean = torch.einsum("n,nsa->sa", probability, samples)
    return mean, float((probability * (samples - mean).square().sum((1, 2))).sum())


def test_reinforce_is_the_finite_difference_of_the_expected_return() -> None:
    """-grad of the pseudo-loss, each path counted with its probability: E[sum_t grad log pi(a_t|s_t) G(tau)]."""
    logits = random_logits(TWO_STEP)
    paths = all_paths(TWO_STEP, TICKS)
    returns = whole_return(paths)
    counted = paths.done.numel() * paths.probability(logits).detach() * returns
    found = -gradient(pseudo_loss(paths.log_prob(logits), counted), logits)
    for s in range(2):
        for a in range(2):
            step = torch.zeros(2, 2).double()
            step[s, a] = 1e-5
            up, down = (expected_return(TWO_STEP, logits.detach() + sign * step) for sign in (1, -1))
            assert found[s, a].item() == pytest.approx((up - down).item() / 2e-5, abs=1e-9)


def test_reward_to_go_and_baselines_leave_the_mean_and_lower_the_variance() -> None:
    """G(tau), the reward to go (each with its gamma^t), less the best constant b*, less V(s)."""
    logits = random_logits(TWO_STEP)
    paths = all_paths(TWO_STEP, TICKS)
    nothing, discount = torch.zeros_like(paths.done), torch.tensor([[1.0], [GAMMA]], dtype=torch.float64)
    whole = whole_return(paths)
    to_go = discount * reward_to_go(paths.reward, nothing, paths.done, paths.done, GAMMA)
    policy = logits.detach().softmax(-1)
    last = (policy * TWO_STEP.reward).sum(1)
    first = (policy * (TWO_STEP.reward + GAMMA * TWO_STEP.transition @ last)).sum(1)
    value = discount * torch.stack((first[paths.state[0]], last[paths.state[1]]))
    truth, most = estimator(logits, whole)
    variances = [most]
    for weight in (to_go, to_go - value):
        mean, variance = estimator(logits, weight)
        torch.testing.assert_close(mean, truth, rtol=1e-12, atol=1e-12)
        variances.append(variance)
    assert variances[0] > variances[1] > variances[2]


def test_the_best_constant_baseline_beats_the_value() -> None:
    """One state, pi = (0.9, 0.1), R = (1, 0): g of the first logit is (0.1, -0.9), b* = 0.009/0.09 = 0.1, V = 0.9.

    Out of 10 draws with the action's own frequencies; g (R - b) has the mean 0.09 for every b.
    """
    chosen = torch.tensor([1.0] * 9 + [0.0], dtype=torch.float64)
    score = chosen - 0.9
    best = best_baseline(score.square(), chosen).item()
    assert best == pytest.approx(0.1)

    def spread(b: float) -> float:
        return float((score * (chosen - b)).var(correction=0))

    assert spread(best) < spread(0.9)
    assert all(float((score * (chosen - b)).mean()) == pytest.approx(0.09) for b in (0.0, best, 0.9))


def test_a_value_in_the_place_of_the_return_gives_no_gradient() -> None:
    """003 replaces R_t by V(s_t): E[grad log pi(a|s) V(s)] = 0."""
    logits = random_logits(TWO_STEP)
    paths = all_paths(TWO_STEP, TICKS)
    value = torch.tensor([3.0, -5.0], dtype=torch.float64)[paths.state]
    mean, variance = estimator(logits, value)
    assert mean.abs().max().item() < 1e-12
    assert variance > 0.1, "though no single path's is zero"


def test_the_pseudo_loss_is_the_explicit_sum() -> None:
    """-grad mean(log pi stop_grad(Q)) = mean of grad log pi(a_i|s_i) Q_i, also where Q depends on the parameters."""
    logits = random_logits(TWO_STEP)
    paths = all_paths(TWO_STEP, TICKS)
    log_prob = paths.log_prob(logits).flatten()
    q = logits[paths.state, paths.action].flatten() ** 2
    explicit = torch.stack([gradient(one, logits) * weight.detach() for one, weight in zip(log_prob, q)]).mean(0)
    torch.testing.assert_close(-gradient(pseudo_loss(log_prob, q), logits), explicit, rtol=1e-12, atol=1e-12)


def test_the_score_of_a_gaussian_has_no_spurious_half() -> None:
    """grad_mu log N(a; mu, sigma^2) = (a - mu)/sigma^2: (3 - 1)/4 = 0.5, not 0.25."""
    mean = torch.tensor([1.0], dtype=torch.float64).requires_grad_(True)
    log_prob = Gaussian(mean, torch.tensor([2.0], dtype=torch.float64)).log_prob(
        torch.tensor([3.0], dtype=torch.float64)
    )
    assert gradient(log_prob, mean).item() == pytest.approx(0.5, abs=1e-12)


def test_trajectory_weights_are_exact_and_step_weights_are_so_to_first_order() -> None:
    """grad J(theta') from paths of theta: sum_t w_{0:t} grad log pi'(a_t|s_t) Q'_t is exact; with the ratio of the tick
    alone its error halves with the distance, and is none at theta' = theta."""
    logits, direction = random_logits(TWO_STEP).detach(), random_logits(TWO_STEP, 2).detach()
    paths = all_paths(TWO_STEP, TICKS)
    old, probability = paths.log_prob(logits), paths.probability(logits)

    def error(distance: float, weights: Callable[[Tensor, Tensor], Tensor]) -> float:
        new = (logits + distance * direction).requires_grad_(True)
        policy, log_prob = new.softmax(-1), paths.log_prob(new)
        last = TWO_STEP.reward
        first = TWO_STEP.reward + GAMMA * TWO_STEP.transition @ (policy * last).sum(1)
        q = torch.stack((first[paths.state[0], paths.action[0]], GAMMA * last[paths.state[1], paths.action[1]]))
        weight = probability * weights(log_prob.detach(), old) * q.detach()
        found = -gradient(pseudo_loss(log_prob, paths.done.numel() * weight), new)
        return float((found - gradient(expected_return(TWO_STEP, new), new)).norm())

    def exact(new: Tensor, old: Tensor) -> Tensor:
        return trajectory_weights(new, old, paths.done)

    assert all(error(d, exact) < 1e-12 for d in (0.0, 0.1, 1.0))
    assert error(0.0, step_weights) < 1e-12
    assert error(1e-3, step_weights) > 1e-7
    assert error(1e-3, step_weights) / error(5e-4, step_weights) == pytest.approx(2.0, rel=0.01)


def test_the_visits_of_the_two_state_example_of_002() -> None:
    """alpha = (0.7, 0.3), every row of P (0.9, 0.1), gamma = 0.9: mu = 0.1 alpha + 0.9 (0.9, 0.1) = (0.88, 0.12)."""
    transition = torch.tensor([0.9, 0.1], dtype=torch.float64).expand(2, 2, 2)
    mdp = MDP(torch.tensor([0.7, 0.3], dtype=torch.float64), transition, torch.zeros(2, 2).double())
    x = mdp.visits(torch.tensor([[0.8, 0.2]] * 2, dtype=torch.float64), GAMMA)
    assert ((1 - GAMMA) * x).tolist() == pytest.approx([0.88, 0.12], abs=1e-12)
    assert x.sum().item() == pytest.approx(10.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_policy_gradient_theorem(seed: int) -> None:
    """grad J = sum_s x(s) sum_a grad pi(a|s) q(s, a), x = alpha' (I - gamma P)^-1; as an expectation,
    E_{s~mu, a~pi}[grad log pi q]/(1 - gamma)."""
    mdp = random_mdp(4, 3, seed)
    logits = random_logits(mdp, seed + 10)
    policy = logits.softmax(-1)
    truth = gradient(mdp.objective(policy, GAMMA), logits)
    x, q = mdp.visits(policy, GAMMA).detach(), mdp.q(policy, GAMMA).detach()
    torch.testing.assert_close(gradient((x.unsqueeze(1) * policy * q).sum(), logits), truth, rtol=0, atol=1e-10)
    mu = (1 - GAMMA) * x.unsqueeze(1)
    weight = policy.numel() * mu * policy.detach() * q / (1 - GAMMA)
    torch.testing.assert_close(-gradient(pseudo_loss(policy.log(), weight), logits), truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_the_performance_difference_lemma(seed: int) -> None:
    """J' - J = E_{pi'} sum_t gamma^t A^pi(s_t, a_t), the states as the new policy visits them."""
    mdp = random_mdp(5, 3, seed)
    old, new = (random_logits(mdp, seed + k).detach().softmax(-1) for k in (20, 30))
    advantage = mdp.q(old, GAMMA) - mdp.value(old, GAMMA).unsqueeze(1)
    expected = mdp.visits(new, GAMMA) @ (new * advantage).sum(1)
    difference = mdp.objective(new, GAMMA) - mdp.objective(old, GAMMA)
    assert abs(difference.item()) > 0.01
    assert difference.item() == pytest.approx(expected.item(), abs=1e-10)
