from __future__ import annotations

import numpy as np
import pytest

from benchmarks.refinement_study.cartpole import (
    BODY,
    KICK_CHANCE,
    KICK_STD,
    LAYOUT,
    LIMIT_N,
    NOISE,
    OBSERVATIONS,
    PUSH_DECAY,
    PUSH_STD_N,
    TICK_S,
    Body,
    SensorCartPole,
    linearise,
    regulator,
)
from benchmarks.refinement_study.faults import FAULTS, GROUPS, MASKED, NOMINAL, UNDETECTED
from benchmarks.refinement_study.oracle import Oracle
from runtime.errors import ContractError
from training.augment import Augmentation, SensorDropout

X, LIDAR, TACHOMETER, ANGLE, GYRO, AXIAL, TANGENTIAL, MOTOR, REFERENCE = range(9)


def energy(body: Body, state: np.ndarray) -> float:
    """Kinetic and potential energy from the velocities of the cart, of the pole's centre and about that centre."""
    _, v, theta, omega, _ = state
    l = body.half_length_m  # noqa: E741
    across, up = v + l * omega * np.cos(theta), -l * omega * np.sin(theta)
    spin = body.pole_kg * (2 * l) ** 2 / 12 * omega**2
    kinetic = (body.cart_kg * v**2 + body.pole_kg * (across**2 + up**2) + spin) / 2
    return float(kinetic + body.pole_kg * 9.81 * l * np.cos(theta))


def world(count: int = 4, seed: int = 0, payload: float = 1.0) -> SensorCartPole:
    return SensorCartPole(count, np.random.default_rng(seed), payload)


# The body


def test_pushing_the_cart_at_rest_worked_by_hand() -> None:
    """Upright the pole adds a quarter of its mass to the cart and turns at -3/(4 l) of the cart's acceleration."""
    cart, pole = BODY.accelerations(np.zeros(5), np.array(1.125))
    np.testing.assert_allclose([cart, pole], [1.0, -1.5], atol=1e-12)
    reading = BODY.sense(np.zeros(5), np.array(1.125))
    np.testing.assert_allclose(reading[[AXIAL, TANGENTIAL]], [9.81, 1.0 - 0.4 * 1.5], atol=1e-12)
    cart, _ = BODY.accelerations(np.array([0, 0, 0, 0, 2.0]), np.array(-0.375), 1.5)
    np.testing.assert_allclose(cart, 1.0, atol=1e-12)


def test_energy_is_conserved_without_friction() -> None:
    body = Body(cart_friction=0.0, pole_friction=0.0)
    state = np.array([0.0, 0.3, 1.0, 0.5, 0.0])
    before = energy(body, state)
    for _ in range(1000):
        state = body.advance(state, np.array(0.0), np.array(0.0))
        assert abs(energy(body, state) - before) < 1e-5
    assert abs(state[0]) > 0.1


def test_friction_and_force_account_for_the_change_of_energy() -> None:
    body = Body(cart_friction=0.3, pole_friction=0.02)
    states = [np.array([0.0, 0.3, 0.5, 0.5, 2.0])]
    for _ in range(100):
        states.append(body.advance(states[-1], np.array(2.0), np.array(0.4)))
    _, v, _, omega, force = np.transpose(states)
    power = (force + 0.4) * v - 0.3 * v**2 - 0.02 * omega**2
    work = TICK_S * (power.sum() - (power[0] + power[-1]) / 2)
    np.testing.assert_allclose(energy(body, states[-1]) - energy(body, states[0]), work, rtol=1e-3)


def test_motor_follows_with_a_first_order_lag() -> None:
    state = np.zeros(5)
    for _ in range(6):
        state = BODY.advance(state, np.array(10.0), np.array(0.0))
    np.testing.assert_allclose(state[4], 10 * (1 - np.exp(-0.06 / 0.03)), rtol=1e-4)


