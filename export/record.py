"""What enters and leaves the graph of a real Controller in the real simulation, for the gate and the calibrations."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from runtime.bundle import Bundle
from runtime.contract import Observation
from runtime.controller import Controller
from runtime.inference import INPUTS, OUTPUTS, Inference
from runtime.sample import Sample
from sim.env import TaskEnv, make_env
from sim.episode import Disturbance, episode
from sim.processes import end_with_parent
from sim.tasks import NOMINAL, task_class
from training.augment import Augmentation, SensorDropout

HELD_OUT = 1_000_000  # added to seeds, so that these episodes were not trained on
_PHASE = 25  # ticks for which a sensor stays stuck or biased
_SMALLEST_BIAS, _LARGEST_BIAS = 0.3, 3.0  # in scales of the channel
_LATE = 0.1  # largest chance that a reading of a tick does not arrive


@dataclass(frozen=True)
class Recording:
    """N ticks, episode after episode."""

    tick: np.ndarray
    """Ticks since the episode began (N,) int64."""
    arrays: dict[str, np.ndarray]
    """Inputs and outputs of the graph by its own names, (N, ...); `state.NAME` is what the tick read, `next.NAME` is
    left out."""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(self.tick)

    def first(self, count: int) -> Recording:
        """The first `count` ticks, all if there are fewer."""
        return Recording(self.tick[:count], {name: array[:count] for name, array in self.arrays.items()})


def join(parts: Sequence[Recording]) -> Recording:
    """One recording of several."""
    arrays = {name: np.concatenate([p[name] for p in parts]) for name in parts[0].arrays}
    return Recording(np.concatenate([p.tick for p in parts]), arrays)


def record_episode(
    controller: Controller,
    env: TaskEnv,
    seed: int,
    disturb: Disturbance | None = None,
    names: Sequence[str] | None = None,
) -> Recording:
    """One episode of `controller` in `env`; of the arrays only those in `names`, if it is given."""
    return record_ticks(controller, episode(controller, env, seed, disturb=disturb), names)


def record_ticks(controller: Controller, ticks: Iterable[object], names: Sequence[str] | None = None) -> Recording:
    """What `controller` does in each of `ticks`, which run one as they are asked for; it is reset before the first."""
    inference = controller.inference
    controller.reset()
    before = _carried(inference)
    rows = []
    for _ in ticks:
        row = {name: getattr(inference, name) for name in (*INPUTS, *OUTPUTS)} | before
        rows.append({name: row[name].copy() for name in (names or row)})
        before = _carried(inference)
    return Recording(np.arange(len(rows)), {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})


def _carried(inference: Inference) -> dict[str, np.ndarray]:
    """What one tick leaves to the next."""
    states = {f"state.{name}": value.copy() for name, value in inference.state.items()}
    return states | {"previous_action": inference.previous_action.copy()}


def record_healthy(
    bundle: Bundle,
    task: str,
    seeds: Sequence[int],
    refine: int | None = None,
    workers: int = 1,
    names: Sequence[str] | None = None,
    worlds: Sequence[str] = (NOMINAL,),
) -> Recording:
    """Episodes with sensors that are well, in one of the task's `worlds` after the other, at K = `refine`.

    The bundle's default K if None; only the arrays in `names`, all if None. More than one of the `workers` share the
    episodes, which changes nothing.
    """
    episodes = list(zip(seeds, itertools.cycle(worlds)))
    record = partial(_record_healthy, bundle=bundle, task=task, refine=refine, names=names)
    if workers <= 1:
        return record(episodes)
    shares = [episodes[len(seeds) * i // workers : len(seeds) * (i + 1) // workers] for i in range(workers)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        return join(list(pool.map(record, filter(None, shares))))


def _record_healthy(
    episodes: Sequence[tuple[int, str]], bundle: Bundle, task: str, refine: int | None, names: Sequence[str] | None
) -> Recording:
    """Each with its seed, in its world."""
    controller, env, parts = Controller(bundle, refine), make_env(task), []
    try:
        for seed, world in episodes:
            env.set_randomisation(task_class(task).world(world))
            parts.append(record_episode(controller, env, seed, names=names))
    finally:
        env.close()
    return join(parts)


def record_faulty(bundle: Bundle, task: str, seed: int, refine: Sequence[int], ticks: int = 1000) -> Recording:
    """`ticks` ticks of episodes with failing sensors; every episode draws its K from `refine`."""
    controller = Controller(bundle)
    env = make_env(task)
    rng = np.random.default_rng(seed + HELD_OUT)
    failing = FailingSensors(task_class(task).observations, controller.layout.scale, rng)
    parts: list[Recording] = []
    try:
        while sum(map(len, parts)) < ticks:
            controller.refine = int(rng.choice(refine))
            parts.append(record_episode(controller, env, seed + HELD_OUT + len(parts), failing))
    finally:
        env.close()
    return join(parts).first(ticks)


class FailingSensors:
    """A `Disturbance`: readings are missing as in training, late, and one channel each is stuck and biased for a while.

    The first tick of an episode is spared, and so are required observations.
    """

    def __init__(self, observations: tuple[Observation, ...], scale: np.ndarray, rng: np.random.Generator) -> None:
        """`scale` (D,) is the unit of the bias."""
        self._rng, self._scale = rng, scale
        self._dropout = SensorDropout(observations, 1, rng, Augmentation())
        self._may_fail = np.array([not o.required for o in observations for _ in o.channels])
        self._late = 0.0
        self._stuck = self._biased = np.zeros_like(self._may_fail)
        self._bias = 0.0
        self._values, self._stamp_ns = np.zeros(len(scale)), np.zeros(len(scale), np.int64)

    def __call__(self, sample: Sample, tick: int) -> None:
        """Disturb tick `tick` of an episode."""
        if tick == 0:
            self._dropout.restart(np.ones(1, dtype=bool))
            self._late = self._rng.uniform(0, _LATE)
            self._values[:], self._stamp_ns[:] = sample.values, sample.stamp_ns
            return
        if tick % _PHASE == 1:
            self._stuck, self._biased = self._one_channel(), self._one_channel()
            self._bias = self._rng.choice((-1, 1)) * self._rng.uniform(_SMALLEST_BIAS, _LARGEST_BIAS)
        late = self._may_fail & (self._rng.random(len(self._scale)) < self._late)
        sample.values += self._biased * self._bias * self._scale
        np.copyto(sample.values, self._values, where=self._stuck | late)
        np.copyto(sample.stamp_ns, self._stamp_ns, where=late)
        self._values[:], self._stamp_ns[:] = sample.values, sample.stamp_ns
        sample.values[self._dropout.step()[0] == 0] = np.nan

    def _one_channel(self) -> np.ndarray:
        """(D,) bool, true at one channel that may fail, if there is any."""
        score = self._may_fail * (1.0 + self._rng.random(len(self._scale)))
        return self._may_fail & (score == score.max())
