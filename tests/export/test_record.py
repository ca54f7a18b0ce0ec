from __future__ import annotations

import numpy as np

from export.record import FailingSensors, join, record_faulty, record_healthy
from runtime.bundle import Bundle
from runtime.contract import Layout
from runtime.sample import Sample
from sim.tasks import task_class
from tests.tiny_bundle import tiny_contract


def test_a_recording_holds_what_each_tick_read(cartpole: Bundle) -> None:
    """In the tiny bundle z grows by 0.1 a tick, and `arrivals` by the four fresh channels."""
    recording = record_healthy(cartpole, "cartpole", [3, 4], refine=5)
    begins = np.flatnonzero(recording.tick == 0)
    assert len(begins) == 2
    assert len(recording) == len(recording["observation"]) > begins[1] > 20
    np.testing.assert_array_equal(recording.tick[: begins[1]], np.arange(begins[1]))
    np.testing.assert_allclose(recording["state.z"][:, 0], 0.1 * recording.tick, rtol=1e-5)
    np.testing.assert_array_equal(recording["state.arrivals"][:, 0], 4.0 * recording.tick)
    same = np.setdiff1d(np.arange(1, len(recording)), begins)
    np.testing.assert_allclose(recording["previous_action"][same], recording["action"][same - 1], atol=1e-6)
    assert (recording["previous_action"][begins] == 0).all()
    assert set(recording["refine"]) == {5}
    assert set(recording["free_energy"]) == {6.0}


def test_parts_join_in_order(cartpole: Bundle) -> None:
    one, two = (record_healthy(cartpole, "cartpole", [seed]) for seed in (3, 4))
    both = record_healthy(cartpole, "cartpole", [3, 4])
    joined = join([one, two])
    assert len(joined.first(7)) == 7
    for name in both.arrays:
        np.testing.assert_array_equal(joined[name], both[name])
        np.testing.assert_array_equal(joined.first(7)[name], both[name][:7])


def test_workers_change_nothing(cartpole: Bundle) -> None:
    alone, shared = (record_healthy(cartpole, "cartpole", [3, 4, 5], workers=n) for n in (1, 2))
    np.testing.assert_array_equal(shared.tick, alone.tick)
    for name in alone.arrays:
        np.testing.assert_array_equal(shared[name], alone[name])


def test_faulty_ticks_have_every_fault_and_every_k(cartpole: Bundle) -> None:
    recording = record_faulty(cartpole, "cartpole", 0, (0, 1, 4), 600)
    assert len(recording) == 600
    assert set(recording["refine"]) == {0, 1, 4}
    later = recording.tick > 0
    assert 0.05 < 1 - recording["mask"][later].mean() < 0.8
    assert 0.01 < 1 - recording["fresh"][later].mean() < 0.2
    assert (recording["mask"][~later] == 1).all()
    x, seen = recording["observation"], recording["mask"] * recording["fresh"] > 0
    repeats = (x[1:] == x[:-1]) & seen[1:] & seen[:-1]
    assert repeats.sum() > 30, "stuck sensors repeat themselves"
    assert np.abs(x[later]).max() > 2.0, "biased sensors"
    again = record_faulty(cartpole, "cartpole", 0, (0, 1, 4), 600)
    np.testing.assert_array_equal(again["observation"], x)


def test_required_sensors_do_not_fail() -> None:
    task = task_class("kuka_reach")
    layout = Layout(task.observations, task.action)
    required = np.array([o.required for o in task.observations for _ in o.channels])
    assert 0 < required.sum() < layout.size
    failing = FailingSensors(task.observations, layout.scale, np.random.default_rng(0))
    sample = Sample(tiny_contract("kuka_reach"))
    touched = np.zeros(layout.size, bool)
    for tick in range(400):
        sample.put_flat(np.full(layout.size, 0.1 * tick), tick)
        failing(sample, tick)
        changed = (sample.values != 0.1 * tick) | (sample.stamp_ns != tick)
        assert tick > 0 or not changed.any()
        touched |= changed
    np.testing.assert_array_equal(touched, ~required)