def test_accelerometer_feels_the_motion_of_its_place() -> None:
    """Second difference of the place 0.4 m up the pole, with gravity, in the pole's frame."""
    states = [np.array([0.0, 0.5, 0.4, -1.0, 3.0])]
    for _ in range(2):
        states.append(BODY.advance(states[-1], np.array(3.0), np.array(0.7), 1.5))
    x, _, theta, _, _ = np.transpose(states)
    place = np.stack([x + 0.4 * np.sin(theta), 0.4 * np.cos(theta)])
    felt = (place[:, 0] - 2 * place[:, 1] + place[:, 2]) / TICK_S**2 + np.array([0.0, 9.81])
    sin, cos = np.sin(theta[1]), np.cos(theta[1])
    expected = np.array([[sin, cos], [cos, -sin]]) @ felt
    reading = BODY.sense(states[1], np.array(0.7), 1.5)
    np.testing.assert_allclose(reading[[AXIAL, TANGENTIAL]], expected, atol=1e-3)


def test_linearise_is_exact_on_a_quadratic() -> None:
    at = np.array([[1.0, 2.0], [-3.0, 0.5]])
    value, jacobian = linearise(lambda z: np.stack([z[..., 0] * z[..., 1], z[..., 1] ** 2, z[..., 0]], -1), at)
    np.testing.assert_allclose(value, [[2.0, 4.0, 1.0], [-1.5, 0.25, -3.0]], atol=1e-14)
    expected = np.array([[[2, 1], [0, 4], [1, 0]], [[0.5, -3], [0, 1], [1, 0]]])
    np.testing.assert_allclose(jacobian, expected, atol=1e-9)


def test_no_gain_near_the_regulator_costs_less() -> None:
    zero = np.zeros((1, 5))
    a = linearise(lambda z: BODY.advance(z, np.zeros(z.shape[:-1]), np.zeros(z.shape[:-1])), zero)[1][0]
    b = (BODY.advance(zero[0], np.array(1e-4), np.array(0.0)) / 1e-4 * LIMIT_N)[:, None]

    def cost(gain: np.ndarray) -> float:
        total, z = 0.0, np.diag([0.5, 0.5, 0.1, 0.5, 1.0])
        for _ in range(2000):
            u = -gain @ z
            total += float(np.sum(z[0] ** 2 + 5 * z[2] ** 2 + u**2))
            z = a @ z + b @ u[None]
        return total

    gain = np.array(regulator())
    rng = np.random.default_rng(0)
    for _ in range(5):
        step = 0.02 * gain * rng.standard_normal(5)
        assert cost(gain) < min(cost(gain + step), cost(gain - step))


# The world


def test_channels() -> None:
    assert LAYOUT.size == len(NOISE) == 9
    assert [o.name for o in OBSERVATIONS if o.required] == ["reference"]
    assert (NOISE[:-1] >= 0.01 * LAYOUT.scale[:-1]).all()
    dropout = SensorDropout(OBSERVATIONS, 8, np.random.default_rng(0), Augmentation())
    masks = np.stack([dropout.step() for _ in range(300)])
    assert masks[..., REFERENCE].all()
    assert (masks[..., :REFERENCE].mean((0, 1)) < 1).all()


def test_same_seed_same_bytes_and_readings_stay_until_the_next_step() -> None:
    one, two, other = world(), world(), world(seed=1)
    for _ in range(20):
        np.testing.assert_array_equal(one.observe(), one.observe())
        assert one.observe().tobytes() == two.observe().tobytes()
        assert (one.observe() != other.observe()).all()
        for each in (one, two, other):
            each.step(each.expert())


def test_noise_has_its_standard_deviation() -> None:
    w = world(500)
    readings = []
    for _ in range(20):
        readings.append(w.observe()[:, :REFERENCE] - BODY.sense(w.state, w.push))
        assert (w.observe()[:, REFERENCE] == w.reference).all()
        w.step(w.expert())
    np.testing.assert_allclose(np.std(readings, (0, 1)), NOISE[:REFERENCE], rtol=0.05)


