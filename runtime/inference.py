"""The bundle's graph, called once per tick on buffers that were bound once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from runtime.bundle import Bundle
from runtime.errors import BundleError

INPUTS = ("observation", "mask", "previous_action", "refine")
OUTPUTS = ("action", "free_energy", "innovation")


@dataclass(frozen=True)
class _Buffers:
    binding: ort.IOBinding
    arrays: dict[str, np.ndarray]


class Inference:
    """Amortized answer and K refinement steps of one bundle, with its carried state.

    The states are double-buffered: even ticks read one set and write the other, so nothing is copied or allocated.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError if the graph's inputs and outputs are not those of the contract."""
        self.contract = bundle.contract
        layout = bundle.contract.layout
        self.session = bundle.session()
        self._check_interface(bundle)

        self.observation = np.zeros((1, layout.size), np.float32)
        """Normalised observation (1, D), masked channels zero."""
        self.mask = np.zeros((1, layout.size), np.float32)
        """(1, D), one where the channel is believed."""
        self.previous_action = np.zeros((1, layout.joints), np.float32)
        """Normalised action that was really commanded one tick ago (1, A)."""
        self.refine = np.zeros((1,), np.int64)
        """Number of refinement steps K."""
        self.action = np.zeros((1, layout.joints), np.float32)
        """Normalised action (1, A)."""
        self.free_energy = np.zeros((1,), np.float32)
        """F after refinement, nats."""
        self.innovation = np.zeros((1, layout.size), np.float32)
        """(x - predicted x) in predicted standard deviations (1, D); zero where masked."""
        self._states = [{s.name: np.zeros(s.shape, np.float32) for s in self.contract.states} for _ in range(2)]
        self._bindings = [self._bind(self._states[i], self._states[1 - i]) for i in range(2)]
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
            self._states[self._current][spec.name][...] = np.reshape(np.array(spec.initial, np.float32), spec.shape)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The state that the next tick reads, by name; valid until the next `run`."""
        return self._states[self._current]
