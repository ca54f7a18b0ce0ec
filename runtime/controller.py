"""One tick: sample -> mask -> normalise -> infer -> act -> limits -> command."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from runtime.bundle import Bundle
from runtime.errors import ContractError
from runtime.inference import Inference
from runtime.limits import Limits
from runtime.safety import Request, Safety, Status
from runtime.sample import NEVER, Sample
from runtime.sensing import Reason, Watch, mask_reasons, normalise, verdict_reasons
from runtime.surprise import Surprise, surprise

MOST_SURPRISE = 3.0


@dataclass(frozen=True)
class Command:
    """The result of one tick."""

    status: Status
    values: np.ndarray
    """(A,) SI command in the order of the contract's joints; finite and within the limits unless WAITING."""
    reasons: np.ndarray
    """(D,) uint8, `Reason` per channel; zero is believed."""
    free_energy: float
    """F after refinement, nats; zero while WAITING."""
    innovation: np.ndarray
    """(D,) float32, in predicted standard deviations; zero where masked or WAITING."""
    refine: int
    """Refinement steps that were allowed."""
    steps: int
    """Refinement steps made; fewer than allowed where they had stopped to lower F."""
    tolerance: float
    """Nats; the last step was the first one that was expected to lower F by no more than this."""
    cause: str
    """Why the agent does not act; empty when ENGAGING or ACTIVE."""
    request: Request = Request.NONE
    """What was asked for since the tick before."""


