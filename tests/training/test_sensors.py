"""The belief about the sensors: frozen readings, the gate, and that it cannot latch (math: section 1, trial 4)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.training.models import tied_agent
from training.agent.agent import Agent, Belief
from training.agent.sensors import (
    AGES,
    BELIEVED,
    DISTRUSTED,
    FAST,
    FROZEN,
    HELD,
    OFF,
    REPEATS,
    SLOW,
    SLOW_STD,
    SensorBelief,
    matched,
)

N = 5
Q, R = 0.04, 0.09  # of `tied_agent`


def calibrated(spike: float = 4.0, drift: float = 4.5, repeats: float = 2.0) -> SensorBelief:
    checks = SensorBelief(N).double()
    for name, bound in (("spike", spike), ("drift", drift), ("repeats", repeats)):
        checks.get_buffer(name).fill_(bound)
    return checks


def row(*values: float) -> Tensor:
    return torch.tensor([values]).double()


ONES, ZEROS = torch.ones(1, N).double(), torch.zeros(1, N).double()


def frozen_after(checks: SensorBelief, readings: list[float], fresh: list[float], mask: list[float]) -> list[bool]:
    """Whether channel 0 is believed frozen, tick by tick."""
    carried, verdicts = checks.initial().double(), []
    for value, new, seen in zip(readings, fresh, mask):
        x, arrived, believed = torch.rand(1, N).double(), ONES.clone(), ONES.clone()
        x[0, 0], arrived[0, 0], believed[0, 0] = value, new, seen
        _, verdict, carried = checks(x, believed, arrived, ZEROS, ONES, carried)
        assert (verdict[0, 1:] == BELIEVED).all()
        verdicts.append(verdict[0, 0].item() == FROZEN)
    return verdicts


def test_two_exact_repeats_are_frozen_until_the_next_different_reading() -> None:
    readings = [0.3, 0.5, 0.5, 0.5, 0.5, 0.6, 0.6, 0.7]
    frozen = [False, False, False, True, True, False, False, False]
    assert frozen_after(calibrated(), readings, [1.0] * 8, [1.0] * 8) == frozen


def test_stale_repeats_do_not_count() -> None:
    """A sensor at a third of the rate is seen again and again with the same reading; only new ones count."""
    readings, fresh = [0.5] * 9, [1.0, 0.0, 0.0] * 3
    assert frozen_after(calibrated(), readings, fresh, [1.0] * 9) == [False] * 6 + [True] * 3
    assert not any(frozen_after(calibrated(), readings, [1.0] + [0.0] * 8, [1.0] * 9))


def test_readings_that_are_not_believed_neither_count_nor_clear() -> None:
    readings, mask = [0.5, 0.5, 0.9, 0.5, 0.5], [1.0, 1.0, 0.0, 1.0, 1.0]
    assert frozen_after(calibrated(), readings, [1.0] * 5, mask) == [False, False, False, True, True]


def test_the_first_reading_repeats_nothing() -> None:
    assert frozen_after(calibrated(repeats=1.0), [0.0, 0.0], [1.0] * 2, [1.0] * 2) == [False, True]


bits = st.lists(st.sampled_from([0.0, 1.0]), min_size=N, max_size=N)
ticks = st.tuples(st.lists(st.floats(-1e6, 1e6) | st.floats(-9, 9), min_size=N, max_size=N), bits, bits)


@given(st.lists(ticks, min_size=1, max_size=12), st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_at_most_one_channel_is_gated_and_only_a_seen_one(
    series: list[tuple[list[float], list[float], list[float]]], spike: float, drift: float
) -> None:
    checks = calibrated(spike, drift)
    carried = checks.initial().double()
    for values, mask, fresh in series:
        seen, gated = row(*mask), carried[0, HELD].sign().tolist()
        believed, verdict, carried = checks(row(*values), seen, row(*fresh), row(*values), ONES, carried)
        assert ((believed == 0) | (believed == 1)).all()
        assert (believed <= seen).all()
        assert int((verdict == DISTRUSTED).sum()) <= 1
        assert ((verdict == BELIEVED) | (seen > 0)).all()
        assert carried.isfinite().all()
        assert carried.shape == (1, 5, N)
        others = [m * (f != FROZEN) * (1 - g) for m, f, g in zip(mask, verdict[0].tolist(), gated)]
        loud = sum(o * (abs(v) > 2.0) for o, v in zip(others, values))
        if 2 * loud > sum(others):
            assert (verdict != DISTRUSTED).all(), "most channels are loud: the belief is wrong, not a sensor"


def gate(
    checks: SensorBelief, values: Tensor, carried: Tensor | None = None, noise: Tensor = ONES
) -> tuple[list[float], Tensor]:
    carried = checks.initial().double() if carried is None else carried
    _, verdict, carried = checks(torch.rand(1, N).double(), ONES, ONES, values, noise, carried)
    return verdict[0].tolist(), carried


def test_a_spike_is_gated_at_its_bound() -> None:
    checks = calibrated(spike=4.0, drift=OFF)
    assert gate(checks, row(0.5, -4.1, 1.0, 0.0, 0.0))[0] == [0, DISTRUSTED, 0, 0, 0]
    assert gate(checks, row(0.5, -3.9, 1.0, 0.0, 0.0))[0] == [0] * N
    assert gate(checks, row(5.0, -4.1, 1.0, 0.0, 0.0))[0] == [DISTRUSTED, 0, 0, 0, 0], "the worst of two"


def test_a_gated_channel_that_is_loud_has_no_say_in_whether_the_belief_is_wrong() -> None:
    checks = calibrated(spike=4.0, drift=OFF)
    _, carried = gate(checks, row(0.0, 5.0, 0.0, 0.0, 0.0))
    assert gate(checks, row(2.5, 5.0, 2.5, 0.0, 0.0), carried)[0] == [0, DISTRUSTED, 0, 0, 0], "two of four others"
    assert gate(checks, row(2.5, 5.0, 2.5, 2.5, 0.0), carried)[0] == [0] * N, "three of four others"


def test_a_gated_channel_is_readmitted_below_half_the_bound() -> None:
    checks = calibrated(spike=4.0, drift=OFF)
    _, carried = gate(checks, row(0.0, 5.0, 0.0, 0.0, 0.0))
    assert gate(checks, row(0.0, 2.1, 0.0, 0.0, 0.0), carried)[0] == [0, DISTRUSTED, 0, 0, 0]
    assert gate(checks, row(0.0, 1.9, 0.0, 0.0, 0.0), carried)[0] == [0] * N


def test_a_small_constant_bias_is_found_by_its_slow_average() -> None:
    """slow_t = b (1 - 0.95^t), of standard deviation sqrt(0.05 / 1.95); the bound of 4.5 of them is 0.721 = 0.6 b at
    t = ceil(log(1 - 0.721 / 1.2) / log 0.95) = 18. It is then held for log 32 / -log 0.95 = 67.6 ticks."""
    checks, bias = calibrated(spike=4.0, drift=4.5), 1.2
    bound = 4.5 * math.sqrt(0.05 / 1.95)
    expected = math.ceil(math.log(1 - bound / bias) / math.log(0.95))
    assert expected == 18
    carried, tick = None, 0
    verdict = [0.0] * N
    while not any(verdict):
        tick += 1
        verdict, carried = gate(checks, row(0.0, 0.0, bias, 0.0, 0.0), carried)
    assert carried is not None
    assert verdict == [0, 0, DISTRUSTED, 0, 0]
    assert tick == expected
    assert (carried[0, [FAST, SLOW]] == 0).all(), "what the wrong belief has left there tells nothing"
    assert carried[0, HELD].tolist() == [0, 0, 32, 0, 0]
    while any(verdict):
        tick += 1
        verdict, carried = gate(checks, ZEROS, carried)
    assert tick - expected == 2 + math.floor(math.log(32) / -math.log(0.95))


def test_a_held_channel_is_held_also_while_it_gives_no_readings() -> None:
    checks, carried = calibrated(spike=4.0, drift=4.5), None
    verdict = [0.0] * N
    while not any(verdict):
        verdict, carried = gate(checks, row(0.0, 0.0, 1.2, 0.0, 0.0), carried)
    assert carried is not None
    missing = ONES.clone()
    missing[0, 2] = 0.0
    for _ in range(10):
        believed, unseen, carried = checks(torch.rand(1, N).double(), missing, ONES, ZEROS, ONES, carried)
        assert (unseen == BELIEVED).all()
        assert torch.equal(believed, missing)
    assert gate(checks, ZEROS, carried)[0] == [0, 0, DISTRUSTED, 0, 0]


def test_doubt_shortens_the_hold_by_its_square() -> None:
    """With half of the variance in doubt from the blame on, 32 / 4 are left: log 8 / -log 0.95 = 40.5 ticks."""
    checks, carried = calibrated(spike=4.0, drift=4.5), None
    verdict, held = [0.0] * N, 0
    while not any(verdict):
        verdict, carried = gate(checks, row(0.0, 0.0, 1.2, 0.0, 0.0), carried)
    while any(verdict):
        held += 1
        verdict, carried = gate(checks, ZEROS, carried, 0.5 * ONES)
    assert held == 2 + math.floor(math.log(8) / -math.log(0.95))


def test_a_channel_that_nothing_else_observes_is_readmitted_although_the_belief_has_left_it() -> None:
    """Its slow average of 1.2 is 7.5 deviations of white noise, above half its bound of 4.5; with a share of 0.1 of
    noise it is 1.2 / sqrt(1 - 0.1 (1 - 0.05 / 1.95)) = 1.26 deviations."""
    checks = calibrated(spike=4.0, drift=4.5)
    before = checks.initial().double()
    before[0, HELD, 2], before[0, SLOW, 2] = 0.1, 1.2
    for noise, expected in ((1.0, DISTRUSTED), (0.1, BELIEVED)):
        verdict, carried = gate(checks, row(0.0, 0.0, 1.2, 0.0, 0.0), before, noise * ONES)
        assert verdict == [0, 0, expected, 0, 0]
        assert bool((carried[0, [FAST, SLOW]] == 0).all()) == (expected == BELIEVED), "readmitted, it begins anew"
    sole = checks.resemblance(before[:, FAST : SLOW + 1], row(0, 0, 1, 0, 0), 0.1 * ONES)
    assert sole[0, :, 2].tolist() == pytest.approx([1.2 / math.sqrt(1 - 0.1 * (1 - 0.05 / 1.95))] * len(AGES))


def test_a_bias_that_stays_outlives_the_hold() -> None:
    checks, carried = calibrated(spike=4.0, drift=4.5), None
    verdicts = []
    for _ in range(300):
        verdict, carried = gate(checks, row(0.0, 0.0, 1.2, 0.0, 0.0), carried)
        verdicts.append(verdict)
    assert verdicts[18:] == [[0, 0, DISTRUSTED, 0, 0]] * 282


def test_the_channel_whose_signature_the_averages_show_is_blamed() -> None:
    """A bias of channel 0 shows in channel 1 alone, and one of channel 1 in both."""
    checks, bound = calibrated(spike=OFF), 4.5 * math.sqrt(0.05 / 1.95)
    own = torch.eye(N)
    own[:2, :2] = torch.tensor([[0.0, 0.6], [1.0, 0.8]])
    checks.signature.copy_(torch.cat((torch.zeros(N, N), own / SLOW_STD)).repeat(1, len(AGES)))
    carried = checks.initial().double()

    def after(first: float, second: float, gated: int | None = None) -> list[float]:
        before = carried.clone()
        before[0, SLOW, :2] = torch.tensor([first, second]) / 0.95
        if gated is not None:
            before[0, HELD, gated] = 0.1
        return gate(checks, ZEROS, before)[0]

    assert after(0.0, 1.5 * bound) == [DISTRUSTED, 0, 0, 0, 0], "(1.5^2 - (0.8 * 1.5)^2) 4.5^2 / 2 = 8.2 nats"
    assert after(0.0, 1.1 * bound) == [0] * N, "(1.1^2 - (0.8 * 1.1)^2) 4.5^2 / 2 = 4.4 nats: either may be to blame"
    assert after(1.5 * bound, 1.2 * bound) == [0, DISTRUSTED, 0, 0, 0], "1.2 against 0.9 + 0.96"
    assert after(0.0, 0.9 * bound) == [0] * N
    assert after(0.6 * bound, 0.9 * bound, gated=0) == [DISTRUSTED, 0, 0, 0, 0], "twice its own 0.6 against 0.72"
    assert after(0.4 * bound, 0.4 * bound, gated=0) == [0] * N


# variances and covariance of the averages of white innovations: a b / (1 - (1 - a) (1 - b))
TOGETHER = torch.tensor([[0.04 / 0.36, 0.01 / 0.24], [0.01 / 0.24, 0.0025 / 0.0975]]).double()


def test_a_matched_pattern_is_the_inverse_covariance_times_the_averages() -> None:
    """S^-1 m / sqrt(m' S^-1 m): no other linear function of the averages has a larger mean for its variance."""
    torch.manual_seed(0)
    moved = torch.randn(2, 3, 4).double()
    inverse = torch.linalg.inv(TOGETHER)
    length = torch.einsum("adh,ab,bdh->h", moved, inverse, moved).sqrt()
    torch.testing.assert_close(matched(moved), torch.einsum("ab,bdh->adh", inverse, moved) / length)
    assert (matched(torch.zeros(2, 3, 1)) == 0).all()


def test_the_resemblance_to_a_pattern_is_of_unit_variance_on_white_innovations() -> None:
    """A bound is in its own standard deviations: it is beyond one of them in 31.7 % of the ticks."""
    torch.manual_seed(0)
    checks, count = calibrated(spike=OFF, drift=OFF), 4000
    patterns = torch.randn(2, N, len(AGES) * N).double()
    checks.signature.copy_(matched(patterns).flatten(0, 1))
    averages, still = torch.zeros(count, 2, N).double(), torch.zeros(count, N).double()
    for _ in range(300):
        averages = checks.averaged(averages, torch.randn(count, N).double().clamp(-9, 9))
    beyond = (checks.resemblance(averages, still, still) > 1.0).double().mean((0, 1, 2)).item()
    assert beyond == pytest.approx(0.3173, abs=0.01)
    torch.testing.assert_close(torch.cov(averages[..., 0].T), TOGETHER, atol=0.01, rtol=0.05)


def test_what_comes_is_told_from_what_goes() -> None:
    """Slow averages that are alike: channel 2's own fault fades from its innovation, one of channel 1 grows there."""
    checks, series = (
        calibrated(spike=OFF, drift=4.5),
        {2: 9.0 * 0.8 ** torch.arange(10.0), 1: 0.75 * torch.arange(10.0)},
    )
    patterns, before = torch.zeros(2, N, N).double(), {}
    for channel, innovations in series.items():
        averages = torch.zeros(1, 2, N).double()
        for value in innovations:
            before[channel] = averages
            averages = checks.averaged(averages, value * row(0, 0, 1, 0, 0))
        patterns[:, :, channel] = averages[0]
    slow = patterns[1, 2]
    assert slow[1].item() == pytest.approx(slow[2].item(), rel=0.01)
    checks.signature.copy_(matched(patterns).flatten(0, 1).repeat(1, len(AGES)))
    for channel, innovations in series.items():
        carried = checks.initial().double()
        carried[:, FAST : SLOW + 1] = before[channel]
        verdict, _ = gate(checks, innovations[-1] * row(0, 0, 1, 0, 0), carried)
        assert [i for i, v in enumerate(verdict) if v] == [channel]


@pytest.mark.parametrize(
    ("average", "bound", "blamed"), [(4.0, 7.0, [1]), (6.0, 7.0, [0]), (6.0, 7.5, [])], ids=("own", "other", "nobody")
)
def test_a_spike_that_another_channel_s_bias_explains_far_better_is_its_doing(
    average: float, bound: float, blamed: list[int]
) -> None:
    """A bias of channel 0 shows in channel 1 alone, as 0.6 of it; the averages of 1 are at 4 or at 6 deviations.

    Then the bias of 0 explains (1 - 0.6^2) 4^2 / 2 = 5.1 or (1 - 0.6^2) 6^2 / 2 = 11.5 nats more than one of 1, and the
    spike of 4.5 adds 0.05 * 4.5 / 0.16 = 1.4 deviations: 9.3 or 17.5 nats, less or more than 12. The drift of 0 is then
    at 7.4 deviations; below its own bound it is not blamed, whatever channel 1 does.
    """
    checks, own = calibrated(spike=4.0, drift=bound), torch.eye(N)
    own[:2, :2] = torch.tensor([[0.8, 0.8], [1.0, 0.6]])
    checks.signature.copy_(torch.cat((torch.zeros(N, N), own / SLOW_STD)).repeat(1, len(AGES)))
    carried = checks.initial().double()
    carried[0, SLOW, 1] = average * SLOW_STD / 0.95
    verdict, _ = gate(checks, row(0.0, 4.5, 0.0, 0.0, 0.0), carried)
    assert [i for i, v in enumerate(verdict) if v] == blamed


def test_the_gate_passes_on_to_a_channel_that_is_blamed_more_firmly_than_the_gated_one_is_held() -> None:
    checks = calibrated(spike=OFF, drift=4.5)
    carried = checks.initial().double()
    carried[0, SLOW, 0] = 20.0 * SLOW_STD / 0.95  # 4.4 times its bound
    for held, expected in ((6.0, 3), (4.0, 0)):
        carried[0, HELD] = torch.tensor([0.0, 0.0, 0.0, held, 0.0])
        verdict, after = gate(checks, ZEROS, carried)
        assert [i for i, v in enumerate(verdict) if v] == [expected]
    assert after[0, HELD].tolist() == [32.0, 0.0, 0.0, 0.0, 0.0]


def test_every_age_has_its_own_bound() -> None:
    checks = calibrated(spike=OFF, drift=10.0)
    checks.drift[2, 3] = 5.0
    before = checks.initial().double()
    for channel, expected in ((3, [0, 0, 0, DISTRUSTED, 0]), (4, [0] * N)):
        carried = before.clone()
        carried[0, SLOW, channel] = 6.0 * SLOW_STD / 0.95
        assert gate(checks, ZEROS, carried)[0] == expected


def test_one_wild_reading_moves_the_averages_by_ten_deviations_only() -> None:
    _, carried = gate(calibrated(spike=OFF), row(1e5, 0.0, 0.0, 0.0, 0.0))
    assert carried[0, FAST, 0].item() == pytest.approx(0.2 * 10.0)
    assert carried[0, SLOW, 0].item() == pytest.approx(0.05 * 10.0)


def run(agent: Agent, readings: Tensor, z: Tensor | None = None, fresh: bool = True) -> list[Belief]:
    """Beliefs while all channels give `readings` (T, D)."""
    state = agent.initial() if z is None else agent.initial() | {"z": z}
    beliefs, seen, still = [], torch.ones(1, readings.shape[1]).double(), torch.zeros(1, 1).double()
    with torch.no_grad():
        for x in readings:
            one = torch.ones(1, dtype=torch.int64)
            beliefs.append(agent.infer(x[None], seen, still, state, one, seen if fresh else None))
            state = beliefs[-1].state
    return beliefs


def checked(drift: float = OFF) -> Agent:
    agent = tied_agent(N, noise=Q, noise_x=R)
    agent.sensors.spike.fill_(4.0)
    agent.sensors.drift.fill_(drift)
    return agent


def test_all_channels_loud_gate_nothing_and_the_belief_recovers_as_the_kalman_filter() -> None:
    """The belief is shocked by 8: every tick keeps the share r / (P + q + r) of the error, in closed form."""
    shock, variance, error = 8.0, 1.0, 8.0
    beliefs = run(checked(), torch.zeros(30, N).double(), torch.full((1, N), shock).double())
    for belief in beliefs:
        predicted = variance + Q
        innovation = -error / math.sqrt(predicted + R)
        assert belief.start.innovation[0].tolist() == pytest.approx([innovation] * N, rel=1e-6)
        assert (belief.start.verdict == BELIEVED).all()
        error *= R / (predicted + R)
        variance = predicted * R / (predicted + R)
        assert belief.z[0].tolist() == pytest.approx([error] * N, rel=1e-5, abs=1e-12)
    assert abs(beliefs[0].start.innovation[0, 0].item()) > 4.0, "each channel alone would have been gated"
    assert abs(error) < 1e-3


def test_a_shocked_belief_recovers_also_with_the_slow_average() -> None:
    """After the shock the averages remember it, and may gate one channel at a time; in the end all are believed."""
    torch.manual_seed(0)
    noise = math.sqrt(R) * torch.randn(400, N).double()
    shocked = run(checked(4.5), noise, torch.full((1, N), 15.0).double())
    assert (shocked[0].start.verdict == BELIEVED).all()
    calm = run(tied_agent(N), noise, torch.zeros(1, N).double())
    assert (shocked[-1].z - calm[-1].z).abs().max() < 1e-6
    assert all((b.start.verdict == BELIEVED).all() for b in shocked[-200:])


def test_a_biased_channel_is_gated_reported_and_readmitted_after_the_fault() -> None:
    torch.manual_seed(1)
    settle, wrong, after = 100, 20, 60
    readings = math.sqrt(R) * torch.randn(settle + wrong + after, N).double()
    readings[settle : settle + wrong, 2] += 6.0
    agent = checked()
    agent.sensors.spike.fill_(6.0)
    beliefs = run(agent, readings)
    verdicts = torch.cat([b.start.verdict for b in beliefs])
    assert (verdicts[:settle] == BELIEVED).all()
    assert (verdicts[settle : settle + 5, 2] == DISTRUSTED).all()
    assert (verdicts[settle + wrong :, 2] == BELIEVED).all()
    assert (verdicts[:, [0, 1, 3, 4]] == BELIEVED).all()
    gated = beliefs[settle].start
    assert gated.mask[0].tolist() == [1, 1, 0, 1, 1]
    assert gated.innovation[0, 2] > 6.0, "what is not believed is still reported"
    assert gated.precision_x[0, 2] == 0.0
    assert abs(beliefs[settle].z[0, 2].item()) < 1.0


def test_the_gate_opens_of_itself_as_the_doubt_about_the_latent_grows() -> None:
    """Nothing else sees the latent, so P grows by q per tick; a jump of 5 that stays is believed again once
    5^2 / (P + n q + q + r) < (4 / 2)^2, that is n > (25 / 4 - P - q - r) / q."""
    settled = 200
    readings = torch.zeros(settled + 250, N).double()
    readings[settled:, 1] = 5.0
    beliefs = run(checked(), readings)
    variance = beliefs[settled - 1].state["P"][0, 0, 1, 1].item()
    assert variance == pytest.approx((-Q + math.sqrt(Q * Q + 4 * Q * R)) / 2, rel=1e-5)  # the Riccati fixed point
    expected = math.ceil((25 / 4 - variance - Q - R) / Q)
    gated = [b.start.verdict[0, 1].item() == DISTRUSTED for b in beliefs[settled:]]
    assert gated.index(False) == expected
    assert not any(gated[expected:])
    assert beliefs[-1].z[0, 1].item() == pytest.approx(5.0, abs=1e-3)


def test_a_frozen_channel_is_masked_and_does_not_gate() -> None:
    agent = checked(4.5)
    agent.sensors.repeats.fill_(2.0)
    torch.manual_seed(0)
    readings = math.sqrt(R) * torch.randn(40, N).double()
    readings[10:30, 3] = readings[10, 3]
    verdicts = torch.cat([b.start.verdict for b in run(agent, readings)])
    assert (verdicts[12:30, 3] == FROZEN).all()
    assert (verdicts[:12, 3] == BELIEVED).all()
    assert (verdicts[30:, 3] == BELIEVED).all()
    assert (verdicts[:, [0, 1, 2, 4]] == BELIEVED).all()


def test_checks_are_off_until_calibrated_and_in_training() -> None:
    torch.manual_seed(0)
    wild = 1e3 * torch.randn(20, 1).double().expand(20, N)
    assert all((b.start.verdict == BELIEVED).all() for b in run(tied_agent(N), wild))
    frozen = torch.ones(50, N).double()
    assert all((b.start.verdict == BELIEVED).all() for b in run(tied_agent(N), frozen))
    agent = checked(0.1)
    before = agent.initial()["sensors"]
    for belief in run(agent, wild, fresh=False):
        assert torch.equal(belief.state["sensors"], before)
        assert (belief.start.mask == 1).all()
        assert (belief.start.verdict == BELIEVED).all()


def test_what_is_carried_is_named_by_its_rows() -> None:
    checks = calibrated(spike=1.0)
    verdict, carried = gate(checks, row(0.0, 0.0, 0.0, 9.0, 0.0))
    verdict, carried = gate(checks, row(0.0, 0.0, 0.0, 9.0, 0.0), carried)
    assert carried[0, HELD].tolist() == [0, 0, 0, 0.5, 0]
    assert verdict == [0, 0, 0, DISTRUSTED, 0]
    assert (carried[0, REPEATS] == 0).all()
