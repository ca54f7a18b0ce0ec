"""Ed25519 signatures of bundles: who made a file, and that nothing in it was changed since.

The signature is the last record of the file, the metadata entry `ganglion.signature`, and covers every byte before it:
graph, weights, operator sets and contract. Its text is `ed25519:PUBLIC:SIGNATURE`, both in hexadecimal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import BundleError, GanglionError
from runtime.extras import explain_missing
from runtime.files import write_bytes
from runtime.modelfile import ModelError, last_record, metadata_record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_KEY = "ganglion.signature"
_KEYGEN = "'ganglion keygen'"
_TEXT = re.compile(r"ed25519:([0-9a-f]{64}):([0-9a-f]{128})")


def make_keys(path: Path) -> Path:
    """Write a new private key to `path`, for its owner alone, and the public one beside it; returns the latter.

    Both are PEM, as OpenSSL reads them. Raises GanglionError if one of the files is there, or cannot be written.
    """
    serialization, ed25519 = _library()
    public = path.with_name(path.name + ".pub")
    if public.exists():
        raise GanglionError(f"{public} is there already; choose another name, so that no key is lost")
    private = ed25519.Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    except FileExistsError as error:
        raise GanglionError(f"{path} is there already; choose another name, so that no key is lost") from error
    except OSError as error:
        raise GanglionError(f"cannot write {path}: {error.strerror}; choose another place for it") from error
    write_bytes(public, private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public


def sign(model: bytes, key: Path) -> bytes:
    """`model` with a signature by the private key in the file `key`, in place of one that it may have.

    Raises GanglionError if the key cannot be read, ModelError if the bytes are no ONNX model.
    """
    private = _private_key(key)
    begin, name, _ = last_record(model)
    signed = model[:begin] if name == SIGNATURE_KEY else model
    public = _raw(private.public_key()).hex()
    return signed + metadata_record(SIGNATURE_KEY, f"ed25519:{public}:{private.sign(signed).hex()}")


def signer(model: bytes) -> str:
    """Public key in hexadecimal of whom the file says signed it, unverified; empty if it is not signed."""
    _, key, text = last_record(model)
    match = _TEXT.fullmatch(text) if key == SIGNATURE_KEY else None
    return match[1] if match else ""


def verify(model: bytes, trusted: Sequence[str | Path], name: str) -> str:
    """The trusted public key, in hexadecimal, by which `model` is signed.

    `trusted` are PEM files; `name` is what errors call the model. Raises BundleError if it is not signed, not by one of
    them, or was changed since, and GanglionError if a key cannot be read.
    """
    keys = {_raw(key).hex(): key for key in map(_public_key, trusted)}
    from cryptography.exceptions import InvalidSignature

    try:
        begin, key, text = last_record(model)
    except ModelError as error:
        raise BundleError(f"{name} is not a bundle, or is cut short ({error}); copy or export it again") from error
    match = _TEXT.fullmatch(text) if key == SIGNATURE_KEY else None
    known = ", ".join(f"{k[:16]}…" for k in keys)
    if match is None:
        raise BundleError(
            f"{name} is not signed, and only bundles signed by {known} are trusted: sign it with 'ganglion sign'"
        )
    public, signature = match[1], bytes.fromhex(match[2])
    if public not in keys:
        raise BundleError(
            f"{name} is signed by the key {public[:16]}…, trusted are only {known}: sign it with one of these keys, or "
            "trust that key too"
        )
    try:
        keys[public].verify(signature, model[:begin])
    except InvalidSignature as error:
        raise BundleError(
            f"{name} was altered after {public[:16]}… signed it: its signature does not fit; copy or sign it again"
        ) from error
    return public


def _library() -> tuple[Any, Any]:
    """What is used of `cryptography`. Raises GanglionError if it is not installed."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as error:
        raise GanglionError(explain_missing(error)) from error
    return serialization, ed25519


def _raw(key: Ed25519PublicKey) -> bytes:
    serialization, _ = _library()
    raw: bytes = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw


def _private_key(path: Path) -> Ed25519PrivateKey:
    serialization, ed25519 = _library()
    key = _read_key(path, lambda pem: serialization.load_pem_private_key(pem, None), "private key without a password")
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise GanglionError(f"{path} is a private key of another kind, expected Ed25519; make one with {_KEYGEN}")
    return key


def _public_key(path: str | Path) -> Ed25519PublicKey:
    serialization, ed25519 = _library()
    key = _read_key(Path(path), serialization.load_pem_public_key, "public key")
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise GanglionError(f"{path} is a public key of another kind, expected Ed25519; make one with {_KEYGEN}")
    return key


def _read_key(path: Path, parse: Callable[[bytes], Any], kind: str) -> Any:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise GanglionError(f"cannot read the key {path}: {error.strerror}; make one with {_KEYGEN}") from error
    except Exception as error:  # the library raises many unrelated types
        raise GanglionError(f"{path} is no {kind} in PEM; give a file that {_KEYGEN} wrote") from error
