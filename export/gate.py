"""The parity gate: what onnxruntime computes must be what torch computes, on recorded inputs, masks included.

Compared are single ticks, which both begin from the same recorded state, and a sequence with failing sensors, in which
each of the two carries its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import onnxruntime as ort
import torch

from export.record import Recording
from runtime.bundle import Bundle
from runtime.contract import Parity
from runtime.errors import GanglionError
from runtime.inference import INPUTS, OUTPUTS
from training.agent.agent import Agent

TOLERANCE = 1e-4
SEQUENCE_TICKS = 500
_GIVEN = tuple(name for name in INPUTS if name not in ("refine", "tolerance"))
_LOGITS = "logits"  # of the choices, in torch's answer alone
_ENDLESS = -np.ones(1, np.float32)  # no step ends the refinement, since none is expected to raise F

Arrays = dict[str, np.ndarray]


class ParityError(GanglionError):
    """torch and onnxruntime disagree."""


def check_parity(agent: Agent, bundle: Bundle, ticks: Recording, refine: Sequence[int]) -> Parity:
    """Compare all outputs and next states on every tick alone at each K in `refine`, and over the first 500 in a row.

    The difference of two numbers is |onnxruntime - torch| / max(1, |torch|). Raises ParityError above 1e-4. Of choices
    whose logits do not differ by more, the one that onnxruntime takes is right.
    """
    session = bundle.start().session
    sequence = ticks.first(SEQUENCE_TICKS)
    worst = 0.0
    answers = chain(_single(agent, session, ticks, refine), _sequence(agent, bundle, session, sequence))
    for place, ours, theirs in answers:
        settle_ties(agent, ours, theirs)
        for name, expected in theirs.items():
            difference = largest_difference(ours[name], expected)
            if not difference <= TOLERANCE:
                raise ParityError(
                    f"onnxruntime differs from torch by {difference:.2g} in {name} at {place}, "
                    f"allowed is {TOLERANCE:g}; no bundle was written"
                )
            worst = max(worst, difference)
    return Parity(
        observations=len(ticks),
        refine=tuple(refine),
        masked_fraction=float(1.0 - ticks["mask"].mean()),
        tolerance=TOLERANCE,
        max_difference=worst,
        sequence_ticks=len(sequence),
    )


def settle_ties(agent: Agent, ours: Arrays, theirs: Arrays) -> None:
    """Take over the action of `ours` (1, A) if it is a choice whose logit in `theirs` is as good as the best one."""
    logits = theirs.pop(_LOGITS, None)
    if logits is not None:
        best = float(logits.max())
        as_good = agent.choices.numpy()[logits[0] >= best - TOLERANCE * max(1.0, abs(best))]
        if (as_good == ours["action"]).all(-1).any():
            theirs["action"] = ours["action"]


def largest_difference(ours: np.ndarray, expected: np.ndarray) -> float:
    """The largest |ours - expected| / max(1, |expected|) of two arrays of one shape; NaN if one holds any."""
    return float(np.max(np.abs(ours - expected) / np.maximum(1.0, np.abs(expected))))


def answers(session: ort.InferenceSession, ticks: Recording, steps: int) -> Iterator[Arrays]:
    """Outputs by name of every tick alone, from its recorded state, after exactly so many steps."""
    given = given_inputs(ticks)
    asked = {"refine": np.array([steps]), "tolerance": _ENDLESS}
    for i in range(len(ticks)):
        yield _onnx(session, {n: a[i : i + 1] for n, a in given.items()} | asked)


def given_inputs(ticks: Recording) -> Arrays:
    """The recorded inputs (N, ...) of the graph, without those of the refinement."""
    return {n: a for n, a in ticks.arrays.items() if n in _GIVEN or n.startswith("state.")}


def _single(
    agent: Agent, session: ort.InferenceSession, ticks: Recording, refine: Sequence[int]
) -> Iterator[tuple[str, Arrays, Arrays]]:
    """Place, onnxruntime's answer and torch's for every tick and K, each tick from its recorded state."""
    for k in refine:
        expected = _torch(agent, given_inputs(ticks) | {"refine": np.full(len(ticks), k)})
        for i, ours in enumerate(answers(session, ticks, k)):
            yield f"K = {k}, tick {i}", ours, {n: a[i : i + 1] for n, a in expected.items()}


def _sequence(
    agent: Agent, bundle: Bundle, session: ort.InferenceSession, ticks: Recording
) -> Iterator[tuple[str, Arrays, Arrays]]:
    """The same for ticks in a row at their recorded K; both restart where an episode does."""
    for i in range(len(ticks)):
        if ticks.tick[i] == 0:
            ours_carried = {
                f"state.{s.name}": np.reshape(np.array(s.initial, np.float32), s.shape) for s in bundle.contract.states
            }
            theirs_carried = {f"state.{n}": v.numpy() for n, v in agent.initial().items()}
        given = {n: ticks[n][i : i + 1] for n in (*_GIVEN, "refine")}
        asked = given | {"tolerance": _ENDLESS}
        ours, theirs = _onnx(session, asked | ours_carried), _torch(agent, given | theirs_carried)
        yield f"tick {i} of a sequence", ours, theirs
        ours_carried, theirs_carried = _next(ours), _next(theirs)


def _next(answer: Arrays) -> Arrays:
    return {f"state.{n.removeprefix('next.')}": a for n, a in answer.items() if n.startswith("next.")}


def _onnx(session: ort.InferenceSession, inputs: Arrays) -> Arrays:
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


@torch.no_grad()
def _torch(agent: Agent, inputs: Arrays) -> Arrays:
    """Outputs of the agent by the graph's names, (N, ...), for inputs by the graph's names; and logits (N, M)."""
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    state = {n.removeprefix("state."): v for n, v in tensors.items() if n.startswith("state.")}
    x, mask, previous, fresh = (tensors[n] for n in ("observation", "mask", "previous_action", "fresh"))
    belief = agent.infer(x, mask, previous, state, tensors["refine"], fresh)
    outputs = (
        agent.act(belief.z, belief.state.get("gait")),
        belief.free_energy,
        belief.start.innovation,
        belief.start.verdict,
        belief.steps,
    )
    answer = dict(zip(OUTPUTS, outputs)) | {f"next.{n}": v for n, v in belief.state.items()}
    if agent.config.head == "categorical":
        answer[_LOGITS] = agent.answer(belief.z)
    return {name: value.numpy() for name, value in answer.items()}
