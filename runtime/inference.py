"""The bundle's graph, called once per tick on buffers that were bound once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from runtime.bundle import Bundle
from runtime.errors import BundleError

INPUTS = ("observation", "mask", "fresh", "previous_action", "refine", "tolerance")
OUTPUTS = ("action", "free_energy", "innovation", "verdict", "steps")
_ALIGNMENT = 16  # floats: one cache line, so that no array begins where vector instructions would treat it otherwise


@dataclass(frozen=True)
class _Buffers:
    binding: ort.IOBinding
    arrays: dict[str, np.ndarray]


class _Block:
    """Named float32 arrays in one piece of memory, so that one look tells whether all of them are finite."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        room = {name: -(-size // _ALIGNMENT) * _ALIGNMENT for name, size in sizes.items()}
        self._flat = np.zeros(sum(room.values()), np.float32)
        self.arrays: dict[str, np.ndarray] = {}
        start = 0
        for name, shape in shapes.items():
            self.arrays[name] = self._flat[start : start + sizes[name]].reshape(shape)
            start += room[name]

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self._flat).all())


class Inference:
    """Amortized answer and K refinement steps of one bundle, with its carried state.

    The states are double-buffered: even ticks read one set and write the other, so nothing is copied or allocated.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError if the graph does not run, or the names or shapes of its inputs and outputs are not the
        contract's, and GanglionError if the bundle's provider cannot be had.
        """
        self.contract = bundle.contract
        layout = bundle.contract.layout
        started = bundle.start()
        self.session = started.session
        self.provider = started.provider
        """What computes the graph: cpu, cuda or tensorrt."""
        self.notice = started.notice
        """What would have been preferred and did not start; empty if nothing."""
        self._check_interface(bundle)

        self.observation = np.zeros((1, layout.size), np.float32)
        """Normalised observation (1, D), masked channels zero."""
        self.mask = np.zeros((1, layout.size), np.float32)
        """(1, D), one where the channel is believed."""
        self.fresh = np.zeros((1, layout.size), np.float32)
        """(1, D), one where a reading arrived that the belief has not seen."""
        self.previous_action = np.zeros((1, layout.joints), np.float32)
        """Normalised action that was really commanded one tick ago (1, A)."""
        self.refine = np.zeros((1,), np.int64)
        """Largest number of refinement steps K."""
        self.tolerance = np.zeros((1,), np.float32)
        """The last step is the first one that was expected to lower F by no more than this (1,), nats."""
        self.steps = np.zeros((1,), np.int64)
        """Refinement steps that were made."""
        channels = (1, layout.size)
        self._answer = _Block(dict(zip(OUTPUTS, ((1, layout.joints), (1,), channels, channels))))
        answer = self._answer.arrays
        self.action = answer["action"]
        """Normalised action (1, A)."""
        self.free_energy = answer["free_energy"]
        """F after refinement (1,), nats."""
        self.innovation = answer["innovation"]
        """(x - predicted x) in predicted standard deviations (1, D); zero where masked."""
        self.verdict = answer["verdict"]
        """What the graph found of each channel (1, D): 0 believed, 1 frozen, 2 gated."""
        self._states = [_Block({s.name: s.shape for s in self.contract.states}) for _ in range(2)]
        self._bindings = [self._bind(self._states[i].arrays, self._states[1 - i].arrays) for i in range(2)]
        self._current = 0
        self.reset()

    def _check_interface(self, bundle: Bundle) -> None:
        states = [s.name for s in self.contract.states]
        expected_in = {*INPUTS, *(f"state.{s}" for s in states)}
        expected_out = {*OUTPUTS, *(f"next.{s}" for s in states)}
        got_in = {i.name for i in self.session.get_inputs()}
        got_out = {o.name for o in self.session.get_outputs()}
        if got_in != expected_in or got_out != expected_out:
            raise BundleError(
                f"{bundle.path}: the graph has inputs {sorted(got_in)} and outputs {sorted(got_out)}, the contract "
                f"expects {sorted(expected_in)} and {sorted(expected_out)}; export the agent again"
            )

    def _bind(self, read: dict[str, np.ndarray], write: dict[str, np.ndarray]) -> _Buffers:
        binding = self.session.io_binding()
        arrays: dict[str, np.ndarray] = {name: getattr(self, name) for name in (*INPUTS, *OUTPUTS)}
        arrays |= {f"state.{k}": v for k, v in read.items()} | {f"next.{k}": v for k, v in write.items()}
        for node in (*self.session.get_inputs(), *self.session.get_outputs()):
            shape = arrays[node.name].shape
            if tuple(node.shape) != shape:
                raise BundleError(
                    f"the graph's '{node.name}' has the shape {node.shape}, the contract makes it {list(shape)}; "
                    "export the agent again"
                )
        for node in self.session.get_inputs():
            a = arrays[node.name]
            binding.bind_input(node.name, "cpu", 0, a.dtype, a.shape, a.ctypes.data)
        for node in self.session.get_outputs():
            a = arrays[node.name]
            binding.bind_output(node.name, "cpu", 0, a.dtype, a.shape, a.ctypes.data)
        return _Buffers(binding, arrays)

    def run(self) -> None:
        """Infer and act on the bound inputs; the outputs and the carried state are updated in place."""
        self.session.run_with_iobinding(self._bindings[self._current].binding)
        self._current = 1 - self._current

    def reset(self) -> None:
        """Carried state to the contract's initial values."""
        for spec in self.contract.states:
            self.state[spec.name][...] = np.reshape(np.array(spec.initial, np.float32), spec.shape)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The state that the next tick reads, by name; valid until the next `run`."""
        return self._states[self._current].arrays

    @property
    def finite(self) -> bool:
        """Whether all that the last `run` answered is finite, and all that the next one will read."""
        return self._answer.finite and self._states[self._current].finite
