"""The study of local learning: its two rules, its optimiser, its measures, and the command on a small scale."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import local_learning as command
from benchmarks import local_learning_study as study
from benchmarks.local_learning import Course, Options, chosen_rates, main
from benchmarks.local_learning_study import (
    BURN_IN,
    RULES,
    Adam,
    Filter,
    Stream,
    Tick,
    fly,
    forgetting,
    held_out_error,
    learn,
    recovery,
    side_by_side,
)
from runtime.errors import GanglionError
from training.local_learning import Gradients

torch.set_num_threads(1)


def settled(linear: bool) -> tuple[Filter, Tick]:
    """A filter in float64 with random weights, after a few ticks of a flight of three worlds."""
    filter = Filter(0).double()
    torch.manual_seed(1)
    for parameter in filter.model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.1)
    free = filter.model.observation.free
    assert free is not None
    if linear:
        torch.nn.init.zeros_(free.outer_weight)
    stream = fly(np.ones((6, 3)), [2])
    state = {name: value.double() for name, value in filter.start(3).items()}
    with torch.no_grad():
        for x, action in zip(stream.x.double(), stream.previous_action.double()):
            before = state
            prediction, state = filter.infer(before, action, x)
    return filter, Tick(before["z"], state["z"], action, x, prediction)


def gradients(rule: str, filter: Filter, tick: Tick) -> Gradients:
    with torch.no_grad():
        return RULES[rule](filter, tick)


def test_backprop_is_the_gradient_of_the_predictive_likelihood() -> None:
    filter, tick = settled(linear=False)
    model, jacobian = filter.model, tick.prediction.jacobian
    assert jacobian is not None
    spread = torch.linalg.inv(tick.prediction.prior.precision[:, 0])
    covariance = jacobian @ spread @ jacobian.mT + torch.diag((-model.observation_log_precision()).exp().detach())
    predicted = model.predict(model.drive(tick.z_previous, tick.action))
    likelihood = torch.distributions.MultivariateNormal(predicted, covariance).log_prob(tick.x)
    weights = {n: p for n, p in model.named_parameters() if n.startswith(("dynamics", "observation.free"))}
    expected = torch.autograd.grad(-likelihood.mean(), list(weights.values()))
    got = gradients("backprop", filter, tick)
    assert got.keys() == weights.keys() == {n.removeprefix("model.") for n in filter.weights()}
    for name, value in zip(weights, expected):
        assert value.abs().max() > 1e-4, name
        torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-10, msg=name)


def test_with_a_linear_observation_the_rules_differ_only_in_what_g_is_given() -> None:
    """F at its least over z is the predictive likelihood: f moves alike, g by the same error times z_t or times f."""
    filter, tick = settled(linear=True)
    local, backprop = (gradients(rule, filter, tick) for rule in RULES)
    for name in backprop:
        if name.startswith("dynamics") or name == "observation.free.outer_bias":
            torch.testing.assert_close(local[name], backprop[name], rtol=1e-6, atol=1e-8, msg=name)
    error = tick.x - filter.model.predict(tick.z)
    _, free = filter.model.observation.split(-filter.model.observation_log_precision().exp() * error)
    for got, inputs in ((local, tick.z), (backprop, tick.prediction.mean)):
        torch.testing.assert_close(got["observation.free.skip_weight"], free.mT @ inputs / 3, rtol=1e-6, atol=1e-8)
    assert (local["observation.free.skip_weight"] - backprop["observation.free.skip_weight"]).abs().max() > 1e-3


def test_adam_is_that_of_torch_with_a_rate_for_each_model() -> None:
    torch.manual_seed(0)
    start, slopes = torch.randn(2, 3, 4), torch.randn(5, 2, 3, 4)
    rates = (1e-2, 3e-1)
    ours = {"w": start.clone()}
    optimizer = Adam(ours, torch.tensor(rates))
    theirs = [row.clone() for row in start]
    references = [torch.optim.Adam([row], lr=rate) for row, rate in zip(theirs, rates)]
    for slope in slopes:
        optimizer.step({"w": slope})
        for row, gradient, reference in zip(theirs, slope, references):
            row.grad = gradient
            reference.step()
    torch.testing.assert_close(ours["w"], torch.stack(theirs))


def held_out(count: int = 2) -> Stream:
    return fly(np.ones((BURN_IN + 5, count)), [9])


def train(rule: str, seeds: list[int], rates: list[float], ticks: int, marks: list[int]) -> np.ndarray:
    def judge(skeleton: Filter, weights: Gradients) -> np.ndarray:
        return held_out_error(skeleton, weights, held_out()).mean(-1).numpy()

    stream = side_by_side([fly(np.ones((ticks, 1)), [seed]) for seed in seeds])
    return learn(rule, [Filter(seed) for seed in seeds], rates, stream, marks, judge, lambda done, total: None)


def test_both_rules_start_from_the_same_weights() -> None:
    """With rate zero every curve stays at the error of the start, to the last bit, whatever the rule."""
    local, backprop = (train(rule, [3], [0.0], 4, [1, 4]) for rule in RULES)
    untrained = held_out_error(Filter(3), {n: w[None] for n, w in Filter(3).weights().items()}, held_out()).mean()
    assert (local == backprop).all()
    assert (local == untrained.item()).all()
    assert train("local", [4], [0.0], 1, [1]) != local[0]


def test_a_seed_flies_one_stream() -> None:
    first, again, other = (fly(np.ones((5, 1)), [seed]) for seed in (0, 0, 1))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.previous_action, again.previous_action)
    assert not torch.equal(first.x, other.x)


def test_the_payload_changes_when_it_says() -> None:
    payload = np.ones((8, 2))
    changed = payload.copy()
    changed[5:, 1] = 0.3
    a, b = fly(payload, [0]).x, fly(changed, [0]).x
    assert torch.equal(a[:, 0], b[:, 0])
    assert torch.equal(a[:5, 1], b[:5, 1])
    assert not torch.equal(a[5:, 1], b[5:, 1])


@pytest.mark.parametrize("rule", RULES)
def test_models_side_by_side_learn_as_they_do_alone(rule: str) -> None:
    seeds, rates = [0, 1], [1e-3, 1e-4]
    together = train(rule, seeds, rates, 8, [2, 8])
    alone = np.concatenate([train(rule, [s], [r], 8, [2, 8]) for s, r in zip(seeds, rates)], 1)
    np.testing.assert_allclose(together, alone, rtol=1e-3)
    assert abs(together[1] - together[0]).min() > 1e-2  # far more than the tolerance


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_learns(rule: str) -> None:
    errors = train(rule, [0], [3e-4], 120, [1, 120])
    assert errors[1] < errors[0] - 1.0


def test_forgetting_and_recovery_by_hand() -> None:
    """Learned to 1.0, then 1.5 and 3.0 away from it; back at 1.2 = 1.0 + a tenth of 2.0 by the third mark."""
    marks = np.array([1, 2, 4])
    curve = np.array([[5.0, 2.0, 1.0], [1.1, 1.3, 1.5], [2.0, 2.5, 3.0], [2.0, 1.25, 1.2]])
    assert forgetting(curve).tolist() == [0.5, 2.0]
    early, never, nothing = curve.copy(), curve.copy(), curve.copy()
    early[3] = [2.0, 1.1, 2.0]
    never[3] = [2.0, 2.0, 1.5]
    nothing[2, 2] = 0.9
    assert recovery(np.stack([curve, early, never, nothing]), marks).tolist() == [4, 2, 4, 0]


def test_rates_are_chosen_on_the_tuning_seeds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TUNING_SEEDS", (1000,))
    errors = np.zeros((2, 3, 1, 5, 2))  # seeds, rates, phases, marks, payloads
    errors[0, :, 0, 2:, 0] = [[2.0, 2.0, 2.0], [3.0, 1.0, 1.0], [0.0, 4.0, 4.0]]
    errors[1, 0] = -100.0
    errors[0, 2, 0, :2] = -100.0
    assert chosen_rates({"batch 1": {"local": errors}}) == {"batch 1": {"local": 1}}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A study of seconds; how many models each training has had."""
    for name, value in {
        "RATES": (1e-4, 1e-3),
        "TUNING_SEEDS": (1000,),
        "_HELD_OUT": 1,
        "_HELD_OUT_TICKS": 1,
        "COURSES": {"batch 1": Course(1, (0, 1, 2, 0)), "batch 4": Course(4, (0,))},
    }.items():
        monkeypatch.setattr(command, name, value)
    for module in (command, study):
        monkeypatch.setattr(module, "BURN_IN", 1)
    trained: list[int] = []

    def counted(rule: str, filters: Any, *rest: Any) -> np.ndarray:
        trained.append(len(filters))
        return learn(rule, filters, *rest)

    monkeypatch.setattr(command, "learn", counted)
    return trained


