"""The variational agent: its policy terms against the enumerated bound and the algorithms they contain, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from runtime.errors import GanglionError
from training.agent.distributions import Categorical, Gaussian, SquashedGaussian
from training.agent.situation import Situation
from training.algorithms.ppo import clipped_objective
from training.algorithms.sac import soft_value
from training.algorithms.vfe import VFE, VFEOptions, action_terms, choice_terms, sampled_log_z
from training.checkpoint import build_agent
from training.free_energy import FreeEnergyModel, LocalModel
from training.preferences import boltzmann_preference, policy_posterior, preference_energy
from training.presets import preset
from training.replay_buffer import Batch
from training.rollout import Collector

torch.set_num_threads(1)

BETA = 1.7


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(got: Tensor, expected: Tensor | float, tolerance: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=got.dtype).expand_as(got)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.detach().clone().requires_grad_()
    (result,) = torch.autograd.grad(function(at), at)
    return result


def differences(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    flat = at.flatten()
    steps = step * torch.eye(len(flat), dtype=at.dtype)
    slopes = [(function((flat + h).view_as(at)) - function((flat - h).view_as(at))) / (2 * step) for h in steps]
    return torch.stack(slopes).view_as(at)


# ---- the whole F_t of two ticks, with finitely many states and policies


class World:
    """Two ticks of 3 states, 2 actions and 4 policies: everything that F_2 and -log p(x_1, x_2, a_1) are made of."""

    def __init__(self) -> None:
        torch.manual_seed(4)
        self.log_first = torch.log_softmax(torch.randn(3).double(), -1)
        self.log_transition = torch.log_softmax(torch.randn(3, 2, 3).double(), -1)  # s, a, s'
        self.log_emission = torch.log_softmax(torch.randn(3, 5).double(), -1)  # s, x
        self.log_policy = torch.log_softmax(torch.randn(4, 3, 2).double(), -1)  # pi, s, a
        self.value = torch.randn(3, 4).double()  # V_pi(s), s, pi
        self.x, self.a = (1, 3), 1

    def terms(self, q_states: Tensor, q_policy: Tensor) -> dict[str, Tensor]:
        """Of log q(s_1, s_2) (3, 3) and log q(pi | s_1) (3, 4)."""
        q, first = q_states.exp(), q_states.exp().sum(1)
        perception = self.log_first.unsqueeze(1) + self.log_transition[:, self.a]
        prediction = self.log_emission[:, self.x[0]].unsqueeze(1) + self.log_emission[:, self.x[1]]
        drift = (q_policy.exp() * self.log_policy[:, :, self.a].T).sum(-1)
        return {
            "a": -(q * perception).sum(),
            "b": -(q * prediction).sum(),
            "c": (first * preference_energy(self.value, BETA, q_policy)).sum(),
            "d": -(first * drift).sum(),
            "e": (q * q_states).sum(),
            "f": (first * (q_policy.exp() * q_policy).sum(-1)).sum(),
        }

    def free_energy(self, q_states: Tensor, q_policy: Tensor) -> Tensor:
        return torch.stack(list(self.terms(q_states, q_policy).values())).sum()

    def log_joint(self) -> Tensor:
        """Log p(s_1, s_2, x_1, x_2, a_1) (3, 3), by the mixture over the policies itself."""
        log_action = torch.logsumexp(
            boltzmann_preference(self.value, BETA).log_probability + self.log_policy[:, :, self.a].T, -1
        )
        return (
            (self.log_first + self.log_emission[:, self.x[0]] + log_action).unsqueeze(1)
            + self.log_transition[:, self.a]
            + self.log_emission[:, self.x[1]]
        )

    def posterior(self) -> tuple[Tensor, Tensor]:
        log_prior = boltzmann_preference(self.value, BETA).log_probability
        joint = self.log_joint()
        return joint - torch.logsumexp(joint.flatten(), 0), policy_posterior(self.log_policy[:, :, self.a].T, log_prior)


def arbitrary() -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    states = torch.log_softmax(torch.randn(9).double(), 0).view(3, 3)
    return states, torch.log_softmax(torch.randn(3, 4).double(), -1)


def test_the_six_terms_bound_the_surprise_of_observations_and_actions() -> None:
    """F_t >= -log p(x_{1:t}, a_{<t}), with equality at the posteriors of states and policies."""
    world = World()
    surprise = -torch.logsumexp(world.log_joint().flatten(), 0)
    close(world.free_energy(*world.posterior()), surprise)
    assert world.free_energy(*arbitrary()) > surprise + 0.1


def test_the_gap_of_the_bound_is_the_distance_of_q_from_the_posteriors() -> None:
    """F - (-log p) = KL(q(s) || p(s | x, a)) + E_q KL(q(pi | s_1) || p(pi | s_1, a_1))."""
    world, (states, policy) = World(), arbitrary()
    true_states, true_policy = world.posterior()
    gap = world.free_energy(states, policy) - world.free_energy(true_states, true_policy)
    of_states = (states.exp() * (states - true_states)).sum()
    of_policies = (states.exp().sum(1) * (policy.exp() * (policy - true_policy)).sum(-1)).sum()
    close(gap, of_states + of_policies)


def test_the_six_terms_by_hand() -> None:
    """One tick each of two states, two policies and two actions, all halves and quarters; beta V = log 3 or 0.

    (a) the state is drawn evenly and stays with 3/4: log 2 - 1/2 log(3/4) - 1/2 log(1/4) at q uniform over the four
    paths; (b) a state shows its own sign always in q's view with 1/2: 2 log 2; (c) p(pi) = (3/4, 1/4) and q = (1/2,
    1/2): -1/2 log(3/16); (d) the policies take the action with 1/2 and 1/4: 1/2 log 8; (e) -log 4; (f) -log 2.
    """
    world = World()
    world.log_first = double([0.5, 0.5]).log()
    world.log_transition = double([[[0.75, 0.25]] * 2, [[0.25, 0.75]] * 2]).log()
    world.log_emission = torch.full((2, 5), 0.5).double().log()
    world.log_policy = double([[[0.5, 0.5]] * 2, [[0.75, 0.25]] * 2]).log()
    world.value = double([[math.log(3.0) / BETA, 0.0]] * 2)
    terms = world.terms(torch.full((2, 2), 0.25).double().log(), torch.full((2, 2), 0.5).double().log())
    expected = {
        "a": math.log(2) - 0.5 * math.log(3 / 16),
        "b": 2 * math.log(2),
        "c": -0.5 * math.log(3 / 16),
        "d": 0.5 * math.log(8),
        "e": -math.log(4),
        "f": -math.log(2),
    }
    assert {n: v.item() for n, v in terms.items()} == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_the_free_energy_is_that_of_finite_differences() -> None:
    """With respect to q(s), with log Z(s) kept, and to q(pi | s)."""
    world, (states, policy) = World(), arbitrary()

    def of_states(logits: Tensor) -> Tensor:
        return world.free_energy(torch.log_softmax(logits.flatten(), 0).view(3, 3), policy)

    def of_policy(logits: Tensor) -> Tensor:
        return world.free_energy(states, torch.log_softmax(logits, -1))

    close(gradient(of_states, states), differences(of_states, states), 1e-8)
    close(gradient(of_policy, policy), differences(of_policy, policy), 1e-8)

    def without_log_z(logits: Tensor) -> Tensor:
        q = torch.log_softmax(logits.flatten(), 0).view(3, 3)
        return world.free_energy(q, policy) - (q.exp().sum(1) * torch.logsumexp(BETA * world.value, -1)).sum()

    assert (gradient(of_states, states) - gradient(without_log_z, states)).norm() > 0.05


# ---- the terms of the policy


LOGITS = double([[0.3, -0.8, 0.5], [1.0, 0.2, -0.4]])
VALUES = double([[1.0, 0.5, -0.3], [-0.2, 0.4, 0.1]])
TAKEN = torch.tensor([2, 0])


def test_the_policy_terms_by_hand() -> None:
    """Even choices of values 0, log 2 at beta 1: log Z = log 3, (c) = log 3 - 1/2 log 2, (d) = log 2, (f) = -log 2."""
    terms = choice_terms(Categorical(double([[0.0, 0.0]])), torch.tensor([1]), double([[0.0, math.log(2)]]), 1.0)
    got = [t.item() for t in terms]
    assert got == pytest.approx([math.log(3) - 0.5 * math.log(2), math.log(2), -math.log(2)])


def test_preference_and_policy_entropy_are_the_distance_from_the_boltzmann_policy() -> None:
    """(c) + (f) = KL(q || exp(beta V) / Z), which the soft policy alone makes zero."""
    terms = choice_terms(Categorical(LOGITS), TAKEN, VALUES, BETA)
    boltzmann = Categorical(BETA * VALUES)
    close(terms.preference + terms.policy_entropy, Categorical(LOGITS).kl(boltzmann))
    best = choice_terms(boltzmann, TAKEN, VALUES, BETA)
    close(best.preference + best.policy_entropy, 0.0)


def test_a_point_mass_at_a_policy_bounds_the_surprise_of_the_action() -> None:
    """V_pi = E_pi q + H[pi] / beta makes (c) + (d) + (f), with Z over the policies, that of q = delta(pi):
    -log p(pi|s) - log pi(a|s) >= -log p(a|s) = -log E_p(pi|s) pi(a|s)."""
    torch.manual_seed(0)
    policies, q = torch.randn(6, 3).double(), double([0.4, -0.2, 0.9])
    soft = (torch.softmax(policies, -1) * q).sum(-1) + Categorical(policies).entropy() / BETA
    preference = boltzmann_preference(soft, BETA)
    taken = torch.full((6,), 1)
    terms = choice_terms(Categorical(policies), taken, q.expand(6, 3), BETA)
    log_z_of_choices = torch.logsumexp(BETA * q, -1)
    point_mass = terms.preference + terms.policy_entropy - log_z_of_choices + preference.log_normalizer
    close(point_mass, -preference.log_probability)
    surprise = -torch.logsumexp(preference.log_probability + Categorical(policies).log_prob(taken), -1)
    assert (point_mass + terms.drift > surprise).all()


# ---- which algorithm is left


def enumerated(logits: Tensor, old: Tensor, term: Callable[[Tensor], Tensor]) -> Tensor:
    """E over actions of the policy that acted, of a term (B,) of the action that was taken."""
    rows = len(logits)
    each = torch.stack([term(torch.full((rows,), a)) for a in range(logits.shape[-1])], -1)
    return (torch.softmax(old, -1) * each).sum(-1).mean()


def test_without_entropy_the_update_is_the_kl_penalised_step_of_trust_regions_and_ppo() -> None:
    """grad of (c) + E_old (d) = grad of -beta E_old[rho A] + KL(old || pi), for any baseline; within the clipping
    range rho A is PPO's objective."""
    torch.manual_seed(1)
    old = LOGITS + 0.03 * torch.randn(2, 3).double()
    baseline = double([[0.7], [-0.3]])
    advantage = VALUES - baseline

    def free_energy(logits: Tensor) -> Tensor:
        policy = Categorical(logits)
        drift = enumerated(logits, old, lambda taken: choice_terms(policy, taken, VALUES, BETA).drift)
        return choice_terms(policy, TAKEN, VALUES, BETA).preference.mean() + drift

    def proximal(logits: Tensor) -> Tensor:
        ratio = (Categorical(logits).log_probs - Categorical(old).log_probs).exp()
        surrogate = (torch.softmax(old, -1) * clipped_objective(ratio, advantage, 0.2)).sum(-1).mean()
        return -BETA * surrogate + Categorical(old).kl(Categorical(logits)).mean()

    ratio = (Categorical(LOGITS).log_probs - Categorical(old).log_probs).exp()
    assert ((ratio > 0.8) & (ratio < 1.2)).all()
    close(gradient(free_energy, LOGITS), gradient(proximal, LOGITS))
    assert gradient(free_energy, LOGITS).norm() > 0.1


