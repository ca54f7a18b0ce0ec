"""The variational agent: its policy terms by hand and against the algorithms they contain, in float64."""

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
from tests.training.algorithms.exact import close, differences, double, gradient
from training.agent.distributions import Categorical, Gaussian, SquashedGaussian
from training.agent.situation import Situation
from training.algorithms.ppo import clipped_objective
from training.algorithms.sac import soft_value
from training.algorithms.vfe import VFE, VFEOptions, action_terms, choice_terms, sampled_log_z
from training.checkpoint import build_agent
from training.free_energy import FreeEnergyModel, LocalModel
from training.preferences import boltzmann_preference
from training.presets import preset
from training.replay_buffer import Batch
from training.rollout import Collector

torch.set_num_threads(1)

BETA = 1.7


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
