"""A bundle: one ONNX file whose metadata holds the contract. Reading it runs nothing and needs no onnx package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from runtime.contract import Contract
from runtime.errors import BundleError, ContractError, GanglionError
from runtime.providers import AUTO, Started, plans, start

METADATA_KEY = "ganglion.contract"
_GRAPH_FIELD, _METADATA_FIELD = 7, 14  # of onnx.ModelProto


@dataclass(frozen=True)
class Bundle:
    """A checked contract and the bytes of the ONNX model that it describes."""

    path: Path
    contract: Contract
    model: bytes
    provider: str = AUTO
    """What computes it, of `runtime.providers`."""

    @staticmethod
    def load(path: str | Path, provider: str = AUTO) -> Bundle:
        """Read and check a bundle.

        Raises BundleError if the file is absent, not an ONNX model, truncated, altered, or without a contract, and
        ContractError if the contract does not parse.
        """
        path = Path(path)
        try:
            model = path.read_bytes()
        except OSError as error:
            raise BundleError(f"cannot read the bundle {path}: {error.strerror}; check the path") from error
        digest, metadata = _scan(model, path)
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise BundleError(
                f"{path} holds no contract (metadata key '{METADATA_KEY}'); "
                "it is an ONNX file of another kind: make a bundle with 'ganglion export RUN -o FILE'"
            )
        try:
            contract = Contract.from_json(text)
        except ContractError as error:
            raise ContractError(f"{path}: {error}") from error
        if contract.digest != digest:
            raise BundleError(
                f"{path} is damaged or was altered: its graph has sha256 {digest[:12]}…, the contract says "
                f"{contract.digest[:12]}…; copy or export it again"
            )
        return Bundle(path, contract, model, provider)

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
    """sha256 of the graph of a serialised ONNX model. Raises BundleError if it is not one."""
    return _scan(model, Path("model"))[0]


def _scan(model: bytes, path: Path) -> tuple[str, dict[str, str]]:
    """Digest of the graph, and the metadata, from the top-level fields of a serialised onnx.ModelProto."""
    graph: bytes | None = None
    metadata: dict[str, str] = {}
    try:
        for number, value in _fields(model):
            if number == _GRAPH_FIELD:
                graph = value
            elif number == _METADATA_FIELD:
                entry = dict(_fields(value))
                metadata[entry.get(1, b"").decode()] = entry.get(2, b"").decode()
    except (IndexError, ValueError) as error:
        raise BundleError(
            f"{path} is not a bundle, or is cut short ({len(model)} bytes, {error}); copy or export it again"
        ) from error
    if graph is None:
        raise BundleError(
            f"{path} is not a bundle: it holds no ONNX graph; make one with 'ganglion export RUN -o FILE'"
        )
    return hashlib.sha256(graph).hexdigest(), metadata


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields of a protobuf message as (number, payload); numbers come with an empty payload."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            _, position = _varint(data, position)
            yield number, b""
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + length > len(data):
            raise ValueError(f"a field of {length} bytes at byte {position} runs past the end")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data):
            raise ValueError(f"the file ends inside a number at byte {position}")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number too long at byte {position}")