def test_the_drift_is_flat_at_the_policy_that_acted_and_curves_by_the_fisher_matrix() -> None:
    """E_old[-log pi] has gradient zero and the Hessian E[g g'] at pi = old: TRPO's metric."""
    old = LOGITS[:1]

    def drift(logits: Tensor) -> Tensor:
        return enumerated(logits, old, lambda taken: choice_terms(Categorical(logits), taken, VALUES[:1], BETA).drift)

    close(gradient(drift, old), 0.0)
    p = torch.softmax(old[0], 0)
    scores = torch.eye(3).double() - p
    fisher = (scores.mT * p) @ scores
    close(torch.autograd.functional.hessian(drift, old).view(3, 3), fisher)


def squashed(parameters: Tensor) -> SquashedGaussian:
    mean, log_std = parameters.chunk(2, -1)
    return SquashedGaussian(Gaussian(mean, log_std.exp()))


PARAMETERS = double([[0.3, -0.2, -0.7, -1.1], [-0.4, 0.8, -0.3, -0.5]])


def hill(action: Tensor) -> Tensor:
    return -(action - double([[0.2, -0.1], [-0.5, 0.4]])).square().sum(-1)


def test_without_drift_the_update_is_the_actor_loss_of_soft_actor_critic_over_alpha() -> None:
    """grad of (c) + (f) = grad of E[alpha log pi - q] / alpha with alpha = 1 / beta, by torch's own distributions."""

    def free_energy(parameters: Tensor) -> Tensor:
        torch.manual_seed(3)
        terms = action_terms(squashed(parameters), 0 * parameters[:, :2], hill, double(0.0), BETA)
        return (terms.preference + terms.policy_entropy).mean()

    def actor(parameters: Tensor) -> Tensor:
        torch.manual_seed(3)
        mean, log_std = parameters.chunk(2, -1)
        policy = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
        action = policy.rsample()
        return -soft_value(hill(action).unsqueeze(0), policy.log_prob(action).sum(-1), double(1 / BETA)).mean()

    close(gradient(free_energy, PARAMETERS), BETA * gradient(actor, PARAMETERS), 1e-9)


