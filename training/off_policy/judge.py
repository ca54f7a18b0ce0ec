"""Bundles judged by logged episodes: which estimators apply, what they say, and whether they can be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.contract import Action
from runtime.controller import Controller
from runtime.errors import ContractError, GanglionError
from runtime.sample import NEVER, Sample
from training.off_policy import estimators
from training.off_policy.collect import normal_log_density
from training.off_policy.estimators import Estimate
from training.off_policy.fitted_q import NetworkQ, Transitions
from training.off_policy.log import Log

FEWEST_EFFECTIVE = 20.0
"""Fewer effective episodes than this support no answer."""
_DRAWS = 4  # of the target's action, for its mean feature, where it is stochastic
_FAR = 3.0  # standard deviations of the logged commands
_LARGEST_SHARE = 0.05  # of the target's commands that may be so far from the logged ones
_LARGEST_REST = 0.05  # of the discount that may be left at the end of the longest episode
_SEEN_STD = 0.02  # of the commands' range: less spread than this is no exploration


@dataclass(frozen=True)
class Verdict:
    """Of one policy."""

    name: str
    estimates: dict[str, Estimate]
    warnings: tuple[str, ...]
    overlap: float
    """Share of the ticks in which the target's command is within three standard deviations of the logged ones."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; what is infinite is None."""
        plain = {n: {k: v if np.isfinite(v) else None for k, v in asdict(e).items()} for n, e in self.estimates.items()}
        return {"name": self.name, "estimates": plain, "warnings": list(self.warnings), "overlap": self.overlap}


def judge(
    log: Log,
    bundles: Mapping[str, Bundle],
    gamma: float = 0.99,
    noise: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    fit_steps: int = 4000,
) -> dict[str, Any]:
    """Discounted return that each bundle would earn, by every estimator that applies.

    A bundle's command is a function of what it saw, so by itself it has no probability: then fitted Q-evaluation is
    used alone. With `noise`, the bundle is judged as if Gaussian noise of `noise` times the action's scale were added
    to its commands, as `ganglion collect` adds it, and the importance weighted and doubly robust estimators apply
    where the log knows the probability of its own commands. `fit_steps` are those of fitted Q's optimiser.

    Returns `{"episodes", "ticks", "gamma", "noise", "logged", "policies"}`: the mean return that was logged, and a
    verdict for each bundle. Raises GanglionError if gamma or noise are out of range, and ContractError if a bundle is
    not of the robot that was logged.
    """
    if not 0 < gamma < 1 or not 0 <= noise < np.inf:
        raise GanglionError(f"got gamma {gamma:g} and noise {noise:g}, expected 0 < gamma < 1 and noise 0 or more")
    for name, bundle in bundles.items():
        _match(log, bundle, name)
    verdicts = []
    for done, (name, bundle) in enumerate(bundles.items()):
        if progress is not None:
            progress(done, len(bundles))
        verdicts.append(_judge(log, name, bundle, gamma, noise, fit_steps))
    returns = estimators.discounted_return(log.padded(log.reward), gamma)
    return {
        "episodes": len(log.begins),
        "ticks": len(log.episode),
        "gamma": gamma,
        "noise": noise,
        "logged": float(returns.mean()),
        "policies": [v.to_json() for v in verdicts],
    }


def _match(log: Log, bundle: Bundle, name: str) -> None:
    contract = bundle.contract
    missing = [c for c in contract.layout.channels if c not in log.channels]
    if missing or tuple(log.joints) != contract.action.joints or float(log.rate_hz) != contract.rate_hz:
        raise ContractError(
            f"{name} is not of the robot that was logged: it observes {list(contract.layout.channels)} and commands "
            f"{list(contract.action.joints)} at {contract.rate_hz:g} Hz, the log has {log.channels.tolist()} and "
            f"{log.joints.tolist()} at {float(log.rate_hz):g} Hz"
        )


def target_commands(log: Log, bundle: Bundle) -> np.ndarray:
    """SI commands (N, A) of the bundle in every logged tick, each after the logged past."""
    controller = Controller(bundle)
    contract, limits = controller.contract, controller.limits
    columns = [log.channels.tolist().index(c) for c in contract.layout.channels]
    observation = log.observation[:, columns]
    stamp_ns = np.where(np.isnan(observation), NEVER, log.stamp_ns[:, columns])
    begins, tick = set(log.begins.tolist()), log.rows[1]
    sample, commands = Sample(contract), np.zeros_like(log.action)
    previous = np.zeros(controller.layout.joints)
    for i in range(len(log.episode)):
        if i in begins:
            controller.reset()
        sample.values[:], sample.stamp_ns[:] = observation[i], stamp_ns[i]
        command = controller.tick(sample, round(tick[i] * 1e9 / contract.rate_hz))
        commands[i] = command.values
        previous = limits.limit(log.action[i], command.values if i in begins else previous)
        controller.follow(previous)
    return commands


