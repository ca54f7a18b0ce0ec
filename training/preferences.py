"""Preference over policies: the action terms of the agent's free energy, for a finite set of policies.

An ideal agent's action is a mixture p(a|s) = E_{p(π|s)}[π(a|s)] with p(π|s) = exp(β V_π(s) − log Z(s)). Its surprisal
has the variational bound KL(q‖p) + E_q[−log π(a|s)], whose parts are preference (c), policy drift (d) and policy
entropy (f). The last axis of every tensor runs over the policies π; the axes before it are a batch and broadcast.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.errors import ContractError


class Preference(NamedTuple):
    """log p(π|s) (..., P) and log Z(s) (...)."""

    log_probability: Tensor
    log_normalizer: Tensor


def boltzmann_preference(values: Tensor, beta: float) -> Preference:
    """p(π|s) = exp(β V_π(s) − log Z(s)), log Z = log Σ_π exp(β V_π), for values V_π(s) (..., P).

    β is in units of 1 / value: 0 is indifference, β → ∞ the best policy alone, shared equally by ties. Raises
    ContractError unless β is finite and at least 0.
    """
    if not 0 <= beta < math.inf:
        raise ContractError(
            f"beta is {beta}; expected a finite number >= 0 (a large one approaches the best policy alone)"
        )
    energy = beta * values
    return Preference(torch.log_softmax(energy, dim=-1), torch.logsumexp(energy, dim=-1))


def preference_energy(values: Tensor, beta: float, log_posterior: Tensor) -> Tensor:
    """Term (c): E_q[−log p(π|s)] = −β E_q V_π(s) + log Z(s), (...), for values (..., P) and log q(π|s) (..., P).

    Keeps log Z(s), so the gradient with respect to the state is −β (E_q ∇V_π − E_p ∇V_π): what raises the value of all
    policies alike is no preference among them, and without log Z the state would drift towards it. Raises ContractError
    for β as `boltzmann_preference`, and when q is no distribution over the same policies.
    """
    _check("log_posterior", log_posterior, values.shape[-1])
    preference = boltzmann_preference(values, beta)
    return preference.log_normalizer - beta * (log_posterior.exp() * values).sum(dim=-1)


def mixture_surprisal(log_likelihood: Tensor, log_prior: Tensor) -> Tensor:
    """−log E_p[π(a)], (...), for log π(a) (..., P) and log p(π) (..., P).

    Raises ContractError when p is no distribution over the same policies.
    """
    _check("log_prior", log_prior, log_likelihood.shape[-1])
    return -torch.logsumexp(log_prior + log_likelihood, dim=-1)


def mixture_bound(log_likelihood: Tensor, log_prior: Tensor, log_posterior: Tensor) -> Tensor:
    """KL(q‖p) + E_q[−log π(a)] ≥ −log E_p[π(a)], (...), with equality at q = `policy_posterior`.

    Takes log π(a), log p(π) and log q(π), each (..., P); −inf means never. The bound is infinite where q allows a
    policy that p or the action rules out. Raises ContractError when p or q is no distribution over the same policies.
    """
    policies = log_likelihood.shape[-1]
    _check("log_prior", log_prior, policies)
    _check("log_posterior", log_posterior, policies)
    surprise = log_posterior - log_prior - log_likelihood
    # 0 log 0 = 0: a policy that q never takes costs nothing, whatever the others say about it.
    posterior = log_posterior.exp()
    return (posterior * surprise.where(posterior > 0, 0.0)).sum(dim=-1)


def policy_posterior(log_likelihood: Tensor, log_prior: Tensor) -> Tensor:
    """The optimal log q(π) = log p(π) + log π(a) − log E_p[π(a)], (..., P), which makes the bound tight.

    Raises ContractError when p is no distribution or no policy of it takes the action.
    """
    surprisal = mixture_surprisal(log_likelihood, log_prior)
    if not (surprisal < math.inf).all():
        raise ContractError("no policy of the prior takes the action; expected one with p(π) π(a) > 0")
    return log_prior + log_likelihood + surprisal.unsqueeze(-1)


def _check(name: str, log_probability: Tensor, policies: int) -> None:
    if log_probability.shape[-1] != policies:
        raise ContractError(f"{name} has {log_probability.shape[-1]} policies; expected {policies} on the last axis")
    total = torch.logsumexp(log_probability.detach(), dim=-1)
    if not (total.abs() <= math.sqrt(torch.finfo(total.dtype).eps)).all():
        raise ContractError(f"{name} is not normalised; apply torch.log_softmax over the last axis")