def test_without_drift_and_entropy_a_narrow_policy_takes_the_deterministic_policy_gradient() -> None:
    """Sigma -> 0: grad of (c) = -beta grad_a q grad_theta tanh(mu), the point-mass q of DPG."""
    narrow = torch.cat((PARAMETERS[:, :2], torch.full((2, 2), -14.0).double()), -1)
    got = gradient(lambda p: action_terms(squashed(p), 0 * p[:, :2], hill, double(0.0), BETA).preference.sum(), narrow)
    expected = gradient(lambda mean: -BETA * hill(torch.tanh(mean)).sum(), PARAMETERS[:, :2])
    close(got[:, :2], expected, 1e-5)


def test_the_drift_alone_is_behavioural_cloning() -> None:
    """(d) = -log pi(a|s) of torch's own distributions, whatever beta and the values."""
    taken = double([[0.5, -0.3], [0.1, 0.9]])
    mean, log_std = PARAMETERS.chunk(2, -1)
    policy = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    close(action_terms(squashed(PARAMETERS), taken, hill, double(0.0), BETA).drift, -policy.log_prob(taken).sum(-1))
    close(choice_terms(Categorical(LOGITS), TAKEN, VALUES, BETA).drift,
          torch.nn.functional.cross_entropy(LOGITS, TAKEN, reduction="none"))  # fmt: skip