def _judge(log: Log, name: str, bundle: Bundle, gamma: float, noise: float, fit_steps: int) -> Verdict:
    commands = target_commands(log, bundle)
    scale = np.array(bundle.contract.action.scale)
    tick = log.rows[1]
    state = _states(log)
    data = _transitions(log, state, commands, noise * scale, bundle.contract.action)
    fit = NetworkQ(data, gamma, fit_steps)
    found = {"fitted Q": fit.estimate()}
    warnings: list[str] = []
    known = np.isfinite(log.log_probability).all()
    if noise > 0 and known:
        log_ratio = log.padded(normal_log_density(log.action - commands, noise * scale) - log.log_probability)
        found |= _weighted(log, log_ratio, fit, gamma)
        best = max(e.effective for n, e in found.items() if n != "fitted Q")
        if best < FEWEST_EFFECTIVE:
            warnings.append(
                f"the importance weights leave {best:.1f} effective episodes of {len(log.begins)}, fewer than "
                f"{FEWEST_EFFECTIVE:g}: believe none but fitted Q; log policies closer to this one, or shorter episodes"
            )
    elif noise > 0:
        warnings.append(
            "the log does not know how likely its commands were: importance weights do not apply; log log_probability"
        )
    overlap, explored = _overlap(log, state, commands, bundle.contract.action)
    if not explored:
        warnings.append(
            "the logged commands hardly vary where the robot was in the same state: nothing tells what others would "
            "have earned; log commands with noise ('ganglion collect --noise')"
        )
    elif 1 - overlap > _LARGEST_SHARE:
        warnings.append(
            f"{1 - overlap:.0%} of this policy's commands are more than {_FAR:g} standard deviations from the logged "
            "ones: fitted Q extrapolates there; log more noise, or policies closer to this one"
        )
    rest = gamma ** (int(tick.max()) + 1)
    if rest > _LARGEST_REST and not log.terminated.all():
        warnings.append(
            f"the episodes end with {rest:.0%} of the discount left: importance weights count only what was earned "
            "until then, fitted Q also what would follow; choose a smaller gamma or log longer episodes"
        )
    return Verdict(name, found, tuple(warnings), overlap)


def _weighted(log: Log, log_ratio: np.ndarray, fit: NetworkQ, gamma: float) -> dict[str, Estimate]:
    reward = log.padded(log.reward)
    q, v = map(log.padded, fit.cross_fitted())
    return {
        "importance sampling": estimators.importance_sampling(reward, log_ratio, gamma),
        "weighted": estimators.importance_sampling(reward, log_ratio, gamma, weighted=True),
        "per decision": estimators.per_decision(reward, log_ratio, gamma),
        "weighted per decision": estimators.per_decision(reward, log_ratio, gamma, weighted=True),
        "doubly robust": estimators.doubly_robust(reward, log_ratio, q, v, gamma),
        "weighted doubly robust": estimators.doubly_robust(reward, log_ratio, q, v, gamma, weighted=True),
    }


def _states(log: Log) -> np.ndarray:
    """Standardised readings (N, D); the mean where there is none."""
    mean, std = np.nanmean(log.observation, axis=0), np.nanstd(log.observation, axis=0)
    return np.nan_to_num((log.observation - mean) / np.maximum(std, 1e-9))


def _transitions(log: Log, state: np.ndarray, commands: np.ndarray, std: np.ndarray, limits: Action) -> Transitions:
    """Standardised states with the logged commands and with the target's, all within the limits: the rest is lost."""
    logged = np.clip(log.action, limits.low, limits.high)
    mean, spread = logged.mean(0), np.maximum(logged.std(0), 1e-9)

    def phi(action: np.ndarray) -> np.ndarray:
        executed = np.clip(action, limits.low, limits.high)
        return np.concatenate((state, (executed - mean) / spread), axis=1)

    draws = [commands]
    if std.any():
        rng = np.random.default_rng(0)
        half = [std * rng.standard_normal(commands.shape) for _ in range(_DRAWS // 2)]
        draws = [commands + sign * n for n in half for sign in (1, -1)]
    target = np.stack([phi(d) for d in draws], axis=1)
    return Transitions(phi(log.action), target, log.reward, log.terminated, log.rows[0])


def _overlap(log: Log, state: np.ndarray, commands: np.ndarray, limits: Action) -> tuple[float, bool]:
    """Share of the target's commands near the logged ones in like states, and whether those vary there at all."""
    ones = np.concatenate((np.ones((len(state), 1)), state), axis=1)
    upper = np.triu_indices(ones.shape[1])
    phi = ones[:, upper[0]] * ones[:, upper[1]]  # a quadratic model of what was commanded where
    gram = phi.T @ phi
    ridge = 1e-6 * gram.trace() / len(gram) * np.eye(len(gram))
    usual = phi @ np.linalg.solve(gram + ridge, phi.T @ log.action)
    std = (log.action - usual).std(0)
    near = (np.abs(commands - usual) <= _FAR * np.maximum(std, 1e-12)).all(1)
    return float(near.mean()), bool((std > _SEEN_STD * (np.array(limits.high) - np.array(limits.low))).all())