class Controller:
    """The same object in the ROS node, the simulator and the replay.

    `tick` is a pure function of its arguments and of the carried state: no clock, no I/O, no exception on bad data.
    """

    def __init__(
        self,
        bundle: Bundle,
        refine: int | None = None,
        engage_s: float = 0.0,
        tolerance: float = 0.0,
        most_surprise: float = MOST_SURPRISE,
    ) -> None:
        """`refine` and `tolerance` are the properties, the former the contract's default if None.

        Engaging takes `engage_s`. The robot holds while the model is more surprised than `most_surprise` times the most
        in calibration, see `runtime.surprise`. Raises BundleError or ContractError if the bundle does not fit, or a
        number is out of range.
        """
        self.bundle = bundle
        self.contract = bundle.contract
        self.layout = self.contract.layout
        self.inference = Inference(bundle)
        self.limits = Limits(self.contract.action, self.contract.rate_hz)
        self.safety = Safety(self.contract.action, self.contract.rate_hz, engage_s)
        self.surprise = Surprise(self.contract.health, self.contract.rate_hz, most_surprise)
        self.refine = self.contract.refinement.default_steps if refine is None else refine
        self.tolerance = tolerance
        self._pose = self._pose_channels()
        self._watch = Watch(self.layout)
        self._previous = np.zeros(self.layout.joints)
        self._stamp_ns = np.full(self.layout.size, NEVER, dtype=np.int64)
        self._started = False
        self._request, self._cause = Request.NONE, ""
        self._no_innovation = np.zeros(self.layout.size, np.float32)

    @property
    def refine(self) -> int:
        """Largest number of refinement steps K of the next tick."""
        return self._refine

    @refine.setter
    def refine(self, steps: int) -> None:
        largest = self.contract.refinement.max_steps
        if not 0 <= steps <= largest:
            raise ContractError(f"refine is {steps}, expected 0 to {largest}, the bundle's largest")
        self._refine = steps

    @property
    def tolerance(self) -> float:
        """The refinement of a tick ends with the first step that is expected to lower F by no more than this, nats."""
        return float(self.inference.tolerance[0])

    @tolerance.setter
    def tolerance(self, nats: float) -> None:
        if not 0 <= nats < np.inf:
            raise ContractError(f"tolerance is {nats:g}, expected 0 (until F falls no more) or more nats")
        self.inference.tolerance[0] = nats

    def _pose_channels(self) -> np.ndarray | None:
        """Channels that hold the measured position of every commanded joint; None if the command is no position."""
        action = self.contract.action
        if action.kind != "position":
            return None
        measured = {
            c: self.layout.slices[o.name].start + i
            for o in self.contract.observations
            if o.kind == "joint_position"
            for i, c in enumerate(o.channels)
        }
        missing = [j for j in action.joints if j not in measured]
        if missing:
            raise ContractError(
                f"position commands need the measured position of {missing}; add it to the observations"
            )
        return np.array([measured[j] for j in action.joints], dtype=np.int64)

    def reset(self) -> None:
        """Forget the carried state: the next tick starts as the first one does."""
        self._reset_belief()
        self.inference.previous_action[...] = 0.0
        self._previous[:] = 0.0
        self._started = False
        self._request, self._cause = Request.NONE, ""
        self.safety.reset()
        self._watch.reset()

    def _reset_belief(self) -> None:
        """Carried state to its initial values; every reading will be new to it."""
        self.inference.reset()
        self.surprise.reset()
        self._stamp_ns[:] = NEVER

    def warm_up(self, ticks: int = 50) -> None:
        """Run the graph at the largest K so that the first real tick is not slow, then reset."""
        self.inference.refine[0] = self.contract.refinement.max_steps
        for _ in range(ticks):
            self.inference.run()
        self.reset()

    def request(self, what: Request, cause: str = "") -> None:
        """Ask for it in the next tick; a stop is not taken back by what is asked for after it."""
        if self._request is not Request.STOP:
            self._request, self._cause = what, cause

    def tick(self, sample: Sample, now_ns: int) -> Command:
        """Infer from `sample` and act. `now_ns` is on the clock of the sample's stamps."""
        command = self._tick(sample, now_ns)
        if self._request is not Request.NONE:
            command, self._request = replace(command, request=self._request), Request.NONE
        return command

    def _tick(self, sample: Sample, now_ns: int) -> Command:
        layout = self.layout
        if self._request is Request.STOP:
            self.safety.stop(self._cause)
        elif self._request is Request.ENGAGE:
            self.safety.engage(self._previous)
        reasons = mask_reasons(sample.values, sample.stamp_ns, now_ns, layout)
        believed = reasons == 0
        if not self._started:
            if self._pose is not None:
                if not believed[self._pose].all():
                    return self._waiting(reasons)
                self._previous[:] = sample.values[self._pose]
            self._started = True
            if not self.safety.stopped:
                self.safety.engage(self._previous)
        action, free_energy, innovation = self._infer(sample, believed)
        finite = self.inference.finite
        self.safety.answered(finite)
        if not finite:
            self._reset_belief()
            return self._hold(
                reasons, 0.0, self._no_innovation, "the agent's output was not finite; its belief was reset"
            )
        verdict = self.inference.verdict[0]
        if verdict.any():
            reasons |= verdict_reasons(verdict)
            believed = reasons == 0
        lost = self._watch.lost(believed, sample.stamp_ns, now_ns)
        surprised = self.surprise.beyond(float(surprise(innovation, believed)))
        if lost or surprised or self.safety.stopped:
            return self._hold(reasons, free_energy, innovation, self._describe(lost, reasons))
        wanted = self.limits.command(action, self._previous)
        engaged, status = self.safety.engaged(wanted, self._previous)
        command = self.limits.limit(engaged, self._previous)
        self._commit(command)
        return self._command(status, command, reasons, free_energy, innovation, "")

    def _infer(self, sample: Sample, believed: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """Normalised action (A,) float64, free energy, innovation (D,); the belief advances by one tick."""
        inference = self.inference
        inference.observation[0] = normalise(sample.values, believed, self.layout)
        inference.mask[0] = believed
        inference.fresh[0] = sample.stamp_ns != self._stamp_ns
        self._stamp_ns[:] = sample.stamp_ns
        inference.refine[0] = self._refine
        inference.run()
        return inference.action[0].astype(np.float64), float(inference.free_energy[0]), inference.innovation[0].copy()

    def _commit(self, command: np.ndarray) -> None:
        self.inference.previous_action[0] = self.limits.normalised(command, self._previous)
        self._previous[:] = command

    def _hold(self, reasons: np.ndarray, free_energy: float, innovation: np.ndarray, cause: str) -> Command:
        target = self._previous if self.contract.action.safe == "hold" else np.zeros_like(self._previous)
        command = self.limits.limit(target, self._previous)
        self._commit(command)
        status = Status.HOLDING
        if self.safety.stopped:
            status, cause = Status.STOPPED, self.safety.cause
        return self._command(status, command, reasons, free_energy, innovation, cause)

    def _command(
        self,
        status: Status,
        values: np.ndarray,
        reasons: np.ndarray,
        free_energy: float,
        innovation: np.ndarray,
        cause: str,
    ) -> Command:
        """Of a tick that has inferred."""
        steps = int(self.inference.steps[0])
        return Command(status, values, reasons, free_energy, innovation, self._refine, steps, self.tolerance, cause)

    def follow(self, command: np.ndarray) -> None:
        """Take `command` (A,) SI as what was really commanded last, where another controller was in charge."""
        self.inference.previous_action[0] = np.clip(self.limits.normalised(command, self._previous), -1.0, 1.0)
        self._previous[:] = command

    def _waiting(self, reasons: np.ndarray) -> Command:
        unseen = [self.layout.channels[i] for i in self._pose if reasons[i]] if self._pose is not None else []
        cause = f"waiting for {', '.join(unseen)}"
        values, innovation = self._previous.copy(), self._no_innovation
        return Command(Status.WAITING, values, reasons, 0.0, innovation, self._refine, 0, self.tolerance, cause)

    def _describe(self, lost: list[int], reasons: np.ndarray) -> str:
        parts = []
        for index in lost:
            o = self.contract.observations[index]
            where = self.layout.slices[o.name]
            masked = [f"{c} {Reason(int(r)).text}" for c, r in zip(o.channels, reasons[where]) if r]
            parts.append(f"{o.name} ({'; '.join(masked)}; needs {o.min_valid} of {len(o.channels)})")
        if parts:
            return "lost " + ", ".join(parts)
        s = self.surprise
        return f"surprised: the mean square innovation averages {s.average:.4g}, calibration bounds it to {s.bound:.4g}"

    def state(self) -> dict[str, np.ndarray]:
        """Copies of everything carried from tick to tick, float64, by name."""
        own = {
            "controller.command": self._previous.copy(),
            "controller.previous_action": self.inference.previous_action.astype(np.float64),
            "controller.started": np.array([float(self._started)]),
            "controller.seen_s_ns": _split(self._watch.seen_ns),
            "controller.stamp_s_ns": _split(self._stamp_ns),
        }
        agent = {name: value.astype(np.float64) for name, value in self.inference.state.items()}
        return own | self.safety.state() | self.surprise.state() | agent

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned. Raises KeyError if a name is missing."""
        self._previous[:] = state["controller.command"]
        self.inference.previous_action[...] = state["controller.previous_action"]
        self._started = bool(state["controller.started"][0])
        self._watch.seen_ns[:] = _joined(state["controller.seen_s_ns"])
        self._stamp_ns[:] = _joined(state["controller.stamp_s_ns"])
        self.safety.restore(state)
        self.surprise.restore(state)
        for name, value in self.inference.state.items():
            value[...] = state[name]


def _split(time_ns: np.ndarray) -> np.ndarray:
    """Whole seconds and nanoseconds (2, n) of int64 times (n,): each is exact in float64, their sum is not."""
    return np.array(np.divmod(time_ns, 1_000_000_000), dtype=np.float64)


def _joined(split: np.ndarray) -> np.ndarray:
    """Inverse of `_split`."""
    seconds, nanoseconds = split.astype(np.int64)
    return seconds * 1_000_000_000 + nanoseconds