def test_pushes_and_kicks_have_their_statistics() -> None:
    w = world(4000)
    pushes, kicks = [w.push], []
    for _ in range(60):
        undisturbed = BODY.advance(w.state, np.zeros(4000), w.push)
        w.step(np.zeros(4000))
        pushes.append(w.push)
        kicks.append((w.state - undisturbed)[~w.failed])
    np.testing.assert_allclose([pushes[0].std(), pushes[-1].std()], 0.1, rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(pushes[0], pushes[50])[0, 1], np.exp(-1), atol=0.05)
    every = np.concatenate(kicks)
    kicked = every[every[:, 3] != 0, 3]
    assert (every[:, [0, 1, 2, 4]] == 0).all()
    np.testing.assert_allclose(len(kicked) / len(every), 0.005, rtol=0.1)
    np.testing.assert_allclose(kicked.std(), 0.2, rtol=0.1)


def test_worlds_are_paired_whatever_the_agents_do() -> None:
    good, bad = world(8), world(8, payload=1.5)
    for tick in range(300):
        assert (good.reference == bad.reference).all()
        assert (good.push == bad.push).all()
        noise = good.observe() - np.column_stack([BODY.sense(good.state, good.push), good.reference])
        other = bad.observe() - np.column_stack([BODY.sense(bad.state, bad.push, 1.5), bad.reference])
        np.testing.assert_allclose(noise, other, atol=1e-12)
        good.step(good.expert())
        bad.step(np.full(8, np.cos(tick)))
    assert bad.failed.all()
    assert not good.failed.any()


def test_a_failed_environment_stands_still_at_full_cost_until_it_is_reset() -> None:
    w = world(3)
    w.state[0, 2], w.state[1, 0] = 0.81, -4.01
    w.step(np.zeros(3))
    assert w.failed.tolist() == [True, True, False]
    frozen = w.state.copy()
    w.step(w.expert())
    np.testing.assert_array_equal(w.state[:2], frozen[:2])
    assert (w.state[2] != frozen[2]).any()
    w.state[0, [0, 2]] = w.reference[0], 0.0
    assert w.cost()[:2].tolist() == [1.0, 1.0]
    before = w.state.copy(), w.reference
    w.reset(np.array([True, False, False]))
    assert w.failed.tolist() == [False, True, False]
    np.testing.assert_array_equal(w.state[1:], before[0][1:])
    np.testing.assert_array_equal(w.reference[1:], before[1][1:])
    assert w.reference[0] != before[1][0]


def test_cost_worked_by_hand() -> None:
    w = world(2)
    w.state[:, [0, 2]] = np.stack([w.reference + [0.2, 0.9], [0.1, 0.3]], axis=1)
    np.testing.assert_allclose(w.cost(), [0.2**2 + 5 * 0.1**2, 1.0], atol=1e-12)


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((2, 1)), np.array([0.0, np.nan])])
def test_step_refuses_what_is_no_action(action: np.ndarray) -> None:
    with pytest.raises(ContractError, match=r"expected \(2,\) finite values"):
        world(2).step(action)


# The oracle


def episode(fault: str, count: int, ticks: int, seed: int = 7) -> tuple[float, float, float]:
    """J, share of failures and the mean square of the angle's error over the oracle's own variance."""
    w = SensorCartPole(count, np.random.default_rng(seed), FAULTS[fault].payload)
    effect, oracle = FAULTS[fault].start(np.random.default_rng(seed + 1)), Oracle(count)
    action, cost, ratio = np.zeros(count), 0.0, 0.0
    for tick in range(ticks):
        action = oracle.act(*effect.apply(w.observe(), np.ones((count, 9)), tick), action)
        ratio += float(np.mean((oracle.estimate[:, 2] - w.state[:, 2]) ** 2 / oracle.covariance[:, 2, 2])) / ticks
        w.step(action)
        cost += 100 * float(w.cost().mean()) / ticks
    return cost, float(w.failed.mean()), ratio


def test_expert_follows_and_never_falls() -> None:
    w = world(100)
    cost = 0.0
    for _ in range(1000):
        w.step(w.expert())
        cost += 100 * float(w.cost().mean()) / 1000
    assert 8 < cost < 12
    assert not w.failed.any()