def test_the_command_writes_a_report_and_goes_on_where_it_was(small: list[int], tmp_path: Path) -> None:
    written = main(Options(seeds=(0,), ticks=4, output=tmp_path))
    assert [p.name for p in written] == ["results.json", "tables.md", "local_learning.png"]
    assert small == [4] * 4  # both seeds with both rates, under both rules in both courses
    assert written[2].read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.tmp"))
    text = written[1].read_text()
    for title in ("Learning rates", "Batch size", "forgotten after phase 3", "ticks to recover"):
        assert title in text

    assert main(Options(seeds=(0,), ticks=4, output=tmp_path))[1].read_text() == text
    assert len(small) == 4
    main(Options(seeds=(0, 1), ticks=4, output=tmp_path))
    assert small[4:] == [2] * 4  # the new seed alone
    main(Options(seeds=(0, 1), ticks=5, output=tmp_path))
    assert small[8:] == [6] * 4  # other settings


def test_marks_are_updates_of_a_phase() -> None:
    for course in command.COURSES.values():
        marks = course.marks(640)
        assert marks[-1] == 640 // course.batch
        assert marks[0] >= 1
        assert all(early < late for early, late in pairwise(marks))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(ticks=63), "ticks is 63, expected at least 64"),
        (Options(seeds=()), "expected some"),
        (Options(seeds=(1000,)), "kept for tuning"),
    ],
)
def test_settings_that_make_no_study_are_refused(options: Options, message: str) -> None:
    with pytest.raises(GanglionError, match=message):
        main(options)
