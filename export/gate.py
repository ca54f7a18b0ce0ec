"""The parity gate: what onnxruntime computes must be what torch computes, on recorded inputs, masks included."""

from __future__ import annotations

import numpy as np
import torch

from export.record import RecordedTicks
from runtime.bundle import Bundle
from runtime.contract import Parity
from runtime.errors import GanglionError
from training.agent.agent import Agent

TOLERANCE = 1e-4
REFINE = (0, 1, 8)


class ParityError(GanglionError):
    """torch and onnxruntime disagree."""


def check_parity(agent: Agent, bundle: Bundle, ticks: RecordedTicks) -> Parity:
    """Compare action, free energy, innovation and belief on every recorded tick at K = 0, 1, 8.

    The difference of two numbers is |onnxruntime - torch| / max(1, |torch|). Raises ParityError above 1e-4.
    """
    worst, where = 0.0, ""
    session = bundle.session()
    for refine in REFINE:
        expected = _torch(agent, ticks, refine)
        for i in range(len(ticks.observation)):
            got = session.run(
                ["action", "free_energy", "innovation", "next.z"],
                {
                    "observation": ticks.observation[i : i + 1],
                    "mask": ticks.mask[i : i + 1],
                    "previous_action": ticks.previous_action[i : i + 1],
                    "refine": np.array([refine], np.int64),
                    "state.z": ticks.z[i : i + 1],
                },
            )
            for name, ours in zip(expected, got, strict=True):
                theirs = expected[name][i]
                difference = float(np.max(np.abs(ours[0] - theirs) / np.maximum(1.0, np.abs(theirs))))
                if not difference <= worst:
                    worst, where = difference, f"{name} at K = {refine}, tick {i}"
    if not worst <= TOLERANCE:
        raise ParityError(
            f"onnxruntime differs from torch by {worst:.2g} in {where}, allowed is {TOLERANCE:g}; no bundle was written"
        )
    return Parity(
        observations=len(ticks.observation),
        refine=REFINE,
        masked_fraction=float(1.0 - ticks.mask.mean()),
        tolerance=TOLERANCE,
        max_difference=worst,
    )


@torch.no_grad()
def _torch(agent: Agent, ticks: RecordedTicks, refine: int) -> dict[str, np.ndarray]:
    x, mask, action, z = (torch.from_numpy(v) for v in (ticks.observation, ticks.mask, ticks.previous_action, ticks.z))
    belief, _ = agent.infer(x, mask, z, action, torch.full((len(x),), refine))
    return {
        "action": agent.act(belief.z).numpy(),
        "free_energy": belief.free_energy.numpy(),
        "innovation": belief.innovation.numpy(),
        "next.z": belief.z.numpy(),
    }