def test_oracle_knows_how_well_it_knows() -> None:
    cost, failed, ratio = episode("nominal", 50, 600)
    assert cost < 13
    assert failed == 0
    assert 0.9 < ratio < 1.1


@pytest.fixture(scope="module")
def nominal_cost() -> float:
    return episode("nominal", 20, 500)[0]


@pytest.mark.parametrize("fault", ["dropout80", "dead_angle_encoder", "dead_gyro+accelerometer", "pole_out_0.5s"])
def test_oracle_rides_out_what_the_other_sensors_can_replace(fault: str, nominal_cost: float) -> None:
    cost, failed, _ = episode(fault, 20, 500)
    assert cost < nominal_cost + 3
    assert failed <= 0.05


def test_a_masked_channel_equals_a_deleted_row() -> None:
    """Against a textbook filter with one environment that has only the rows that are seen."""
    w, oracle, rng = world(3), Oracle(3), np.random.default_rng(5)
    means, covariances = oracle.estimate.copy(), oracle.covariance.copy()
    action = np.zeros(3)
    process = np.diag([0, 0, 0, KICK_CHANCE * KICK_STD**2, 0, (1 - PUSH_DECAY**2) * PUSH_STD_N**2])
    for tick in range(30):
        mask = rng.random((3, 9)) < 0.5
        mask[:, REFERENCE] = True
        mask[0, :REFERENCE] = tick == 0
        readings = w.observe()
        for i in range(3):
            m, p = means[i], covariances[i]
            if tick > 0:
                command, d = LIMIT_N * action[i], 1e-5 * np.eye(6)

                def move(z: np.ndarray, u: float = command) -> np.ndarray:
                    return np.append(BODY.advance(z[:5], np.array(u), z[5]), PUSH_DECAY * z[5])

                a = np.stack([(move(m + e) - move(m - e)) / 2e-5 for e in d], axis=1)
                m, p = move(m), a @ p @ a.T + process
            rows = np.flatnonzero(mask[i, :REFERENCE])
            c = np.stack([BODY.sense((m + e)[:5], e[5] + m[5]) for e in 1e-5 * np.eye(6)], axis=1)
            c = (c - np.stack([BODY.sense((m - e)[:5], m[5] - e[5]) for e in 1e-5 * np.eye(6)], axis=1)) / 2e-5
            c = c[rows]
            gain = p @ c.T @ np.linalg.inv(c @ p @ c.T + np.diag(NOISE[rows] ** 2))
            m = m + gain @ (readings[i, rows] - BODY.sense(m[:5], m[5])[rows])
            means[i], covariances[i] = m, (np.eye(6) - gain @ c) @ p
        action = oracle.act(np.where(mask, readings, np.nan), mask.astype(np.float32), action)
        np.testing.assert_allclose(oracle.estimate, means, atol=1e-9)
        np.testing.assert_allclose(oracle.covariance, covariances, atol=1e-9)
        w.step(action)


def test_oracle_forgets_only_what_is_reset() -> None:
    w, oracle = world(2), Oracle(2)
    for _ in range(5):
        oracle.act(w.observe(), np.ones((2, 9)), np.zeros(2))
    kept = oracle.estimate[1].copy(), oracle.covariance[1].copy()
    oracle.reset(np.array([True, False]))
    fresh = Oracle(2)
    np.testing.assert_array_equal(oracle.estimate, [fresh.estimate[0], kept[0]])
    np.testing.assert_array_equal(oracle.covariance, [fresh.covariance[0], kept[1]])
    readings, mask = w.observe(), np.ones((2, 9))
    assert oracle.act(readings, mask, np.ones(2))[0] == fresh.act(readings, mask, np.zeros(2))[0]


# The faults

READINGS = np.random.default_rng(3).standard_normal((900, 4, 9))
MASK = np.ones((4, 9), dtype=np.float32)