def test_beta_zero_is_uniform_or_keeps_the_policy_that_acted_and_beta_infinite_is_greedy() -> None:
    """Where (c) + (f), or (c) + E_old (d), is flat at beta = 0; and where descent of either ends at a large beta."""
    old = LOGITS[:1]

    def with_entropy(logits: Tensor, beta: float) -> Tensor:
        terms = choice_terms(Categorical(logits), TAKEN[:1], VALUES[:1], beta)
        return (terms.preference + terms.policy_entropy).mean()

    def with_drift(logits: Tensor, beta: float) -> Tensor:
        policy = Categorical(logits)
        kept = enumerated(logits, old, lambda taken: choice_terms(policy, taken, VALUES[:1], beta).drift)
        return choice_terms(policy, TAKEN[:1], VALUES[:1], beta).preference.mean() + kept

    close(gradient(lambda v: with_entropy(v, 0.0), torch.zeros(1, 3).double()), 0.0)
    close(gradient(lambda v: with_drift(v, 0.0), old), 0.0)
    for loss in (with_entropy, with_drift):
        assert gradient(lambda v: loss(v, 0.0), LOGITS[:1] + double([[1.0, 0.0, -1.0]])).norm() > 0.1  # noqa: B023
        logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.5)
        for _ in range(30):
            optimizer.zero_grad()
            loss(logits, 2000.0).backward()
            optimizer.step()
        assert torch.softmax(logits[0], 0)[0] > 0.99, "the first choice has the greatest value"


# ---- log Z


def test_log_z_by_sampling_is_that_of_quadrature() -> None:
    """Two heights of a hill over one action; for q = 0 log Z is log 2, the length of the range."""
    torch.manual_seed(0)
    policy = squashed(double([[0.2, -1.0], [-0.5, -0.5]]))
    centre, height = double([0.3, -0.6]), double([5.0, 40.0])

    def q(action: Tensor) -> Tensor:
        return -height * (action.squeeze(-1) - centre).square()

    grid = torch.linspace(-1, 1, 20001).double()
    exact = torch.trapezoid(torch.exp(BETA * q(grid.view(-1, 1, 1))), grid, dim=0).log()
    close(sampled_log_z(policy, q, BETA, 20000), exact, 0.03)
    close(sampled_log_z(policy, lambda a: 0.0 * a.squeeze(-1), BETA, 20000), math.log(2.0), 0.02)


