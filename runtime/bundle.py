"""A bundle: one ONNX file whose metadata holds the contract. Reading it runs nothing and needs no onnx package."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from runtime.contract import Contract
from runtime.errors import BundleError, ContractError, GanglionError
from runtime.modelfile import ModelError, ModelFile, read_model
from runtime.providers import AUTO, Started, plans, start
from runtime.signature import verify

METADATA_KEY = "ganglion.contract"
LARGEST_BYTES = 512_000_000
"""No tick could read more weights in time."""


@dataclass(frozen=True)
class Bundle:
    """A checked contract and the bytes of the ONNX model that it describes."""

    path: Path
    contract: Contract
    model: bytes
    provider: str = AUTO
    """What computes it, of `runtime.providers`."""
    verified: str = ""
    """The trusted public key whose signature was verified, in hexadecimal; empty if none was asked for."""

    @staticmethod
    def load(path: str | Path, provider: str = AUTO, trusted_keys: Sequence[str | Path] = ()) -> Bundle:
        """Read and check a bundle, which runs nothing and opens no other file.

        With `trusted_keys`, files of public keys, only a bundle that one of them signed is loaded. Raises BundleError
        if it is not, or if the file is absent, not an ONNX model, truncated, altered, without a contract, refers to
        other files, or needs operators that a stock onnxruntime lacks; ContractError if the contract does not parse or
        is of a version that this runtime cannot read.
        """
        path = Path(path)
        model = read_bytes(path)
        signed_by = verify(model, trusted_keys, str(path)) if trusted_keys else ""
        try:
            file = read_model(model)
        except ModelError as error:
            raise BundleError(
                f"{path} is not a bundle, or was cut short or altered ({len(model)} bytes: {error}); copy or export it "
                "again"
            ) from error
        text = file.metadata.get(METADATA_KEY)
        if text is None:
            raise BundleError(
                f"{path} holds no contract (metadata key '{METADATA_KEY}'); "
                "it is an ONNX file of another kind: make a bundle with 'ganglion export RUN -o FILE'"
            )
        try:
            contract = Contract.from_json(text)
        except ContractError as error:
            raise ContractError(f"{path}: {error}") from error
        if contract.digest != file.digest:
            raise BundleError(
                f"{path} is damaged or was altered: its graph has sha256 {file.digest[:12]}…, the contract says "
                f"{contract.digest[:12]}…; copy or export it again"
            )
        return Bundle(path, contract, model, provider, signed_by)

    @property
    def file(self) -> ModelFile:
        """Operators, versions and metadata of the model."""
        return read_model(self.model)

    def start(self) -> Started[ort.InferenceSession]:
        """An onnxruntime session for the control loop: one thread, no spinning.

        Raises BundleError if onnxruntime refuses the graph, and GanglionError if the provider cannot be had.
        """
        options = ort.SessionOptions()
        options.enable_mem_reuse = False  # planning who shares which buffer costs more than it saves on small tensors
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the bytes look like
        options.log_severity_level = 3

        def make(providers: list[str]) -> ort.InferenceSession:
            # onnxruntime's own way to fall back prints.
            return ort.InferenceSession(self.model, options, providers=providers, enable_fallback=0)

        asked = plans(self.provider, ort.get_available_providers(), len(self.model))
        try:
            return start(asked, make)
        except GanglionError:
            raise
        except Exception as error:  # onnxruntime raises many unrelated types
            first_line = str(error).strip().splitlines()[0]
            raise BundleError(f"onnxruntime {ort.__version__} refuses {self.path}: {first_line}") from error


def graph_digest(model: bytes) -> str:
    """sha256 of the graph of a serialised ONNX model. Raises ModelError if it is not one."""
    return read_model(model).digest


def read_bytes(path: Path) -> bytes:
    """What a file holds that may be a bundle. Raises BundleError if it is none, is too large, or cannot be read."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device has no end
            raise BundleError(f"cannot read the bundle {path}: it is no file; check the path")
        if found.st_size > LARGEST_BYTES:
            raise BundleError(
                f"{path} has {found.st_size / 1e6:.0f} MB, a bundle {LARGEST_BYTES / 1e6:.0f} at most; check the path"
            )
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read the bundle {path}: {error.strerror}; check the path") from error