def run(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Faulted copies of READINGS (T, N, D) and the masks (T, N, D)."""
    effect = FAULTS[name].start(np.random.default_rng(seed))
    pairs = [effect.apply(readings, MASK, tick) for tick, readings in enumerate(READINGS)]
    return np.stack([r for r, _ in pairs]), np.stack([m for _, m in pairs])


def test_families() -> None:
    count = {family: sum(f.family == family for f in FAULTS.values()) for family in (NOMINAL, MASKED, UNDETECTED)}
    # dropout, 3 groups × 3 outages, 7 sensors and 4 pairs dead; noise, 8 biases, 3 × 7 sensors, payload
    assert count == {NOMINAL: 1, MASKED: 1 + 9 + 7 + 4, UNDETECTED: 1 + 8 + 21 + 1}
    assert [name for name, fault in FAULTS.items() if fault.payload != 1.0] == ["payload_x1.5"]


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault(name: str) -> None:
    before = READINGS.copy(), MASK.copy()
    readings, mask = run(name)
    np.testing.assert_array_equal(READINGS, before[0])
    np.testing.assert_array_equal(MASK, before[1])
    again, _ = run(name)
    assert readings.tobytes() == again.tobytes()
    assert mask.dtype == MASK.dtype
    np.testing.assert_array_equal(readings[:100], READINGS[:100])
    np.testing.assert_array_equal(readings[..., REFERENCE], READINGS[..., REFERENCE])
    np.testing.assert_array_equal(np.isnan(readings), mask == 0)
    assert (mask.all()) == (FAULTS[name].family != MASKED)
    if FAULTS[name].family == MASKED:
        np.testing.assert_array_equal(readings[mask > 0], READINGS[mask > 0])
    elif name not in ("nominal", "payload_x1.5"):
        assert (readings != READINGS).any()


@pytest.mark.parametrize(
    ("name", "channels", "windows"),
    [
        ("cart_out_0.2s", [X, LIDAR, TACHOMETER], [(300, 320), (650, 670)]),
        ("pole_out_0.5s", [ANGLE, GYRO, AXIAL, TANGENTIAL], [(300, 350), (650, 700)]),
        ("pole_out_2s", [ANGLE, GYRO, AXIAL, TANGENTIAL], [(300, 500), (650, 850)]),
        ("motor_out_2s", [MOTOR], [(300, 500), (650, 850)]),
        ("dead_accelerometer", [AXIAL, TANGENTIAL], [(100, 900)]),
        ("dead_tachometer+gyro", [TACHOMETER, GYRO], [(100, 900)]),
    ],
)
def test_lost_readings(name: str, channels: list[int], windows: list[tuple[int, int]]) -> None:
    expected = np.ones((900, 4, 9))
    for first, end in windows:
        expected[first:end, :, channels] = 0
    np.testing.assert_array_equal(run(name)[1], expected)


def test_dropout_hides_four_readings_of_five() -> None:
    mask = run("dropout80")[1][100:, :, :REFERENCE]
    np.testing.assert_allclose(mask.mean((0, 1)), 0.2, atol=0.03)
    assert (run("dropout80", seed=1)[1] != run("dropout80")[1]).any()


def test_falsified_readings() -> None:
    later = slice(100, None)
    expected = READINGS[later].copy()
    expected[..., AXIAL] += 2.0
    np.testing.assert_array_equal(run("bias_accelerometer.axial")[0][later], expected)
    expected = READINGS[later].copy()
    expected[..., [AXIAL, TANGENTIAL]] *= 1.5
    np.testing.assert_array_equal(run("scale_accelerometer")[0][later], expected)
    expected = READINGS[later].copy()
    expected[..., GYRO] = READINGS[100, :, GYRO]
    np.testing.assert_array_equal(run("stuck_gyro")[0][later], expected)
    expected = READINGS[later].copy()
    expected[..., ANGLE] = READINGS[90:-10, :, ANGLE]
    np.testing.assert_array_equal(run("delay_angle_encoder")[0][later], expected)
    added = (run("noise_x3")[0] - READINGS)[later, :, :REFERENCE]
    np.testing.assert_allclose(added.std((0, 1)), np.sqrt(8) * NOISE[:REFERENCE], rtol=0.06)


def test_groups_hold_every_sensor_once() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(
        o.name for o in OBSERVATIONS if o.name != "reference"
    )
