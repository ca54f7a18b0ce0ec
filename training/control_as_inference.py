"""Control as inference on tabular decision processes: messages, soft and hard value iteration.

A trajectory s_0, a_0, s_1, ... of T ticks is observed to be optimal at every tick, p(O_t | s, a) ∝ exp(r(s, a) / α):

    p(τ | O) ∝ p(s_0) Π_t p(a_t|s_t) exp(r(s_t, a_t) / α) p(s_{t+1}|s_t, a_t).

The temperature α has the reward's unit and divides the reward, so values are α times log messages, Q = α log β(s, a)
and V = α log β(s). The action prior p(a|s) is normalised and enters as log p(a|s):

    V(s) = α log Σ_a p(a|s) exp(Q(s, a) / α),    π(a|s) = p(a|s) exp((Q(s, a) − V(s)) / α),

which is exp((Q̃ − V) / α) with Q̃ = Q + α log p(a|s). A uniform prior over A actions therefore gives the values of
maximum entropy less α log A a tick. Two backups Q = r + B(V) are in use, equal when the dynamics are deterministic:

    inference_backup  B = α log E exp(V(s') / α)    the posterior above; it bends the dynamics too and so seeks risk
    control_backup    B = E V(s')                   the best policy for E Σ_t [r − α log π/p] under the true dynamics

α → 0 turns the control backup into hard value iteration. It turns the inference backup into the hope for the best
successor, max_s' V(s') where p(s'|s, a) > 0, which is hard value iteration for deterministic dynamics alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.errors import ContractError


@dataclass(frozen=True)
class TabularMDP:
    """Reward r(s, a) (S, A), transition p(s'|s, a) (S, A, S) and action prior p(a|s) (S, A), of one float dtype.

    Raises ContractError when shapes or dtypes do not fit, a reward is not finite or a row is no distribution.
    """

    reward: Tensor
    transition: Tensor
    action_prior: Tensor

    def __post_init__(self) -> None:
        shapes = tuple(tuple(t.shape) for t in (self.reward, self.transition, self.action_prior))
        pair = shapes[0]
        if len(pair) != 2 or 0 in pair or shapes[1:] != ((*pair, pair[0]), pair):
            raise ContractError(
                f"reward, transition and action prior have shapes {shapes}; expected (S, A), (S, A, S) and (S, A)"
            )
        dtypes = {t.dtype for t in (self.reward, self.transition, self.action_prior)}
        if len(dtypes) > 1 or not self.reward.is_floating_point():
            raise ContractError(
                f"the tables have dtypes {', '.join(sorted(map(str, dtypes)))}; convert all to one float dtype"
            )
        if not self.reward.isfinite().all():
            raise ContractError(
                "a reward is not finite; expected finite numbers, forbid an action by an action prior of 0"
            )
        _check_rows("transition", self.transition)
        _check_rows("action prior", self.action_prior)


class Values(NamedTuple):
    """Action values q (..., S, A) and state values v (..., S), in the reward's unit."""

    q: Tensor
    v: Tensor


class BackwardMessages(NamedTuple):
    """Logarithms of β_t(s, a) (T, S, A) and β_t(s) (T, S): p(O_t..O_{T−1} | s, a) and p(O_t..O_{T−1} | s)."""

    log_state_action: Tensor
    log_state: Tensor


Backup = Callable[[Tensor, Tensor, float], Tensor]
"""(values (S,), transition (S, A, S), temperature) to the successor's worth (S, A)."""


def control_backup(v: Tensor, transition: Tensor, temperature: float) -> Tensor:
    """E V(s'): the agent chooses actions, not luck. The temperature does not appear."""
    return transition @ v


def inference_backup(v: Tensor, transition: Tensor, temperature: float) -> Tensor:
    """α log E exp(V(s') / α) ≥ E V(s'): the backup of the posterior, which assumes that luck is on its side."""
    return temperature * torch.logsumexp(transition.log() + v / temperature, dim=-1)


def backward_messages(mdp: TabularMDP, horizon: int, temperature: float) -> BackwardMessages:
    """β_t(s, a) = exp(r / α) E β_{t+1}(s'), β_t(s) = E_{p(a|s)} β_t(s, a), with β_T(s) = 1, for t = 0..T−1.

    Raises ContractError unless horizon ≥ 1 and temperature > 0.
    """
    _check_temperature(temperature)
    log_prior, log_transition = mdp.action_prior.log(), mdp.transition.log()

    def step(log_state: Tensor) -> tuple[Tensor, Tensor]:
        pair = mdp.reward / temperature + torch.logsumexp(log_transition + log_state, dim=-1)
        return pair, torch.logsumexp(log_prior + pair, dim=-1)

    return BackwardMessages(*_backwards(step, mdp.reward.new_zeros(len(mdp.reward)), horizon))


def forward_messages(mdp: TabularMDP, initial: Tensor, horizon: int, temperature: float) -> Tensor:
    """Logarithm of α_t(s) = p(s_t = s, O_0..O_{t−1}), (T, S), from p(s_0) = initial (S,).

    α_{t+1}(s') = Σ_{s,a} α_t(s) p(a|s) exp(r(s, a) / α) p(s'|s, a). Raises ContractError unless horizon ≥ 1,
    temperature > 0 and initial is a distribution over the states in the tables' dtype.
    """
    _check_temperature(temperature)
    _check_horizon(horizon)
    states = len(mdp.reward)
    if initial.shape != (states,) or initial.dtype != mdp.reward.dtype:
        raise ContractError(
            f"initial has shape {tuple(initial.shape)} and {initial.dtype}; expected ({states},) and {mdp.reward.dtype}"
        )
    _check_rows("initial", initial)
    log_weight = (mdp.action_prior.log() + mdp.reward / temperature).unsqueeze(-1) + mdp.transition.log()
    log_kernel = torch.logsumexp(log_weight, dim=1)
    messages = [initial.log()]
    for _ in range(horizon - 1):
        messages.append(torch.logsumexp(messages[-1].unsqueeze(-1) + log_kernel, dim=0))
    return torch.stack(messages)


def smoothed_states(log_forward: Tensor, log_backward: Tensor) -> Tensor:
    """p(s_t | O) ∝ α_t(s) β_t(s), (T, S), from the logarithms of both messages (T, S)."""
    return torch.softmax(log_forward + log_backward, dim=-1)


def posterior_policy(mdp: TabularMDP, messages: BackwardMessages) -> Tensor:
    """p(a_t | s_t, O) = p(a|s) β_t(s, a) / β_t(s), (T, S, A)."""
    return torch.exp(mdp.action_prior.log() + messages.log_state_action - messages.log_state.unsqueeze(-1))


def soft_policy(mdp: TabularMDP, values: Values, temperature: float) -> Tensor:
    """π(a|s) = p(a|s) exp((Q − V) / α), (..., S, A), from soft values of the same temperature."""
    _check_temperature(temperature)
    # The prior stays in the exponent: a forbidden action may have Q far above V, and 0 · exp(large) is not a number.
    return torch.exp(mdp.action_prior.log() + (values.q - values.v.unsqueeze(-1)) / temperature)


def soft_value_iteration(mdp: TabularMDP, horizon: int, temperature: float, backup: Backup) -> Values:
    """Q_t = r + B(V_{t+1}), V_t = α log Σ_a p(a|s) exp(Q_t / α), V_T = 0: q (T, S, A) and v (T, S).

    Raises ContractError unless horizon ≥ 1 and temperature > 0.
    """
    step = _soft_step(mdp, temperature, 1.0, backup)
    return Values(*_backwards(step, mdp.reward.new_zeros(len(mdp.reward)), horizon))


def discounted_soft_value_iteration(
    mdp: TabularMDP, discount: float, temperature: float, backup: Backup, tolerance: float
) -> Values:
    """The fixed point of Q = r + γ B(V), V = α log Σ_a p(a|s) exp(Q / α): q (S, A) and v (S,), within the tolerance.

    Both backups make a γ-contraction in the largest norm, but with γ < 1 the inference backup is no longer the exact
    posterior of a trajectory. Raises ContractError unless 0 ≤ discount < 1, temperature > 0 and tolerance > 0, and when
    the tolerance is below the dtype's rounding.
    """
    return _fixed_point(_soft_step(mdp, temperature, discount, backup), mdp, discount, tolerance)


def hard_value_iteration(mdp: TabularMDP, horizon: int) -> Values:
    """Q_t = r + E V_{t+1}, V_t = max_a Q_t where p(a|s) > 0, V_T = 0: q (T, S, A) and v (T, S).

    Raises ContractError unless horizon ≥ 1.
    """
    return Values(*_backwards(_hard_step(mdp, 1.0), mdp.reward.new_zeros(len(mdp.reward)), horizon))


def discounted_hard_value_iteration(mdp: TabularMDP, discount: float, tolerance: float) -> Values:
    """The fixed point of Q = r + γ E V, V = max_a Q where p(a|s) > 0: q (S, A) and v (S,), within the tolerance.

    Raises ContractError unless 0 ≤ discount < 1 and tolerance > 0, and when the tolerance is below rounding.
    """
    return _fixed_point(_hard_step(mdp, discount), mdp, discount, tolerance)


_Step = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From the next tick's table over states (S,) to this tick's over state-actions (S, A) and states (S,)."""


def _soft_step(mdp: TabularMDP, temperature: float, discount: float, backup: Backup) -> _Step:
    _check_temperature(temperature)
    log_prior = mdp.action_prior.log()

    def step(v: Tensor) -> tuple[Tensor, Tensor]:
        q = mdp.reward + discount * backup(v, mdp.transition, temperature)
        return q, temperature * torch.logsumexp(log_prior + q / temperature, dim=-1)

    return step


def _hard_step(mdp: TabularMDP, discount: float) -> _Step:
    forbidden = mdp.action_prior == 0

    def step(v: Tensor) -> tuple[Tensor, Tensor]:
        q = mdp.reward + discount * mdp.transition @ v
        return q, q.masked_fill(forbidden, -math.inf).amax(dim=-1)

    return step


def _backwards(step: _Step, last: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    _check_horizon(horizon)
    ticks: list[tuple[Tensor, Tensor]] = []
    for _ in range(horizon):
        ticks.append(step(last))
        last = ticks[-1][1]
    pairs, states = zip(*reversed(ticks))
    return torch.stack(pairs), torch.stack(states)


def _fixed_point(step: _Step, mdp: TabularMDP, discount: float, tolerance: float) -> Values:
    """Iterate a γ-contraction from zero until |V_k − V*| ≤ γ / (1 − γ) |V_k − V_{k−1}| is within the tolerance."""
    if not (0 <= discount < 1 and 0 < tolerance < math.inf):
        raise ContractError(
            f"discount is {discount} and tolerance {tolerance}; expected 0 <= discount < 1 and a tolerance > 0"
        )
    v = mdp.reward.new_zeros(len(mdp.reward))
    allowed = tolerance * (1 - discount)
    bound = math.inf
    while bound > allowed / 2:
        q, following = step(v)
        change = float((following - v).abs().amax())
        rounding = torch.finfo(v.dtype).eps * float(q.abs().amax())
        v = following
        if max(discount * change, rounding) <= allowed:
            return Values(q, v)
        # But for rounding, the next change is at most γ times any earlier one.
        bound = discount * min(bound, change)
    raise ContractError(
        f"value iteration cannot come within {tolerance}, which is below the rounding of {v.dtype}; "
        "raise the tolerance or use torch.float64"
    )


def _check_rows(name: str, table: Tensor) -> None:
    slack = math.sqrt(torch.finfo(table.dtype).eps)
    if not ((table >= 0).all() and ((table.sum(dim=-1) - 1).abs() <= slack).all()):
        raise ContractError(
            f"a row of {name} is no distribution; expected numbers >= 0 that sum to 1 over the last axis, as exactly "
            f"as {table.dtype} allows"
        )


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ContractError(
            f"temperature is {temperature}; expected a finite number > 0 (hard value iteration is the limit)"
        )


def _check_horizon(horizon: int) -> None:
    if horizon < 1:
        raise ContractError(f"horizon is {horizon}; expected at least 1 tick")
