"""Bundles judged by logs of a real simulation, from the command line as far as that goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ganglion
from runtime.bundle import Bundle
from runtime.errors import GanglionError
from runtime.files import shipped_bundle
from training.off_policy import judge as judging
from training.off_policy.collect import collect, normal_log_density
from training.off_policy.fitted_q import NetworkQ, Transitions
from training.off_policy.judge import judge, target_commands
from training.off_policy.log import Log, join_logs, load_log

FEW = 150
"""Steps of a fit that need not be good."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(shipped_bundle("cartpole"))


@pytest.fixture(scope="module")
def log(bundle: Bundle) -> Log:
    return collect(bundle, noise=0.5, episodes=8, task="cartpole")


def weakened(bundle: Bundle, gain: float) -> Bundle:
    action = replace(bundle.contract.action, scale=(gain * bundle.contract.action.scale[0],))
    return replace(bundle, contract=replace(bundle.contract, action=action))


def test_the_command_after_the_logged_past_is_the_one_that_noise_was_added_to(bundle: Bundle, log: Log) -> None:
    error = log.action - target_commands(log, bundle)
    std = np.array([0.5 * 10.0])
    np.testing.assert_allclose(normal_log_density(error, std), log.log_probability, atol=1e-9)
    assert error.std() == pytest.approx(5.0, rel=0.05)


def test_the_policy_that_was_logged_has_weight_one_everywhere(bundle: Bundle, log: Log) -> None:
    found = judge(log, {"same": bundle}, gamma=0.98, noise=0.5, fit_steps=4 * FEW)
    policy = found["policies"][0]
    for name in ("importance sampling", "weighted", "per decision", "weighted per decision"):
        assert policy["estimates"][name]["value"] == pytest.approx(found["logged"], rel=1e-9)
        assert policy["estimates"][name]["effective"] == pytest.approx(8.0)
    for name in ("fitted Q", "doubly robust", "weighted doubly robust"):
        assert policy["estimates"][name]["value"] == pytest.approx(found["logged"], rel=0.1)
    assert policy["overlap"] > 0.99
    assert [w[:44] for w in policy["warnings"]] == ["the importance weights leave 8.0 effective e"]


def test_a_policy_without_noise_is_judged_by_fitted_q_alone(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "NetworkQ", lambda data, gamma, steps: NetworkQ(data, gamma, FEW))
    path = tmp_path / "log.npz"
    log.save(path)
    again = load_log(path)
    assert all(np.array_equal(v, getattr(again, n)) for n, v in vars(log).items())
    arguments = ["ope", str(path), str(shipped_bundle("cartpole")), "--json", str(tmp_path / "ope.json")]
    assert ganglion.main(arguments) == 0
    assert "fitted Q" in capsys.readouterr().out
    result = json.loads((tmp_path / "ope.json").read_text())
    assert list(result["policies"][0]["estimates"]) == ["fitted Q"]


def test_logs_that_tell_nothing_are_warned_of(bundle: Bundle, log: Log) -> None:
    silent = replace(log, action=target_commands(log, bundle), log_probability=np.full(len(log.episode), np.nan))
    warnings = judge(silent, {"weak": weakened(bundle, 0.1)}, 0.999, 0.5, fit_steps=FEW)["policies"][0]["warnings"]
    assert [w.split(":")[0] for w in warnings] == [
        "the log does not know how likely its commands were",
        "the logged commands hardly vary where the robot was in the same state",
        "the episodes end with 61% of the discount left",
    ]
    timid = replace(log, action=0.8 * target_commands(log, bundle) + 0.2 * log.action)
    (warning,) = judge(timid, {"wild": weakened(bundle, 3.0)}, fit_steps=FEW)["policies"][0]["warnings"]
    assert "of this policy's commands are more than 3 standard deviations from the logged ones" in warning


def test_a_network_finds_the_value_of_a_process_that_is_known() -> None:
    """One state, reward a of the action a ~ U(-1, 1), the target always takes 0.5: V = 0.5 / (1 - gamma) = 2.5."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (2000, 1))
    episode = np.repeat(np.arange(40), 50)
    data = Transitions(action, np.full((2000, 1, 1), 0.5), action[:, 0], np.zeros(2000, bool), episode)
    found = NetworkQ(data, gamma=0.8, steps=500)
    assert found.estimate().value == pytest.approx(2.5, abs=0.1)
    q, v = found.cross_fitted()
    np.testing.assert_allclose(q, action[:, 0] + 0.8 * 2.5, atol=0.2)
    np.testing.assert_allclose(v, 2.5, atol=0.2)


def test_the_ranking_of_policies_is_found(bundle: Bundle) -> None:
    """Weak gains let the pole fall; the logged policies are another two."""
    log = join_logs([collect(b, n, 10, seed=s) for b, n, s in ((bundle, 1.0, 10), (weakened(bundle, 0.15), 1.0, 30))])
    policies = {str(g): weakened(bundle, g) for g in (1.0, 0.2, 0.05)}
    values = [p["estimates"]["fitted Q"]["value"] for p in judge(log, policies, fit_steps=600)["policies"]]
    assert values == sorted(values, reverse=True)


def test_what_is_no_log_is_refused(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    path.write_bytes(b"PK")
    with pytest.raises(GanglionError, match="is no log"):
        load_log(path)
    for change, message in (
        ({"reward": None}, "reward are missing"),
        ({"reward": log.reward[:-1]}, "reward has shape"),
        ({"reward": log.reward * np.nan}, "reward is not finite"),
        ({"terminated": log.reward}, "terminated is float64, expected booleans"),
        ({"episode": np.roll(log.episode, 3)}, "do not follow each other"),
        ({"channels": np.array([object()])}, "is no log"),
    ):
        entries = {n: v for n, v in (vars(log) | change).items() if v is not None}
        np.savez(path, **entries)
        with pytest.raises(GanglionError, match=message):
            load_log(path)
    with pytest.raises(GanglionError, match="differ in their rate_hz"):
        join_logs([log, replace(log, rate_hz=np.array(50.0))])


def test_a_bundle_of_another_robot_is_refused(log: Log) -> None:
    with pytest.raises(GanglionError, match="is not of the robot that was logged"):
        judge(log, {"arm": Bundle.load(shipped_bundle("kuka_reach"))})
