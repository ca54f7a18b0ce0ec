from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.bundle import Bundle
from runtime.errors import BundleError, GanglionError
from runtime.signature import SIGNATURE_KEY, make_keys, sign, signer, verify
from tests.tiny_bundle import write_tiny_bundle

same_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Private key; the public one is beside it."""
    path = tmp_path_factory.mktemp("keys") / "fleet"
    assert make_keys(path) == path.with_name("fleet.pub")
    return path


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    path = write_tiny_bundle(tmp_path_factory.mktemp("signed") / "bundle.onnx", "cartpole", gain=0.3)
    path.write_bytes(sign(path.read_bytes(), keys))
    return path


def public(keys: Path) -> Path:
    return keys.with_name(keys.name + ".pub")


def test_a_signed_bundle_loads_with_and_without_the_key(signed: Path, keys: Path) -> None:
    trusted = Bundle.load(signed, trusted_keys=[public(keys)])
    assert trusted.verified == signer(trusted.model)
    assert len(trusted.verified) == 64
    assert Bundle.load(signed).verified == ""
    assert trusted.contract == Bundle.load(signed).contract


def test_an_unsigned_one_and_one_of_another_key_are_refused(signed: Path, keys: Path, tmp_path: Path) -> None:
    other = make_keys(tmp_path / "other")
    unsigned = write_tiny_bundle(tmp_path / "unsigned.onnx", "cartpole")
    with pytest.raises(BundleError, match=r"unsigned\.onnx is not signed, .*'ganglion sign'"):
        Bundle.load(unsigned, trusted_keys=[public(keys)])
    with pytest.raises(BundleError, match=r"is signed by the key \w{16}…, trusted are only \w{16}…"):
        Bundle.load(signed, trusted_keys=[other])
    assert Bundle.load(signed, trusted_keys=[other, public(keys)]).verified


@same_files
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_refused(where: float, bit: int, signed: Path, keys: Path) -> None:
    data = bytearray(signed.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    with pytest.raises(BundleError):
        verify(bytes(data), [public(keys)], "it")


@pytest.mark.parametrize("more", [b"", b"\x08\x09", b"\x72\x00"])
def test_what_is_added_or_left_out_is_refused(more: bytes, signed: Path, keys: Path) -> None:
    """A record before, or one behind the signature; and the signature of another file."""
    data = signed.read_bytes()
    verify(data, [public(keys)], "it")
    for changed in [more + data, data + more] if more else [data[:-1], data + data]:
        with pytest.raises(BundleError):
            verify(changed, [public(keys)], "it")


def test_signing_again_replaces_the_signature(signed: Path, keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "second")
    again = sign(signed.read_bytes(), tmp_path / "second")
    assert len(again) == len(signed.read_bytes())
    assert sign(again, keys) == signed.read_bytes(), "Ed25519 signs alike twice"
    verify(again, [tmp_path / "second.pub"], "it")


def test_the_signature_is_metadata_of_the_model_and_covers_all_before_it(signed: Path, keys: Path) -> None:
    """By the library and the words of docs/bundle.md alone."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data = signed.read_bytes()
    entry = next(p for p in onnx.load_model_from_string(data).metadata_props if p.key == SIGNATURE_KEY)
    kind, key, signature = entry.value.split(":")
    assert kind == "ed25519"
    record = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    assert data.endswith(record)
    own = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    own.verify(bytes.fromhex(signature), data.removesuffix(record))


def test_keys_are_for_their_owner_alone_and_never_overwritten(keys: Path, tmp_path: Path) -> None:
    assert keys.stat().st_mode & 0o777 == 0o600
    before = keys.read_bytes()
    with pytest.raises(GanglionError, match=r"fleet\.pub is there already"):
        make_keys(keys)
    (tmp_path / "lonely").touch()
    with pytest.raises(GanglionError, match="lonely is there already"):
        make_keys(tmp_path / "lonely")
    assert keys.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read the key .*: No such file.*'ganglion keygen'"),
        (b"", "is no public key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is no public key in PEM"),
    ],
)
def test_keys_that_are_none(content: bytes | None, message: str, signed: Path, tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GanglionError, match=message):
        Bundle.load(signed, trusted_keys=[path])


def test_the_private_key_is_asked_for_where_it_is_needed(signed: Path, keys: Path) -> None:
    with pytest.raises(GanglionError, match="is no private key without a password in PEM"):
        sign(signed.read_bytes(), public(keys))
    with pytest.raises(GanglionError, match="is no public key in PEM"):
        Bundle.load(signed, trusted_keys=[keys])


def test_without_the_library_it_is_one_error(signed: Path, keys: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from runtime.bundle import Bundle\nfrom runtime.errors import GanglionError\n"
        f"Bundle.load({str(signed)!r})\n"
        f"try:\n    Bundle.load({str(signed)!r}, trusted_keys=[{str(public(keys))!r}])\n"
        "except GanglionError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install 'ganglion[sign]'" in done.stdout
