"""Stochastic value gradients SVG(n): the n-step return in the agent's own dynamics, and a critic (000, 002).

    J(w) = E[ sum_{i<n} gamma^i r(s_i, a_i) + gamma^n Q(s_n, a_n) ]
    a_i = d(s_i; w) + sigma(s_i; w) eps_i   (before a tanh),   s_{i+1} = f(s_i, a_i) + L xi_i
    critic: Q(s, a) <- r + gamma (1 - terminated) Q'(s', a'),   a' ~ pi(. | s')

n = 0 is SVG(0), sigma = 0 then DPG; a large n without the critic is SVG(infinity). s_0 and xi_0 are those of a recorded
transition, later xi_i those of others, so that imagination has the noise of the real world (noise inference).

`--estimator score` takes the score function where there is no derivative: of choices, where actions are discrete, and
else of the next state, as in DPMB-SF.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.errors import GanglionError
from training.agent.agent import Agent
from training.agent.distributions import Categorical
from training.agent.situation import Situation
from training.algorithms.model_based import ModelBased, ModelBasedOptions
from training.algorithms.off_policy import OffPolicyOptions, adam, bellman_target
from training.config import TrainConfig
from training.derivatives import likelihood_ratio
from training.gradient_step import descend
from training.model_gradients import Act, model_return
from training.q_networks import QNetworks, polyak
from training.ranges import Natural, Positive, UpToOne
from training.replay_buffer import Batch

ESTIMATORS = ("reparameterised", "score")


@dataclass(frozen=True)
class SVGOptions(ModelBasedOptions, OffPolicyOptions):
    """Settings of SVG."""

    depth: Natural = 2
    """Imagined ticks n before the critic takes over; 0 needs no model."""
    critic: bool = True
    """Value what follows the last imagined tick. Without it, and with a large depth, this is SVG(infinity)."""
    estimator: str = "reparameterised"
    """reparameterised: through actions and noise, a discrete action as a Gumbel-softmax. score: by the log probability
    of discrete actions, or of next states where actions are continuous."""
    gradient_steps: Positive = 0.5
    """Gradient steps per environment step."""
    critic_learning_rate: Positive = 1e-3
    """Adam's step size for the critic."""
    tau: UpToOne = 0.02
    """Share of the learned weights that the target network takes on in each gradient step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator not in ESTIMATORS:
            raise GanglionError(f"there is no estimator '{self.estimator}'; expected one of {', '.join(ESTIMATORS)}")
        if self.estimator == "score" and not self.critic:
            raise GanglionError("the estimator 'score' needs the critic as its baseline; leave out --no-critic")
        if self.depth == 0 and not self.critic:
            raise GanglionError("without the critic depth is 0, expected at least 1 imagined tick, for example 40")


class SVG(ModelBased[SVGOptions]):
    """A stochastic policy climbs imagined returns; the critic learns from recorded transitions alone."""

    name = "svg"
    summary = "stochastic value gradients through n imagined ticks and a critic"
    options_class = SVGOptions
    continuous_head = "squashed"

    def __init__(self, config: TrainConfig, agent: Agent) -> None:
        super().__init__(config, agent)
        self.critic, self.critic_target = self.make_critics(1)
        self.critic_optimizer = adam(self.critic.parameters(), self.options.critic_learning_rate)
        self.parts |= {
            "critic": self.critic,
            "critic_target": self.critic_target,
            "critic_optimizer": self.critic_optimizer,
        }
        self._by_score = self.options.estimator == "score"

    def try_out(self, situation: Situation) -> Tensor:
        return self.agent.distribution(situation.z).sample()

    def act(self, now: Situation) -> Act:
        """A sampled command (B, A), differentiable or with its likelihood ratio."""
        policy = self.agent.distribution(now.z)
        if not isinstance(policy, Categorical):
            return Act(policy.sample())
        if not self._by_score:
            return Act(self.choose(policy) @ self.agent.choices)
        choice = policy.sample()
        return Act(self.agent.choices[choice], likelihood_ratio(policy.log_prob(choice)))

    def value(self, now: Situation, critic: QNetworks) -> Tensor:
        """E_{a ~ pi} Q(s, a) (B,), by one sample, or exactly where actions are discrete."""
        policy = self.agent.distribution(now.z)
        if isinstance(policy, Categorical):
            return (policy.log_probs.exp() * critic.choices(now)[0]).sum(-1)
        return critic.q(now, policy.sample())[0]

    def steps(self, batch: Batch) -> Callable[[Situation, Tensor, int], tuple[Situation, Tensor, Tensor]]:
        """The model with the noise of the recorded transitions: each its own at first, then that of any other."""
        recorded = self.dynamics.recorded_noise(batch, self.agent.command(batch.action))
        scored = self._by_score and not self.agent.config.choices

        def step(now: Situation, command: Tensor, i: int) -> tuple[Situation, Tensor, Tensor]:
            noise = recorded if i == 0 else recorded[torch.randperm(len(recorded))]
            if not scored:
                return self.dynamics.step(now, command, noise)
            (after, reward, goes_on), ratio = self.dynamics.sampled(now, command, noise)
            expected = self.dynamics.step(now, command).now  # its value lowers the variance of the score function
            ahead = self.config.gamma * goes_on * self.value(expected, self.critic).detach()
            return after, reward + (1.0 - ratio) * ahead, goes_on * ratio

        return step

    def objective(self, batch: Batch) -> Tensor:
        """J (B,) from the first state of every transition, to be differentiated in the policy."""
        o = self.options
        if o.depth == 0:
            return self.value(batch.now, self.critic)
        value = (lambda now: self.value(now, self.critic)) if o.critic else None
        return model_return(batch.now, self.act, self.steps(batch), o.depth, self.config.gamma, value, value)

    def learn_policy(self, batch: Batch) -> dict[str, Tensor]:
        logs = {}
        if self.options.critic:
            with torch.no_grad():
                target = bellman_target(batch, self.config.gamma, self.value(batch.after, self.critic_target))
            loss = (self.q(batch) - target).square().mean()
            descend(self.critic_optimizer, loss)
            logs["critic_loss"] = loss.detach()
        objective = self.objective(batch)
        self.ascend(objective)
        polyak(self.critic_target, self.critic, self.options.tau)
        return logs | {"actor_loss": -objective.detach().mean()}

    def q(self, batch: Batch) -> Tensor:
        """Q(s, a) (B,) of the recorded actions."""
        if self.agent.config.choices:
            return self.critic.choices(batch.now)[0].gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        return self.critic.q(batch.now, batch.action)[0]