def test_the_preference_keeps_log_z_with_respect_to_the_state() -> None:
    """Autograd = finite differences in the belief z through the critic, for choices and for actions; a value that all
    policies share moves no state."""
    torch.manual_seed(0)
    weights = torch.randn(2, 3).double()

    def values(z: Tensor) -> Tensor:
        return torch.tanh(z @ weights) + 3.0 * z.square().sum(-1, keepdim=True)

    def of_choices(z: Tensor) -> Tensor:
        return choice_terms(Categorical(LOGITS), TAKEN, values(z), BETA).preference.sum()

    def of_actions(z: Tensor, shared: float = 3.0) -> Tensor:
        def q(action: Tensor) -> Tensor:
            return -(action - torch.tanh(z)).square().sum(-1) + shared * z.square().sum(-1)

        torch.manual_seed(5)
        log_z = sampled_log_z(squashed(PARAMETERS), q, BETA, 64)
        return action_terms(squashed(PARAMETERS), 0 * PARAMETERS[:, :2], q, log_z, BETA).preference.sum()

    z = double([[0.4, -0.3], [0.1, 0.6]])
    close(gradient(of_choices, z), differences(of_choices, z), 1e-8)
    close(gradient(of_actions, z), differences(of_actions, z), 1e-8)
    close(gradient(of_actions, z), gradient(lambda z: of_actions(z, shared=0.0), z), 1e-9)
    assert gradient(of_actions, z).norm() > 0.1


# ---- the algorithm


def make(task: str, **options: Any) -> VFE:
    torch.manual_seed(0)
    config = preset(task, "vfe")
    config = replace(config, options=replace(config.options, **options), agent=replace(config.agent, hidden=16))
    return VFE(config, build_agent(config))


def make_batch(algorithm: VFE, rows: int = 64) -> Batch:
    torch.manual_seed(1)
    agent = algorithm.agent
    now, after = (
        Situation(torch.randn(rows, agent.model.size), torch.randn(rows, agent.observation_size)) for _ in "12"
    )
    choices = len(agent.config.choices)
    action = torch.randint(choices, (rows,)) if choices else 1.8 * torch.rand(rows, agent.action_size) - 0.9
    return Batch(now, action, 0.01 * torch.randn(rows), after, (torch.rand(rows) < 0.2).float())


TASKS = ("cartpole", "cartpole_push")


@pytest.mark.parametrize("task", TASKS)
def test_the_drift_alone_descends_the_cross_entropy_of_the_actions_taken(task: str) -> None:
    algorithm = make(task, preference=0.0, policy_entropy=0.0, drift=2.0)
    batch, parameters = make_batch(algorithm), list(algorithm.agent.policy.parameters())
    loss = -2.0 * algorithm.agent.distribution(batch.now.z).log_prob(batch.action).mean()
    expected = torch.autograd.grad(loss, parameters)
    algorithm.learn(batch)
    for parameter, gradient_ in zip(parameters, expected):
        torch.testing.assert_close(parameter.grad, gradient_, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("term", ["preference", "policy_entropy"])
def test_every_term_moves_the_policy_by_itself_and_none_moves_nothing_else(task: str, term: str) -> None:
    weights = {"preference": 0.0, "drift": 0.0, "policy_entropy": 0.0}
    for on in (True, False):
        algorithm = make(task, **weights | {term: float(on)})
        agent = algorithm.agent
        before = {n: v.clone() for n, v in agent.state_dict().items()}
        logs = algorithm.learn(make_batch(algorithm))
        moved = {n.split(".")[0] for n, v in agent.state_dict().items() if not torch.equal(v, before[n])}
        assert moved == ({"policy"} if on else set())
        assert set(logs) == {"critic_loss", "preference", "drift", "policy_entropy"}
        assert all(torch.isfinite(v) for v in logs.values())


@pytest.mark.parametrize("soft", [False, True])
def test_the_critics_learn_the_value_of_the_policy(soft: bool) -> None:
    """y = r + gamma (1 - terminated) (E_pi min q_target [+ H / beta]), of choices exactly."""
    algorithm = make("cartpole_push", soft_value=soft, beta=20.0)
    batch, agent, gamma = make_batch(algorithm), algorithm.agent, algorithm.config.gamma
    q = algorithm.critics.choices(batch.now)[:, torch.arange(64), batch.action]
    after = algorithm.targets.choices(batch.after)
    p = torch.softmax(agent.answer(batch.after.z), -1)
    entropy = -(p * p.log()).sum(-1) * (1 - gamma) / 20.0
    value = (p * torch.minimum(after[0], after[1])).sum(-1) + (entropy if soft else 0.0)
    target = batch.reward + gamma * (1 - batch.terminated) * value
    expected = 0.5 * ((q[0] - target).square().mean() + (q[1] - target).square().mean())
    torch.testing.assert_close(algorithm.learn(batch)["critic_loss"], expected.detach())


@pytest.mark.parametrize("task", TASKS)
def test_the_policy_finds_the_best_action_of_a_one_tick_world(task: str) -> None:
    """Reward -100 (a - z_0 / 2)^2 and the episode is over: the deployed action comes to z_0 / 2, or to its sign."""
    options = {"beta": 3.0, "drift": 0.0, "learning_rate": 3e-3, "critic_learning_rate": 3e-3}
    algorithm = make(task, **options)
    agent, gamma = algorithm.agent, algorithm.config.gamma
    for _ in range(200):
        z = torch.rand(128, agent.model.size) * 2 - 1
        s = Situation(z, z.repeat(1, 4)[:, : agent.observation_size])
        choices = len(agent.config.choices)
        action = torch.randint(choices, (128,)) if choices else 2 * torch.rand(128, 1) - 1
        reward = -(agent.command(action).squeeze(-1) - 0.5 * z[:, 0]).square() * (1 - gamma)
        algorithm.learn(Batch(s, action, reward, s, torch.ones(128)))
    z = torch.zeros(3, agent.model.size)
    z[:, 0] = torch.tensor([-0.8, 0.4, 0.8])
    best = z[:, 0].sign() if agent.config.choices else 0.5 * z[:, 0]
    torch.testing.assert_close(agent.act(z).squeeze(-1).detach(), best, rtol=0, atol=0.15)


def test_each_way_to_learn_the_model_is_an_option() -> None:
    unrolled = make("cartpole", perception=0.5).world_model
    assert isinstance(unrolled, FreeEnergyModel)
    assert vars(unrolled.weights) == {"perception": 0.5, "prediction": 1.0, "state_entropy": 1.0}
    assert isinstance(make("cartpole", model_learning="local").world_model, LocalModel)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta is -1.0, expected a number of at least 0"),
        ({"beta": 0.0, "soft_value": True}, "units of 1 / beta, and beta is 0"),
        ({"model_learning": "global"}, "model_learning is 'global', expected unrolled or local"),
        ({"model_learning": "local", "perception": 0.5}, "local learning has no weights of its terms"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        make("cartpole", **options)


@pytest.mark.parametrize(("task", "way"), [("cartpole", "unrolled"), ("cartpole_push", "local")])
def test_a_rollout_teaches_the_model_and_the_policy_and_every_term_is_logged(task: str, way: str) -> None:
    """The surprise (a) + (b) + (e) of its sensors falls by more than a nat a tick in a few passes."""
    config = preset(task, "vfe")
    assert isinstance(config.options, VFEOptions)
    options = replace(config.options, model_learning=way, learning_starts=64, gradient_steps=0.02)
    config = replace(
        config, options=options, num_envs=8, horizon=32, workers=1, overshoot=0, refine=(1,), model_learning_rate=3e-3,
        model_batch=16,
    )  # fmt: skip
    torch.manual_seed(0)
    algorithm = VFE(config, build_agent(config))
    collector = Collector(config, algorithm.agent)
    rollout = collector.collect(algorithm.explore)
    collector.close()
    before = [p.clone() for p in algorithm.agent.policy.parameters()]
    logs = algorithm.update(rollout)
    assert {"vfe/preference", "vfe/drift", "vfe/policy_entropy", "train/critic_loss"} <= logs.keys()
    assert any(not torch.equal(a, b) for a, b in zip(before, algorithm.agent.policy.parameters()))
    surprise = []
    for _ in range(8 if way == "local" else 30):
        logs = algorithm.world_model.update(rollout, 0.0)
        surprise.append(sum(logs[f"vfe/{n}"] for n in ("perception", "prediction", "state_entropy")))
    assert surprise[-1] < surprise[0] - 1.0
